"""A node's progress bar, and its text."""

from __future__ import annotations

import comfy.utils

from .memory import stop_if_interrupted, unless_interrupted


class Progress:
    """The node's progress bar. ``update`` never raises: Cancel is left to whoever asks for it."""

    def __init__(self, node: str) -> None:
        self._bar = comfy.utils.ProgressBar(1, node_id=node)

    def update(self, done: int, total: int) -> None:
        unless_interrupted(lambda: self._bar.update_absolute(done, total))

    def update_or_stop(self, done: int, total: int) -> None:
        """``update``, and then the end of the graph where the user pressed Cancel."""
        self.update(done, total)
        stop_if_interrupted()


def text_ui(text: str) -> dict[str, list[str]]:
    """What makes the host keep a text with the node that gave it."""
    return {"text": [text]}
