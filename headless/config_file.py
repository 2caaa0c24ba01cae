"""A configuration file, and flags on top of it: every mistake is told with its file, its line, section and option."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training.config import Config
from ..training.failure_words import reason
from ..training.readable import readable
from .json_text import Document, JSONTextError, Place, decoded, parsed, without_backslashes
from .run_config import RunConfig

# The options that name a file or a folder: ~ in them is the user's home, as a shell has it.
PATHS = (
    "base.checkpoint",
    "base.sampling_base",
    "start.lora",
    "start.discriminator",
    "images.folder",
    "encoders.folder",
    "encoders.vae",
    "output.folder",
    "output.cache",
)
_NAMES = (*PATHS, "output.name")


def configuration(file: Path | None, settings: Mapping[str, Any]) -> RunConfig:
    """That of ``file``, where one is given, with ``settings`` (``section.option`` -> value) on top.

    Raises ``ValueError`` that names the file with its line, or the option, for what is missing, no JSON, given twice,
    unknown or out of range.
    """
    return RunConfig.from_values(given_values(file, settings))


def given_values(file: Path | None, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Section -> option -> value of all that ``configuration`` is told, without the defaults of the rest."""
    values = {} if file is None else _read(file)
    for option, value in settings.items():
        section, name = option.split(".")
        values.setdefault(section, {})[name] = value
    for option, field in RunConfig.options():
        section, name = option.split(".")
        text = values.get(section, {}).get(name)
        if type(field.default) is str and isinstance(text, str):
            values[section][name] = _text(option, text)
    return values


# A drive or a server, as in C:\\pictures, C:/pictures and \\\\server\\pictures.
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\]")


def check_system(option: str, path: str) -> None:
    """Raises ``ValueError`` where ``path`` is one of Windows, which another system would look for below its own."""
    if os.name == "nt" or not _OF_WINDOWS.match(path) or os.path.lexists(path):
        return
    raise ValueError(
        f"{option}: {path} is a path of Windows, and this is another system. Write the path as it is on this machine "
        "(in WSL C:\\pictures is /mnt/c/pictures)."
    )


def _text(option: str, text: str) -> str:
    if option in PATHS:
        check_system(option, text)
    if option in _NAMES and any(ord(letter) < 32 for letter in text):
        raise ValueError(f"{option}: {_short(text)} holds a control character, which no name of a file may.")
    return os.path.expanduser(text) if option in PATHS else text if option in _NAMES else readable(text)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        document = parsed(decoded(file.expanduser().read_bytes()))
    except FileNotFoundError as error:
        raise ValueError(f"There is no configuration file {file}. Check its path.") from error
    except OSError as error:
        raise ValueError(f"The configuration file {file} cannot be read: {reason(error)}.") from error
    except JSONTextError as error:
        raise ValueError(f"The configuration file {file} is no JSON: {error}.") from error
    values = document.value
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a JSON object of sections, got {type(values).__name__}.")
    sections = RunConfig.sections()
    known = [option for option, _ in RunConfig.options()]
    for section, given in values.items():
        where = _where(file, document, section)
        if section not in sections:
            raise ValueError(f"{where}: there is no section {_short(section)}.{did_you_mean(section, list(sections))}")
        if not isinstance(given, dict):
            raise ValueError(f"{where}: section {section} must be a JSON object of options, got {_short(given)}.")
        for name in given:
            if (option := f"{section}.{name}") not in known:
                where = _where(file, document, section, name)
                raise ValueError(f"{where}: there is no option {_short(option)}.{did_you_mean(option, known)}")
            _check_name(file, document, section, name)
        _check_values(file, document, section, sections[section])
    return values


def _where(file: Path, document: Document, *keys: str) -> str:
    return f"{file}, line {document.places[keys].line}"


def _check_name(file: Path, document: Document, section: str, name: str) -> None:
    """Raises ``ValueError`` for a path of Windows whose backslashes JSON has taken for something else."""
    option, value = f"{section}.{name}", document.value[section][name]
    if option not in _NAMES or not isinstance(value, str):
        return
    place: Place = document.places[section, name]
    # C:\\new is a drive and a line break.
    if any(ord(letter) < 32 for letter in value) and "\\" in place.written:
        raise ValueError(
            f"{_where(file, document, section, name)}: {option} {place.written} has single backslashes, which JSON "
            f"takes for other characters. Write {without_backslashes(place.written)}."
        )


def _check_values(file: Path, document: Document, section: str, config: type[Config]) -> None:
    """Raises ``ValueError`` that names the option, or the section where several do not go together."""
    options = document.value[section]
    whole = _mistake(section, config, options)
    if not whole:
        return
    alone = (name for name, value in options.items() if _mistake(section, config, {name: value}) == whole)
    name = next(alone, None)
    raise ValueError(f"{_where(file, document, section, *([name] if name else []))}: {whole}")


def _mistake(section: str, config: type[Config], options: Mapping[str, Any]) -> str:
    try:
        config(**options)
    except ValueError as error:
        return str(error).replace(f"{config.__name__}.", f"{section}.")
    return ""


def _short(value: Any) -> str:
    """A name as it is, all else as Python writes it, not too long and in one line."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 60 else reprlib.repr(value)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`` Did you mean x?``, with the known name that is most like ``name``; empty where none is.

    A name that is right but for its section comes first.
    """
    section, _, tail = name.rpartition(".")
    elsewhere = [each for each in known if section and each.rpartition(".")[2] == tail]
    found = difflib.get_close_matches(name, elsewhere or known, n=1, cutoff=0.0 if elsewhere else 0.6)
    return f" Did you mean {found[0]}?" if found else ""
