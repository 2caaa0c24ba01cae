"""The file operations of this process below one folder: counted, made to fail, or cut off as by a power cut.

The real file system is underneath: an operation does what it always does, or fails as a disk makes it fail.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ERRORS = {"full disk": errno.ENOSPC, "no permission": errno.EACCES, "broken disk": errno.EIO, "read only": errno.EROFS}
# What writing itself can do beside failing: less than was asked, which it says; less, which it does not say; rubbish.
WRITES = ("short", "torn", "flipped")
READS = ("truncated", "flipped")
# What a power cut takes: nothing but the process; what was never flushed of files; of folders, so that names are as
# they were when the folder was last flushed.
CUTS = ("nothing", "content", "names")
CUT_OFF = 77
# Held from the beginning, so that looking at a path here is no operation of whoever is watched.
_lstat = os.lstat
_BY_PATH = ("mkdir", "open", "unlink", "replace", "rmdir", "stat", "lstat", "listdir", "scandir")


def faults_of(names: list[str]) -> list[tuple[int, str]]:
    """Every fault that every one of these operations can have."""
    own = {"write": WRITES, "read": READS}
    return [(number, kind) for number, name in enumerate(names) for kind in [*ERRORS, *own.get(name, ())]]


def _is_there(path: str) -> bool:
    try:
        _lstat(path)
    except OSError:
        return False
    return True


def _is_folder(path: Any) -> bool:
    return _is_there(path) and stat.S_ISDIR(_lstat(path).st_mode)


def flipped(content: bytes) -> bytes:
    """The same with one bit in the middle turned over."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :] if content else content


