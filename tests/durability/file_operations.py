"""The file operations of this process below one folder, counted, and with faults put into chosen ones.

The real file system is underneath: an operation does what it always does, or fails as a disk makes it fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ERRORS = {"full disk": errno.ENOSPC, "no permission": errno.EACCES, "broken disk": errno.EIO, "read only": errno.EROFS}
# What writing itself can do beside failing: less than was asked, which it says; less, which it does not say; rubbish.
WRITES = ("short", "torn", "flipped")
_BY_PATH = ("mkdir", "open", "unlink", "replace", "rmdir")


class Operations:
    """Wraps ``os`` within a ``with`` block. ``names`` are the operations below ``within``, in order.

    ``before(number, name)`` is called before each of them, counted from 0, and may raise. ``fault``: (number, kind of
    fault) of the one to spoil; it is spoiled once.
    """

    def __init__(
        self,
        within: Path,
        before: Callable[[int, str], None] = lambda number, name: None,
        fault: tuple[int, str] | None = None,
    ) -> None:
        self.names: list[str] = []
        self.spoiled = False
        self._within, self._before, self._fault = str(within.resolve()), before, fault
        self._handles: set[int] = set()
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name in (*_BY_PATH, "write", "fsync", "close"):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}", None) or self._by_path(name))
        self._usage = shutil.disk_usage
        shutil.disk_usage = self._disk_usage
        self._read_bytes = Path.read_bytes
        operations = self

        def read_bytes(path: Path) -> bytes:
            operations._at("read", path)
            return operations._read_bytes(path)

        Path.read_bytes = read_bytes
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        shutil.disk_usage = self._usage
        Path.read_bytes = self._read_bytes

    def _at(self, name: str, path: Any) -> str | None:
        """Count an operation on ``path``; raises what it is spoiled with, or returns how a write is."""
        if not str(path).startswith(self._within):
            return None
        number = len(self.names)
        self.names.append(name)
        self._before(number, name)
        if self._fault is None or number != self._fault[0]:
            return None
        self.spoiled = True
        kind = self._fault[1]
        if kind in ERRORS:
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), str(path))
        return kind

    def _by_path(self, name: str) -> Callable[..., Any]:
        def operation(path: Any, *arguments: Any, **options: Any) -> Any:
            self._at(name, path)
            result = self._real[name](path, *arguments, **options)
            if name == "open" and str(path).startswith(self._within):
                self._handles.add(result)
            return result

        return operation

    def _write(self, handle: int, content: Any) -> int:
        kind = self._at("write", self._within) if handle in self._handles else None
        content = bytes(content)
        half = content[: len(content) // 2]
        if kind == "short":
            return self._real["write"](handle, half)
        if kind == "torn":
            self._real["write"](handle, half)
            return len(content)
        if kind == "flipped" and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]
        return self._real["write"](handle, content)

    def _fsync(self, handle: int) -> None:
        if handle in self._handles:
            self._at("fsync", self._within)
        self._real["fsync"](handle)

    def _close(self, handle: int) -> None:
        if handle in self._handles:
            self._handles.discard(handle)
            try:
                self._at("close", self._within)
            except OSError:
                with contextlib.suppress(OSError):
                    self._real["close"](handle)
                raise
        self._real["close"](handle)

    def _disk_usage(self, path: Any) -> Any:
        self._at("disk usage", path)
        return self._usage(path)
