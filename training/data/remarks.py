"""What is to be said of single pictures, gathered for a report."""

from __future__ import annotations

from collections.abc import Iterable

from .data_error import listed
from .picture_file import DAMAGED_METADATA, UNUSED_PROFILE

_WARNED = (DAMAGED_METADATA, UNUSED_PROFILE)


class Remarks:
    """What was noticed while pictures were read, by the words of a report, with the pictures' names."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}

    def add(self, name: str, remarks: Iterable[str]) -> None:
        """Note ``remarks`` on the picture ``name``; empty ones, and those on its repeats, do not count."""
        for remark in filter(None, remarks):
            self._names.setdefault(remark, {})[name] = None

    def lines(self) -> list[str]:
        """A line for each remark that is no warning."""
        return [self._line(remark) for remark in self._names if remark not in _WARNED]

    def warnings(self) -> list[str]:
        """A line for each remark that is one."""
        return [self._line(remark) for remark in self._names if remark in _WARNED]

    def _line(self, remark: str) -> str:
        names = list(self._names[remark])
        return f"{remark}: {len(names)} ({listed(names)})."
