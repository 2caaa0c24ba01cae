"""Every option of a ``RunConfig`` as a flag, short names beside them, and what a file and flags together give."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training.failure_words import reason
from .run_config import RunConfig

# Short name -> the options that it sets. Most are what other trainers call the same thing. ``seed`` leaves data.seed as
# it is: runs with different seeds are then compared on the same held-out pictures.
ALIASES: dict[str, tuple[str, ...]] = {
    "pretrained_model_name_or_path": ("base.checkpoint",),
    "instance_data_dir": ("images.folder",),
    "output_dir": ("output.folder",),
    "output_name": ("output.name",),
    "rank": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "resolution": ("data.resolution",),
    "random_flip": ("data.flip",),
    "train_batch_size": ("diffusion.batch_size", "adversarial.batch_size"),
    "gradient_accumulation_steps": ("diffusion.gradient_accumulation", "adversarial.gradient_accumulation"),
    "gradient_checkpointing": ("diffusion.gradient_checkpointing", "adversarial.gradient_checkpointing"),
    "checkpointing_steps": ("diffusion.checkpoint_every", "adversarial.checkpoint_every"),
    "checkpoints_total_limit": ("diffusion.keep_last", "adversarial.keep_last"),
    "learning_rate": ("diffusion.learning_rate",),
    "max_train_steps": ("diffusion.steps",),
    "lr_scheduler": ("diffusion.lr_schedule",),
    "lr_warmup_steps": ("diffusion.lr_warmup_steps",),
    "use_latent_adv": ("start.adversarial",),
    "latent_adv_loss_weight": ("adversarial.adversarial_weight",),
    "adv_loss_type": ("discriminator.loss",),
    "adv_steps": ("adversarial.steps",),
    "adv_learning_rate": ("adversarial.learning_rate",),
    "target_steps": ("adversarial.target_steps",),
    "disc_type": ("discriminator.architecture",),
    "disc_lr": ("discriminator.learning_rate",),
    "disc_warmup_steps": ("adversarial.discriminator_warmup",),
    "disc_updates": ("adversarial.discriminator_updates",),
    "report_to": ("trackers.trackers",),
    "seed": ("lora.seed", "diffusion.seed", "discriminator.seed", "adversarial.seed"),
}

# The options that name a file or a folder: ~ in them is the user's home, as a shell has it.
PATHS = (
    "base.checkpoint",
    "start.lora",
    "start.discriminator",
    "images.folder",
    "encoders.folder",
    "encoders.vae",
    "output.folder",
    "output.cache",
)

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def aliases_of(option: str) -> list[str]:
    """The short names that set ``option``, alone or with others."""
    return [alias for alias, options in ALIASES.items() if option in options]


def add_flags(parser: argparse.ArgumentParser, sections: Iterable[str]) -> None:
    """Give ``parser`` a flag for each option of ``sections``, and the short names that set nothing but such options.

    What is given is collected in ``settings`` of the parsed arguments, ``section.option`` -> value; the last one wins.
    """
    parser.set_defaults(settings={})
    known = dict(RunConfig.options())
    wanted = list(sections)
    for section in wanted:
        group = parser.add_argument_group(section, RunConfig.sections()[section].__doc__)
        for option, field in known.items():
            if option.split(".")[0] == section:
                alone = [alias for alias in aliases_of(option) if len(ALIASES[alias]) == 1]
                names = [f"--{name}" for name in (option, *alone)]
                _add(group, names, (option,), field, _help(field))
    group = parser.add_argument_group("short for several options")
    for alias, options in ALIASES.items():
        if len(options) > 1 and all(option.split(".")[0] in wanted for option in options):
            _add(group, [f"--{alias}"], options, known[options[0]], f"Short for {', '.join(options)}.")


def _add(group: Any, names: list[str], options: tuple[str, ...], field: dataclasses.Field, help: str) -> None:
    kind = type(field.default)
    extra = {"nargs": "?", "const": True} if kind is bool else {}
    group.add_argument(
        *names,
        action=_Setting,
        options=options,
        type=_READERS[kind],
        metavar={bool: "true|false", int: "N", float: "X", str: "TEXT"}[kind],
        help=help.replace("%", "%%"),
        default=argparse.SUPPRESS,
        **extra,
    )


class _Setting(argparse.Action):
    """Writes the value under each of its options."""

    def __init__(self, *args: Any, options: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = options

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        # A new dict each time: the parser's own default would be changed otherwise.
        namespace.settings = {**namespace.settings, **dict.fromkeys(self._options, values)}


def _help(field: dataclasses.Field) -> str:
    choices = field.metadata["choices"]
    one_of = f" One of {', '.join(choices)}." if choices else ""
    return f"{field.metadata['help']}{one_of} (default: {shown_value(field.default)})"


def shown_value(value: Any) -> str:
    """A value as it is written on the command line; ``empty`` for an empty text."""
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(
            f"takes true or false, got {text!r}. Alone it means true; a file that follows it must come before it."
        )
    return _BOOLEANS[text.lower()]


def _number(kind: type, words: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"takes {words}, got {text!r}.") from error

    return read


_READERS: dict[type, Callable[[str], Any]] = {
    bool: _boolean,
    int: _number(int, "a whole number"),
    float: _number(float, "a number"),
    str: str,
}


def configuration(file: Path | None, settings: Mapping[str, Any]) -> RunConfig:
    """That of ``file``, where one is given, with ``settings`` (``section.option`` -> value) on top.

    Raises ``ValueError`` that names the file or the option for what is missing, no JSON, unknown or out of range.
    """
    values = {} if file is None else _read(file)
    for option, value in settings.items():
        section, name = option.split(".")
        values.setdefault(section, {})[name] = value
    for option in PATHS:
        section, name = option.split(".")
        path = values.get(section, {}).get(name)
        if isinstance(path, str):
            values[section][name] = os.path.expanduser(path)
    return RunConfig.from_values(values)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        values = json.loads(file.expanduser().read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no configuration file {file}. Check its path.") from error
    except OSError as error:
        raise ValueError(f"The configuration file {file} cannot be read: {reason(error)}.") from error
    except ValueError as error:
        raise ValueError(f"The configuration file {file} is no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a JSON object of sections, got {type(values).__name__}.")
    sections = RunConfig.sections()
    known = [option for option, _ in RunConfig.options()]
    for section, given in values.items():
        if section not in sections:
            raise ValueError(f"{file}: there is no section {section}.{did_you_mean(section, list(sections))}")
        if not isinstance(given, dict):
            raise ValueError(f"{file}: section {section} must be a JSON object of options, got {given!r}.")
        for name in given:
            if (option := f"{section}.{name}") not in known:
                raise ValueError(f"{file}: there is no option {option}.{did_you_mean(option, known)}")
    return values


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`` Did you mean x?``, with the known name that is most like ``name``; empty where none is.

    A name that is right but for its section comes first.
    """
    section, _, tail = name.rpartition(".")
    elsewhere = [each for each in known if section and each.rpartition(".")[2] == tail]
    found = difflib.get_close_matches(name, elsewhere or known, n=1, cutoff=0.0 if elsewhere else 0.6)
    return f" Did you mean {found[0]}?" if found else ""
