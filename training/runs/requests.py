"""What the user asks of a run while it goes on."""

from __future__ import annotations

from threading import Lock
from typing import Literal, get_args

Request = Literal["finish", "checkpoint", "preview"]
REQUESTS: tuple[Request, ...] = get_args(Request)


class Requests:
    """Asked by one thread, answered by the one that trains, after the step at hand.

    ``finish``: the stage ends there, as if that many steps had been asked for, but not before the LoRA's first update.
    ``checkpoint``: one is written. ``preview``: pictures are sampled, as ``preview_every`` has them sampled.
    """

    def __init__(self) -> None:
        self._asked: set[Request] = set()
        self._lock = Lock()

    def ask(self, request: Request) -> None:
        """Asking twice before it is answered is asking once."""
        with self._lock:
            self._asked.add(request)

    def asked(self, request: Request) -> bool:
        """Whether it was asked for; it stays so."""
        with self._lock:
            return request in self._asked

    def take(self, request: Request) -> bool:
        """Whether it was asked for since the last call."""
        with self._lock:
            found = request in self._asked
            self._asked.discard(request)
            return found
