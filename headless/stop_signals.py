"""Signals that end a process as a polite request: the work under way is brought to a good end first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; kill, and a machine that shuts down; a terminal that is closed, or a connection that is lost; Windows' closed
# console; what batch systems send when time is up. Not all systems have all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGXCPU", "SIGUSR1", "SIGUSR2")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Interrupted(Exception):
    """The run was asked to stop, and has. ``code`` is the exit status that shells know for the signal."""

    def __init__(self, received: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(received).name}.")
        self.code = 128 + received


class StopSignals:
    """Which signal has asked to stop, if any."""

    def __init__(self, announce: bool) -> None:
        self._announce = announce
        self.received = 0

    def __bool__(self) -> bool:
        return self.received != 0

    def raise_if_received(self) -> None:
        """Raises ``Interrupted`` where a signal has come."""
        if self.received:
            raise Interrupted(self.received)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The first signal is noted; a SIGINT after it raises ``KeyboardInterrupt``."""
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received and self._announce:
            again = " Ctrl-C again stops at once." if number == signal.SIGINT else ""
            # Not through sys.stderr: the signal may have come while that was being written to. Where the terminal is
            # gone, nobody reads it.
            with contextlib.suppress(OSError):
                os.write(2, f"\nStopping after this update.{again}\n".encode())
        self.received = self.received or number


@contextmanager
def stop_on_signals(announce: bool) -> Iterator[StopSignals]:
    """Inside, signals are noted instead of ending the process; the handlers from before are put back at the end.

    A signal that the process was started to ignore, as SIGHUP by ``nohup``, stays ignored. ``announce``: say on stderr
    that the signal has come.
    """
    signals = StopSignals(announce)
    heard = [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, signals.handle) for number in heard}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
