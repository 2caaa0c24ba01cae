"""Writes ``docs/OPTIONS.md`` from the configurations: ``python -m fluxduel.headless.options_document``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..training.themes import THEMES
from .option_flags import ALIASES, aliases_of, shown_value
from .run_config import RunConfig
from .workflow_graph import OPTIONS

DOCUMENT = Path(__file__).parent.parent / "docs" / "OPTIONS.md"
COMMAND = "python -m fluxduel.headless.options_document"

HEADLESS_ONLY = "headless only"
# Section -> the node with its widgets; and what differs, by option.
NODES = {
    "base": "Load FLUX LoRA",
    "start": HEADLESS_ONLY,
    "lora": "Load FLUX LoRA",
    "images": "Load Dataset Images",
    "encoders": HEADLESS_ONLY,
    "data": "Encode Real Latents",
    "diffusion": "Stage 1: Train LoRA",
    "discriminator": "Latent Discriminator",
    "adversarial": "Stage 2: Train LoRA with GAN",
    "output": HEADLESS_ONLY,
    "trackers": HEADLESS_ONLY,
}
EXCEPTIONS = {
    "base.device": HEADLESS_ONLY,
    "base.shard": HEADLESS_ONLY,
    "base.sampling_base": "both stages, Evaluate FLUX LoRA (sampling_base)",
    "start.lora": "Load FLUX LoRA (lora)",
    "start.discriminator": "Latent Discriminator (continue_from)",
    "output.format": "Save FLUX LoRA",
    "output.dtype": "Save FLUX LoRA",
}

INTRODUCTION = f"""\
# Options

Every option of both stages, from the configurations themselves: `{COMMAND}` writes this page.

A run without ComfyUI takes them from a JSON file of sections, from flags, or from both:

```sh
python -m fluxduel train config.json --adversarial.learning_rate 1e-5 --output.folder output/second
```

- **Precedence.** A flag wins over the file, the file over the default. Two flags for one option are an error, but its
  own flag may follow a short name for several.
- **The file** is an object of sections, each an object of options; see
  [`config/config.json.example`](../config/config.json.example). What is left out takes its default. What is
  unknown, out of range, given twice or no JSON is an error, told with its line. Paths of Windows are written with
  slashes, `C:/pictures`, or with each backslash twice.
- **Flags** are `--section.option value` or `--section.option=value`. true and false are written out; a flag alone means
  true. The config file comes before such a flag.
- `python -m fluxduel train config.json --print_config` prints the whole configuration and trains nothing.
- `accelerate launch -m fluxduel train config.json` trains on several GPUs. Batch sizes are then per GPU.
- In the graph the same options are widgets of the node in the column *node*, with the same ranges and defaults.

`python -m fluxduel sample`, `evaluate`, `inspect`, `convert` and `workflow` make pictures with a LoRA, measure LoRAs,
describe a file, write a base in int8 and make a configuration from a saved graph; each says with `--help` what it
takes.

The exit status is 0 when all is done, 1 when training failed or a file could not be written, 2 when the arguments, the
configuration, the pictures or the model files are wrong, and 128 plus a signal's number when that has stopped the
run: 130 Ctrl-C, 143 SIGTERM, 129 a closed terminal. A stopped run goes on when the same command is given again.
"""

GOES_ON = "A run may go on with another value."


def document() -> str:
    """The whole page."""
    parts = [INTRODUCTION, _aliases()]
    for section, config in RunConfig.sections().items():
        rows = [_row(option, field) for option, field in RunConfig.options() if option.split(".")[0] == section]
        head = "| option | type and range | default | effect | node | flags |\n|---|---|---|---|---|---|"
        parts.append(f"## {section}\n\n{_first_line(config)}\n\n{head}\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    DOCUMENT.write_text(document(), encoding="utf-8")


def _aliases() -> str:
    rows = [f"| `--{alias}` | {', '.join(f'`{option}`' for option in options)} |" for alias, options in ALIASES.items()]
    text = (
        "Most are what other trainers call the same thing. `--seed` leaves `data.seed` as it is, so that runs with "
        "different seeds\nhold out the same pictures."
    )
    return f"## Short names\n\n{text}\n\n| flag | sets |\n|---|---|\n" + "\n".join(rows) + "\n"


def _first_line(config: type) -> str:
    return (config.__doc__ or "").strip().splitlines()[0]


def _row(option: str, field: dataclasses.Field) -> str:
    section, name = option.split(".")
    effect = field.metadata["help"]
    if section in ("diffusion", "adversarial") and not field.metadata["shapes_result"]:
        effect += f" {GOES_ON}"
    flags = ", ".join(f"`--{flag}`" for flag in (option, *aliases_of(option)))
    cells = [
        f"`{name}`",
        _range(field),
        f"`{shown_value(field.default)}`" if field.default != "" else "empty",
        effect,
        EXCEPTIONS.get(option) or _option_node(section, name) or NODES[section],
        flags,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _option_node(section: str, name: str) -> str | None:
    """The node of an option that its stage has no widget for."""
    if section not in ("diffusion", "adversarial"):
        return None
    return next((title for title, names in zip(OPTIONS.values(), THEMES.values(), strict=True) if name in names), None)


def _range(field: dataclasses.Field) -> str:
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(f"`{choice}`" for choice in choices)
    kind = {bool: "true or false", int: "whole number", float: "number", str: "text"}[type(field.default)]
    bounds = [] if low is None else [f"from {_bound(low)}"]
    bounds += [] if high is None else [f"to {_bound(high)}"]
    return " ".join([kind, *bounds])


def _bound(value: float) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else str(value) if isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    main()
