"""SIGINT and SIGTERM as a polite request: the work under way is brought to a good end first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = {signal.SIGINT: "Ctrl-C again stops at once.", signal.SIGTERM: ""}


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
            # Not through sys.stderr: the signal may have come while that was being written to.
            os.write(2, f"\nStopping after this step. {STOPPING[signal.Signals(number)]}\n".encode())
        self.received = self.received or number


@contextmanager
def stop_on_signals(announce: bool) -> Iterator[StopSignals]:
    """Inside, signals are noted instead of ending the process; the handlers from before are put back at the end.

    ``announce``: say on stderr that the signal has come.
    """
    signals = StopSignals(announce)
    before = {number: signal.signal(number, signals.handle) for number in STOPPING}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
