"""``python -m fluxduel``: train, sample, evaluate, inspect, convert, workflow."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..training.config import NEIGHBOURS, SAMPLERS
from ..training.failure_words import in_words
from ..training.step_counts import step_counts
from .config_file import check_system, configuration, did_you_mean, given_values
from .lasting_output import deliver, lasting_output
from .option_flags import Once, add_flags
from .run_config import RunConfig

FAILED, WRONG_INPUT, STOPPED_AT_ONCE = 1, 2, 130
SEED_LIMIT = 2**63 - 1 - 4096
MOST_GUIDANCE = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status.

    0: done; 1: training failed, or a file could not be written; 2: arguments, configuration, pictures or model files
    are wrong; 128 and a signal's number: stopped by that, such as 130 by SIGINT, 143 by SIGTERM, 129 by SIGHUP.
    """
    with lasting_output():
        logging.basicConfig(format="%(levelname)s: %(message)s")
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt:
            return STOPPED_AT_ONCE


def _run(arguments: Sequence[str]) -> int:
    parser, commands = parsers()
    options, unknown = parser.parse_known_args(arguments)
    try:
        if unknown:
            raise ValueError(_unknown(unknown[0], commands[options.command]))
        _check_paths(options)
        return options.run(options)
    except ValueError as error:
        return _complain(str(error), WRONG_INPUT)
    except OSError as error:
        return _complain(in_words(error), FAILED)


def _check_paths(options: argparse.Namespace) -> None:
    for name, value in vars(options).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                check_system(name if name in ("config", "file", "graph") else f"--{name}", str(path))


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole parser, and that of each command."""
    parser = _Parser(prog="python -m fluxduel", description="Two-stage LoRA training for FLUX.", allow_abbrev=False)
    chosen = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    commands = {
        name: chosen.add_parser(
            name, help=help, description=help, usage=f"{parser.prog} {name} {usage}", allow_abbrev=False
        )
        for name, help, usage in _COMMANDS
    }
    _train_arguments(commands["train"])
    _sample_arguments(commands["sample"])
    _evaluate_arguments(commands["evaluate"])
    _inspect_arguments(commands["inspect"])
    _convert_arguments(commands["convert"])
    _workflow_arguments(commands["workflow"])
    return parser, commands


_COMMANDS = (
    ("train", "Train a LoRA in two stages.", "[config.json] [--section.option value ...]"),
    ("sample", "Make pictures with a LoRA.", "--lora FILE --prompt TEXT [config.json] [--section.option value ...]"),
    ("evaluate", "Measure LoRAs against the pictures they were trained on.", "--lora FILE [--lora FILE] config.json"),
    ("inspect", "Say what is in the file of a LoRA, a discriminator or a base.", "FILE [--json]"),
    ("convert", "Write a base as an int8 file, for ComfyUI too.", "--base FILE --output FILE [--precision int8]"),
    ("workflow", "Make a configuration from a saved ComfyUI graph.", "GRAPH.json [--models FOLDER] [--out FILE]"),
)


class _Parser(argparse.ArgumentParser):
    """One line on stderr for what is wrong: the usage would be a page. No flag may be given twice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("action", None, Once)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"{self.prog}: {message}\n")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _add_configuration(parser, RunConfig.sections())
    parser.add_argument(
        "--print_config", action="store_true", help="print the whole configuration as JSON, and train nothing"
    )
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    given = given_values(options.config, options.settings)
    config = RunConfig.from_values(given)
    if options.print_config:
        deliver(config.to_json() + "\n")
        return 0
    # Here and not above: help and --print_config need no torch, which takes seconds.
    from ..training.runs.run_directory import RunDirectoryError
    from . import train_command as headless
    from .stop_signals import Interrupted

    try:
        headless.train(config, given.get("lora", ()))
    except Interrupted as stopped:
        return _complain(str(stopped), stopped.code)
    except RunDirectoryError as error:
        return _complain(str(error), WRONG_INPUT)
    except headless.RunFailed as failure:
        return _complain(str(failure), FAILED)
    return 0


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    _add_configuration(parser, ("base", "encoders"))
    parser.add_argument("--lora", type=Path, required=True, metavar="FILE", help="the LoRA to sample with")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; may be given again")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt a line")
    for side in ("width", "height"):
        parser.add_argument(
            f"--{side}", type=_number(16, 4096),
            help="in pixels, a multiple of 16 (default: data.resolution of the configuration, else what the LoRA was "
            "trained at)",
        )  # fmt: skip
    parser.add_argument(
        "--steps", type=_step_counts,
        help="sampling steps, such as 4 or 4,25 (default: what stage 2 trained the LoRA for, else the 4 of a base that "
        "is distilled for few, else 25)",
    )  # fmt: skip
    parser.add_argument("--count", type=_number(1, 4096), default=1, help="pictures for each prompt (default: 1)")
    parser.add_argument(
        "--negative_prompt", default="", metavar="TEXT", help="what pictures are led away from where cfg is not 1"
    )
    _add_sampling(parser, "pictures")
    parser.set_defaults(run=_sample)


