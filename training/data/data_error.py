"""Data that cannot be trained on, and names in messages about it."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Pictures, captions, masks or their encodings cannot be trained on. The message names the culprit."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def quoted(caption: str, longest: int = 60) -> str:
    if not caption:
        return "'' (the empty prompt)"
    return f"'{caption}'" if len(caption) <= longest else f"'{caption[:longest]}…'"
