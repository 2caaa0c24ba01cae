"""Pictures that are read from their files one at a time."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

Item = TypeVar("Item", bound=Tensor | None)


class FileState(NamedTuple):
    """A file as it is now, and how it is read: as long as this is the same, so is what is read from it.

    ``path`` is absolute, ``reading`` names the way in which pixels are made of the file.
    """

    path: str
    size: int
    mtime_ns: int
    reading: str


def file_state(path: str | os.PathLike[str], reading: str) -> FileState:
    """The state of the file at ``path``. Raises ``OSError`` where there is none."""
    stat = os.stat(path)
    return FileState(os.path.abspath(path), stat.st_size, stat.st_mtime_ns, reading)


class FileSequence(Sequence[Item]):
    """Tensors that are read from files at each access, and not kept."""

    def __getitem__(self, index: int) -> Item:
        return self.read(index)[0]

    @abstractmethod
    def read(self, index: int) -> tuple[Item, tuple[str, ...]]:
        """Item ``index``, and what a report should say of it. Raises ``DataError`` that names the file."""

    @abstractmethod
    def state(self, index: int) -> FileState | None:
        """The state of the file of item ``index``; ``None`` where it must be read to know what it holds."""
