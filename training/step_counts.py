"""Numbers of sampling steps, samplers and seeds, as a user writes them: with commas between them."""

from __future__ import annotations

from .config import SAMPLERS

MOST_STEPS = 1000
MOST_SEED = 2**63 - 1


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


def sampler_names(text: str, where: str) -> tuple[str, ...]:
    """``"euler, dpmpp_2m"`` -> ("euler", "dpmpp_2m"). Raises ``ValueError``, beginning with ``where``, for others."""
    parts = [part.strip() for part in text.split(",")]
    unknown = next((part for part in parts if part not in SAMPLERS), None)
    if unknown is not None:
        raise ValueError(
            f"{where}: there is no sampler {unknown!r}. Write one or more of {', '.join(SAMPLERS)} with commas between "
            "them."
        )
    return tuple(dict.fromkeys(parts))


def seeds(text: str, where: str) -> tuple[int, ...]:
    """``"0, 7"`` -> (0, 7). Raises ``ValueError``, beginning with ``where``, for anything but whole numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 19 and int(part) <= MOST_SEED for part in parts):
        raise ValueError(
            f"{where} must be one or more whole numbers from 0 to {MOST_SEED} with commas between them, such as 0, 1; "
            f"got {text!r}."
        )
    return tuple(dict.fromkeys(map(int, parts)))
