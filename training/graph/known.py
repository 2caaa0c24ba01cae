"""What the host knows beside a graph: its lists of files, its folders, its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Bytes that a stage can have once the host has put its own models away. ``card``: whether they are a card's."""

    free: int
    card: bool


@dataclass(frozen=True)
class Known:
    """What labels of a graph stand for. Lists are functions, for to make them takes time.

    ``vae``: the file of a VAE that the host lists; ``None`` where it is not one file. ``folder_problem`` and
    ``prefix_problem``: what is wrong with a training folder's label, and with a prefix below ``output``. ``left_out``:
    folders whose pictures are never trained on. ``runs``: where runs of stages are kept.
    """

    checkpoints: Callable[[], Mapping[str, str]]
    loras: Callable[[], Mapping[str, Path]]
    discriminators: Callable[[], Mapping[str, Path]]
    folders: Callable[[], Mapping[str, Path]]
    vae: Callable[[str], Path | None]
    folder_problem: Callable[[str], str | None]
    prefix_problem: Callable[[str], str | None]
    left_out: Callable[[], Sequence[Path]]
    memory: Callable[[], Memory]
    runs: Path
    output: Path


def absent(choices: Mapping[str, object], label: str, where: str) -> str:
    """What is wrong with a label; empty where the host lists it."""
    if label in choices:
        return ""
    return f"{where}: the host lists no {label!r} (any more). Press R to have its lists read anew, and choose again."