class Operations:
    """Wraps ``os`` and ``open`` within a ``with`` block.

    ``names`` are the operations below ``within``, in order, and ``places`` the paths they are done to.
    ``before(number, name, place)`` is called before each of them, counted from 0, and may raise. ``fault``: (number,
    kind of fault) of the one to spoil; it is spoiled once. ``cut``: (number, one of ``CUTS``) of the one at which the
    process ends with the code ``CUT_OFF``, and the disk with what it had been made to keep by then.
    """

    def __init__(
        self,
        within: Path,
        before: Callable[[int, str, str], None] = lambda number, name, place: None,
        fault: tuple[int, str] | None = None,
        cut: tuple[int, str] | None = None,
    ) -> None:
        self.names: list[str] = []
        self.places: list[str] = []
        self.spoiled = False
        self._within, self._before, self._fault, self._cut = str(within.resolve()), before, fault, cut
        self._paths: dict[int, str] = {}
        self._disk = _Disk(within) if cut else None
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name in (*_BY_PATH, "write", "fsync", "close"):
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}", None) or self._by_path(name))
        self._usage, self._open_file = shutil.disk_usage, builtins.open
        shutil.disk_usage = self._disk_usage
        builtins.open = io.open = self._open_stream
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        shutil.disk_usage = self._usage
        builtins.open = io.open = self._open_file

    def _inside(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The whole path, where it is below the folder."""
        if isinstance(path, int):
            return self._paths.get(path)
        if dir_fd is not None:
            above = self._paths.get(dir_fd)
            return above and f"{above}/{os.fspath(path)}"
        whole = os.path.abspath(os.fsdecode(path))
        return whole if whole == self._within or whole.startswith(self._within + "/") else None

    def _at(self, name: str, place: str | None) -> str | None:
        """Count an operation; raises what it is spoiled with, or returns how a write or a read is."""
        if place is None:
            return None
        number = len(self.names)
        self.names.append(name)
        self.places.append(place.removeprefix(self._within).lstrip("/"))
        self._before(number, name, self.places[-1])
        if self._disk and self._cut and number == self._cut[0]:
            self.__exit__(None, None, None)
            self._disk.lose(self._cut[1])
            os._exit(CUT_OFF)
        if self._fault is None or number != self._fault[0]:
            return None
        self.spoiled = True
        kind = self._fault[1]
        if kind in ERRORS:
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]), place)
        return kind

    def _by_path(self, name: str) -> Callable[..., Any]:
        def operation(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            place = self._inside(path, options.get("dir_fd"))
            self._at(name, place)
            act = self._real[name]
            if place is None:
                return act(path, *arguments, **options)
            if name == "open":
                return self._opened(place, lambda: act(path, *arguments, **options))
            if self._disk and name == "replace":
                self._disk.moves(place, os.path.abspath(os.fsdecode(arguments[0])))
            result = act(path, *arguments, **options)
            if self._disk and name == "mkdir":
                self._disk.makes(place)
            if self._disk and name in ("unlink", "rmdir"):
                self._disk.removes(place)
            return result

        return operation

    def _opened(self, place: str, act: Callable[[], int]) -> int:
        new = self._disk is not None and not _is_there(place)
        handle = act()
        self._paths[handle] = place
        if self._disk and new:
            self._disk.makes(place)
        return handle

    def spoiled_write(self, place: str | None, content: bytes, act: Callable[[bytes], int]) -> int:
        """Write ``content`` by ``act``, as well as the fault allows."""
        kind = self._at("write", place)
        if place is not None and self._disk:
            self._disk.writes(place)
        half = content[: len(content) // 2]
        if kind == "short":
            return act(half or content)
        if kind == "torn":
            act(half)
            return len(content)
        return act(flipped(content) if kind == "flipped" else content)

    def spoiled_read(self, place: str, act: Callable[[], bytes]) -> bytes:
        """Read by ``act``, as well as the fault allows."""
        kind = self._at("read", place)
        content = act()
        return {"truncated": content[: len(content) // 2], "flipped": flipped(content)}.get(str(kind), content)

    def closed(self, place: str | None) -> None:
        """A file is closed already, and this is what the system says to it."""
        self._at("close", place)

    def _write(self, handle: int, content: Any) -> int:
        really = self._real["write"]
        return self.spoiled_write(self._paths.get(handle), bytes(content), lambda part: really(handle, part))

    def _fsync(self, handle: int) -> None:
        place = self._paths.get(handle)
        self._at("fsync", place)
        self._real["fsync"](handle)
        if self._disk and place is not None:
            self._disk.flushes(place)

    def _close(self, handle: int) -> None:
        place = self._paths.pop(handle, None)
        self._real["close"](handle)
        self.closed(place)

    def _disk_usage(self, path: Any) -> Any:
        self._at("disk usage", self._inside(path))
        return self._usage(path)

    def _open_stream(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        """``open`` itself, which does not go through ``os``."""
        place = None if isinstance(file, int) else self._inside(file)
        if place is None or _is_folder(file):
            return self._open_file(file, mode, buffering, *arguments, **options)
        self._at("open", place)
        new = not _is_there(place)
        raw = _File(self, place, file, mode.replace("b", "").replace("t", ""))
        if self._disk and new:
            self._disk.makes(place)
        stream: Any = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, *arguments, **options)


class _File(io.FileIO):
    """What ``open`` reads and writes through."""

    def __init__(self, operations: Operations, place: str, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        self._operations, self._place = operations, place

    def readall(self) -> bytes:
        return self._operations.spoiled_read(self._place, super().readall)

    def readinto(self, buffer: Any) -> int:
        content = self._operations.spoiled_read(self._place, lambda: super(_File, self).read(len(buffer)) or b"")
        memoryview(buffer)[: len(content)] = content
        return len(content)

    def write(self, content: Any) -> int:
        return self._operations.spoiled_write(self._place, bytes(content), super().write)

    def close(self) -> None:
        writes, closed = not self.closed and self.writable(), self.closed
        super().close()
        if writes and not closed:
            self._operations.closed(self._place)


class _Disk:
    """What the disk has not got yet, as strict as POSIX allows: a file's content until the file is flushed, a name
    until its folder is. What is removed is gone at once, which is the worst that can happen to whoever removes early.
    """

    def __init__(self, within: Path) -> None:
        self._unwritten: set[str] = set()
        # (made, "", "") or (moved to, moved from, backup of what was there)
        self._unnamed: list[tuple[str, str, str]] = []
        self._backups = tempfile.mkdtemp(dir=within.resolve().parent, prefix=".before-")

    def makes(self, path: str) -> None:
        self._unnamed.append((path, "", ""))

    def writes(self, path: str) -> None:
        self._unwritten.add(path)

    def moves(self, path: str, to: str) -> None:
        """Called before it is done."""
        backup = ""
        if _is_there(to) and not _is_folder(to):
            backup = os.path.join(self._backups, str(len(os.listdir(self._backups))))
            os.link(to, backup)
        self._rename(path, to)
        self._unnamed.append((to, path, backup))

    def removes(self, path: str) -> None:
        self._unwritten.discard(path)
        self._unnamed = [entry for entry in self._unnamed if entry[0] != path or entry[1]]

    def flushes(self, path: str) -> None:
        if _is_folder(path):
            self._unnamed = [entry for entry in self._unnamed if os.path.dirname(entry[0]) != path]
        else:
            self._unwritten.discard(path)

    def lose(self, what: str) -> None:
        """Take from the real file system what the disk has not got."""
        if what == "content":
            for path in filter(_is_there, self._unwritten):
                os.truncate(path, os.path.getsize(path) // 2)
        if what == "names":
            while self._unnamed:
                path, before, backup = self._unnamed.pop()
                if before and os.path.exists(path):
                    with contextlib.suppress(OSError):
                        os.replace(path, before)
                    self._rename(path, before)
                elif os.path.isdir(path):
                    shutil.rmtree(path)
                elif not before and os.path.exists(path):
                    os.unlink(path)
                if backup:
                    os.link(backup, path)
        shutil.rmtree(self._backups)

    def _rename(self, path: str, to: str) -> None:
        def renamed(name: str) -> str:
            return to + name[len(path) :] if name == path or name.startswith(path + "/") else name

        self._unwritten = {renamed(name) for name in self._unwritten}
        self._unnamed = [(renamed(made), renamed(before), backup) for made, before, backup in self._unnamed]
