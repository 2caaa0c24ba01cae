"""stdout and stderr that outlive whoever reads them, and print of any text what their encoding has letters for."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# The reader of a pipe has ended, or a terminal was closed. Windows says EINVAL of a pipe.
_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, *([errno.EINVAL] if os.name == "nt" else [])}


class _Lasting(io.RawIOBase):
    """Writes to ``raw``. What cannot be written is dropped: hours of training must not end because of a line.

    ``failure``: why something was dropped, where its reader is still there.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, content: Any) -> int | None:
        try:
            return self._raw.write(content)
        except OSError as error:
            if error.errno in _GONE:
                # Libraries that write by themselves get here too.
                with contextlib.suppress(OSError):
                    _to_nowhere(self._raw.fileno())
            else:
                self.failure = error
            return len(content)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, ``sys.stdout`` and ``sys.stderr`` never raise: neither for a letter nor for a reader that has gone."""
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            # Closed by the shell (``>&-``): the next file to be opened would get its number, and then our messages.
            _to_nowhere(handle)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_lasting(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def deliver(text: str) -> None:
    """Write a command's result to stdout.

    Raises ``OSError`` where it cannot be written, as on a full disk; a reader that wants no more is no fault.
    """
    sys.stdout.write(text)
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Lasting) and raw.failure is not None:
        raise OSError(raw.failure.errno, raw.failure.strerror, "stdout")


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # python -u has no buffer between
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.RawIOBase):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(raw)),
        encoding=stream.encoding,
        errors="backslashreplace",
        # ``python -u`` writes at once, past the buffer that is put between here: line by line is as good.
        line_buffering=stream.line_buffering or stream.write_through,
        write_through=stream.write_through,
    )


def _to_nowhere(handle: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != handle:
        os.dup2(nowhere, handle)
        os.close(nowhere)
