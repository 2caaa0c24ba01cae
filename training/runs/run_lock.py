"""One process at a time in a run's folder, on disks that can lock a file and on those that cannot."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

LOCK, OWNER = ".lock", ".owner"
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
# Where the owner's file is empty, it may be about to be written.
_PATIENCE = 1.0
# Windows lets nobody read what is locked, so that is a byte behind the text.
_LOCKED_BYTE = 1 << 20


class InUse(Exception):
    """Another process holds the folder, or may. The message says which, since when, and what to do."""


@dataclass(frozen=True)
class _Owner:
    """A process, so that others can tell whether it still runs.

    ``boot``: the machine's since it was started. ``space``: where its process numbers hold, as in a container.
    ``started``: when the process was, in the machine's own ticks; numbers are used again.
    """

    host: str
    boot: str
    space: str
    pid: int
    started: str
    time: float

    @classmethod
    def current(cls) -> Self:
        boot, space = _read("/proc/sys/kernel/random/boot_id"), ""
        with contextlib.suppress(OSError):
            space = os.readlink("/proc/self/ns/pid")
        return cls(socket.gethostname(), boot, space, os.getpid(), _started(os.getpid()), time.time())

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """``None`` where it is none of ours."""
        try:
            values = json.loads(text)
            kinds = {each.name: type(getattr(cls.current(), each.name)) for each in dataclasses.fields(cls)}
            return cls(**{name: kind(values[name]) for name, kind in kinds.items()})
        except (ValueError, KeyError, TypeError):
            return None

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def has_ended(self) -> bool:
        """True only where that is certain: it ran on this machine, and does so no more."""
        here = self.current()
        if (self.host, self.boot, self.space) != (here.host, here.boot, here.space) or os.name == "nt":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # somebody else's
            pass
        return _started(self.pid) != self.started

    def described(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        return f"process {self.pid} on {self.host} trains this run, since {when}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _started(pid: int) -> str:
    # The name of the process, in brackets, may hold spaces.
    return (_read(f"/proc/{pid}/stat").rpartition(")")[2].split() + [""] * 20)[19]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which exists, until the end of the block.

    The system's own lock on a file ends with its process. Where a disk has none (some network disks and FUSE), a file
    names the owner instead; one whose owner has certainly ended is taken over.

    Raises ``InUse``, and ``OSError`` where the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(_let_go, os.close, handle)
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in _TAKEN:
                raise InUse(_in_use(folder, _Owner.from_text(_read(str(folder / LOCK))), folder / LOCK)) from error
            stack.enter_context(_owned(folder))
        else:
            stack.callback(_let_go, _unlock, handle)
            # For others to read; nothing depends on it.
            with contextlib.suppress(OSError):
                os.truncate(handle, 0)
                os.write(handle, _Owner.current().text().encode())
        yield


def _let_go(release: Callable[[int], None], handle: int) -> None:
    # The run is over by then, and the lock ends with the process anyway: no reason to lose its result.
    with contextlib.suppress(OSError):
        release(handle)


if os.name == "nt":

    def _lock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)

    def _unlock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(handle: int) -> None:
        with contextlib.suppress(OSError):  # it names nobody from here on
            os.truncate(handle, 0)
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    path, own = folder / OWNER, _Owner.current().text()
    while not _written(path, own):
        found = _text_of(path)
        owner = _Owner.from_text(found)
        if owner is None or not owner.has_ended():
            raise InUse(_in_use(folder, owner, path))
        _take_away(path, found, folder, owner)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _read(str(path)) == own:
                path.unlink()


def _written(path: Path, text: str) -> bool:
    """Whether this process has made the file; only one can."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(handle)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _text_of(path: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while not (text := _read(str(path))) and time.monotonic() < end:
        time.sleep(0.05)
    return text


def _take_away(path: Path, found: str, folder: Path, owner: _Owner) -> None:
    """Remove the file of an owner that has ended, unless another process has been quicker."""
    aside = path.with_name(f"{OWNER}.{uuid.uuid4().hex}.tmp")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _read(str(aside)) != found:
        os.rename(aside, path)
        raise InUse(_in_use(folder, None, path))
    os.unlink(aside)


def _in_use(folder: Path, owner: _Owner | None, path: Path) -> str:
    who = "another process trains this run at the moment" if owner is None else owner.described()
    text = f"{folder} is in use: {who}. Wait for it, or stop it."
    if path.name == OWNER or (owner is not None and owner.host != socket.gethostname()):
        text += f" If it has ended without a word, as when its machine lost its power, remove {path}."
    return text
