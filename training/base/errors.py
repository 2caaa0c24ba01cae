"""What the readers of checkpoints raise."""

from __future__ import annotations


class BaseModelError(ValueError):
    """A checkpoint that cannot be the base: missing, damaged, or of no family. The message says what to do."""
