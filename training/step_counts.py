"""Numbers of sampling steps, as a user writes them."""

from __future__ import annotations

MOST_STEPS = 1000


def step_counts(text: str, where: str) -> tuple[int, ...]:
    """``"1, 4, 25"`` -> (1, 4, 25). Raises ``ValueError``, beginning with ``where``, for anything but whole numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= MOST_STEPS for part in parts):
        raise ValueError(
            f"{where} must be one or more whole numbers from 1 to {MOST_STEPS} with commas between them, such as "
            f"4, 25; got {text!r}."
        )
    return tuple(int(part) for part in parts)


def steps_text(number: int) -> str:
    """Such as ``4 steps``."""
    return "1 step" if number == 1 else f"{number} steps"
