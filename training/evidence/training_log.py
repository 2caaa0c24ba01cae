"""What a stage has reported, step by step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingLog:
    """One record a step (see ``stats.jsonl``). ``path`` is that file's, or empty.

    ``notes``: (step, text) of what the stage noticed and did about it.
    """

    stage: str
    records: tuple[dict[str, float], ...]
    path: str = ""
    notes: tuple[tuple[int, str], ...] = ()
