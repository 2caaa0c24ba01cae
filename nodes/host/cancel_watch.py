"""Cancel noticed at once: a stage ends by it with the update at hand, which may take seconds, or minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .memory import interrupted

# Sooner than anybody wonders whether the button was pressed; the question itself takes a microsecond.
EVERY = 0.2


class CancelWatch:
    """Calls ``pressed`` once, from a thread of its own, where the user presses Cancel before ``close``."""

    def __init__(self, pressed: Callable[[], None]) -> None:
        self._pressed = pressed
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="FluxDuel's watch for Cancel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Afterwards ``pressed`` is not called any more."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(EVERY):
            if interrupted():
                self._pressed()
                return
