"""Every option of a ``RunConfig`` as a flag, and short names beside them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

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

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def aliases_of(option: str) -> list[str]:
    """The short names that set ``option``, alone or with others."""
    return [alias for alias, options in ALIASES.items() if option in options]


def add_flags(parser: argparse.ArgumentParser, sections: Iterable[str]) -> None:
    """Give ``parser`` a flag for each option of ``sections``, and the short names that set nothing but such options.

    What is given is collected in ``settings`` of the parsed arguments, ``section.option`` -> value. An option that is
    given twice is refused; but its own flag may follow a short name for several.
    """
    parser.set_defaults(settings={}, given={})
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
        for option in self._options:
            before = namespace.given.get(option)
            refines = before in ALIASES and len(ALIASES[before]) > len(self._options)
            if before is not None and not refines:
                raise argparse.ArgumentError(self, twice(option, before, option_string.removeprefix("--")))
        # New dicts each time: the parser's own defaults would be changed otherwise.
        namespace.settings = {**namespace.settings, **dict.fromkeys(self._options, values)}
        namespace.given = {**namespace.given, **dict.fromkeys(self._options, option_string.removeprefix("--"))}


class Once(argparse.Action):
    """Stores the value of any other flag; refuses it a second time."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, values)
        if option_string is not None:
            given, flag = getattr(namespace, "given", {}), option_string.removeprefix("--")
            if self.dest in given:
                raise argparse.ArgumentError(self, twice(self.dest, given[self.dest], flag))
            namespace.given = {**given, self.dest: flag}


def twice(option: str, first: str, second: str) -> str:
    """What is said of an option that the flags ``first`` and ``second`` both give."""
    if first == second:
        return "is given twice. Leave one out."
    if len(ALIASES.get(second, ())) > 1:
        return f"would take back --{first}. Put it before that, or leave one out."
    return f"and --{first} both give {option}. Leave one out."


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