def _sample(options: argparse.Namespace) -> int:
    from .sample_command import read_prompts, sample_pictures

    given = given_values(options.config, options.settings)
    config = RunConfig.from_values(given)
    sample_pictures(
        config,
        options.lora,
        read_prompts(options.prompt, options.prompts),
        width=options.width,
        height=options.height,
        resolution=config.data.resolution if "resolution" in given.get("data", {}) else None,
        step_counts=options.steps,
        count=options.count,
        seed=options.seed,
        guidance=options.guidance,
        cfg=options.cfg,
        negative_prompt=options.negative_prompt,
        sampler=options.sampler,
        folder=options.out or Path("pictures"),
    )
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _add_configuration(parser, ("base", "images", "encoders", "data", "output"))
    parser.add_argument(
        "--lora", type=Path, action="append", required=True, metavar="FILE",
        help="a LoRA; may be given again: the last one is judged against the others",
    )  # fmt: skip
    parser.add_argument("--bare_base", action="store_true", help="compare with the base without a LoRA too")
    parser.add_argument(
        "--step_counts", type=_step_counts, default=(4, 25), help="numbers of sampling steps (default: 4,25)"
    )
    parser.add_argument(
        "--count", type=_number(4, 1024), default=32, help="pictures for each LoRA and number of steps (default: 32)"
    )
    parser.add_argument("--pictures", type=_number(1, 16), default=4, help="pictures to show of each (default: 4)")
    parser.add_argument(
        "--neighbours", choices=NEIGHBOURS, default=NEIGHBOURS[0],
        help="sample the last LoRA also otherwise: another sampler, twice the steps, strength 0.7 and 1.3, practice "
        "prompts, no prompt; auto: where "
        "that takes no longer than all the rest (default: auto)",
    )  # fmt: skip
    _add_sampling(parser, "evaluation, in output.folder")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluate_command import evaluate_loras

    config = configuration(options.config, options.settings)
    evaluate_loras(
        config,
        options.lora,
        bare_base=options.bare_base,
        step_counts=options.step_counts,
        count=options.count,
        pictures=options.pictures,
        seed=options.seed,
        guidance=options.guidance,
        cfg=options.cfg,
        sampler=options.sampler,
        neighbours=options.neighbours,
        folder=options.out or Path(config.output.folder) / "evaluation",
    )
    return 0


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    what = "a .safetensors or .gguf file, the folder of a run, or one in diffusers' layout"
    parser.add_argument("file", type=Path, help=what)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from .inspect_command import describe, describe_json

    file = options.file.expanduser()
    text = json.dumps(describe_json(file), indent=2) if options.json else describe(file)
    deliver(f"{text}\n")
    return 0


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", type=Path, required=True, metavar="FILE", help="a base, in any format that is read")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument(
        "--precision", choices=("int8_convrot", "int8"), default="int8_convrot",
        help="how it will be trained on (default: int8_convrot)",
    )  # fmt: skip
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from .convert_command import convert

    convert(options.base.expanduser(), options.output.expanduser(), options.precision)
    return 0


def _workflow_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, help="a graph that ComfyUI has saved: .json, or a picture made with it")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="ComfyUI's models folder, to find files in")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the configuration there instead of stdout")
    parser.set_defaults(run=_workflow)


def _workflow(options: argparse.Namespace) -> int:
    from ..training.atomic_file import write_whole
    from .workflow_config import from_workflow
    from .workflow_graph import read_workflow

    text = read_workflow(options.graph.expanduser())
    try:
        config, notes = from_workflow(text, options.models)
    except ValueError as error:
        raise ValueError(f"{options.graph}: {error}") from error
    for note in notes:
        sys.stderr.write(f"{note}\n")
    text = config.to_json() + "\n"
    if options.out is None:
        deliver(text)
    else:
        write_whole(options.out.expanduser(), text.encode())
    return 0


def _add_configuration(parser: argparse.ArgumentParser, sections: Sequence[str]) -> None:
    parser.add_argument("config", nargs="?", type=Path, metavar="config.json", help="sections of options, as JSON")
    add_flags(parser, sections)


def _add_sampling(parser: argparse.ArgumentParser, folder: str) -> None:
    parser.add_argument(
        "--seed", type=_number(0, SEED_LIMIT), default=0,
        help="of the first picture's noise; the next have seed + 1, ... (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=_guidance, default=3.5, help="FLUX-dev's guidance embedding while sampling (default: 3.5)"
    )
    parser.add_argument(
        "--cfg", type=_guidance, default=0.0,
        help="classifier-free guidance away from the negative prompt; 1: off; 0: as the base needs it, 4 for FLUX.2 "
        "and FLUX.3 klein base, else 1, and 1 at the few steps that stage 2 has trained a LoRA for (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--sampler", choices=SAMPLERS, default=SAMPLERS[0],
        help="by ComfyUI's name (default: euler, for which stage 2 trains)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"where to write (default: {folder})")


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"takes a whole number from {low} to {high}, got {text!r}.")
        return int(text)

    return read


def _guidance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST_GUIDANCE:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to {MOST_GUIDANCE}, got {text!r}.")
    return value


def _step_counts(text: str) -> tuple[int, ...]:
    try:
        return step_counts(text, "numbers of steps")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.split("=")[0]
    if not name.startswith("-"):
        return f"{argument}: this argument is one too many. Flags begin with --section.option."
    known = [flag.removeprefix("--") for action in parser._actions for flag in action.option_strings]
    guess = did_you_mean(name.removeprefix("--"), known).replace("mean ", "mean --")
    return f"There is no flag {name}.{guess}"


def _complain(message: str, status: int) -> int:
    rank = os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    sys.stderr.write(f"{f'[rank {rank}] ' if rank else ''}{message}\n")
    return status
