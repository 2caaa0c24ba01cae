"""A file that appears complete or not at all, on disks that fill up and machines that lose their power."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Written at once; more would only be copied by the system again.
_PIECE = 1 << 24
# Kept free beyond what is written: file systems need room for their own records.
_RESERVE = 1 << 22


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: beside it first, flushed to the disk, read back, then renamed.

    On any failure a file that was there before is untouched, and nothing else is left behind. Raises ``OSError`` that
    names ``path``, or its folder.
    """
    with _partial(path) as partial:
        write_flushed(partial, content)
        if partial.read_bytes() != content:
            raise OSError(errno.EIO, "what is read is not what was written", str(partial))


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into, too large to hold in memory: it becomes ``path`` when the block ends without an error.

    Until then it lies beside ``path`` and is flushed to the disk before it is renamed; on any failure nothing is left
    behind. Raises ``OSError`` that names ``path``, or its folder.
    """
    with _partial(path) as partial, open(partial, "xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A name beside ``path`` for a file that becomes it when the block ends without an error, and else is removed."""
    # Shorter than any file system allows, whatever the path's own letters take, and hidden from the host's listings.
    partial = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        make_folder(path.parent)
        yield partial
        os.replace(partial, path)
        flush_folder(path.parent)
    except OSError as error:
        # The disk's fault has no path of its own, and nobody knows the partial file by its name.
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # where the folder cannot be reached, the first error says more
            os.unlink(partial)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it where they are missing, and have the disk know their names."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it. Raises ``OSError``, also where only a part could be written."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:
            written = os.write(handle, rest[:_PIECE])
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            rest = rest[written:]
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Wait until the disk knows the folder's names, without which a renamed file may be gone after a power cut."""
    if os.name == "nt":  # Windows keeps names in its journal, and opens no folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do it; the file itself is written all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def check_space(folder: Path, size: int) -> None:
    """Raises ``OSError`` (ENOSPC) where the disk of ``folder``, which exists, has no room for ``size`` more bytes."""
    free = shutil.disk_usage(folder).free
    if free < size + _RESERVE:
        raise OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free", str(folder))
