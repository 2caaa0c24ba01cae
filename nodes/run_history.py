"""What each training node has reported, kept for pages that open or reload in the middle of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_RECORDS = 4000
STAGE_NUMBER = {"diffusion": 1, "adversarial": 2}


@dataclass
class Run:
    """One run of one node. ``state``: running, finished, stopped or failed.

    ``notes``: (step, text) of what the stage noticed and did about it.
    """

    run: str
    stage: str
    state: str = "running"
    message: str = ""
    total: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def add(self, step: int, total: int, values: Mapping[str, float]) -> dict[str, float]:
        """Keep a step's numbers and return them as JSON can carry them: without those that are not finite."""
        self.total = total
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        # A run that went on from an earlier step makes those after it anew.
        while self.records and self.records[-1]["step"] >= step:
            self.records.pop()
        self.records.append({"step": step, **finite})
        if len(self.records) > MOST_RECORDS:
            # Every second of the older half would bend the curve; every second of all keeps it, at half the density.
            kept = [r for i, r in enumerate(self.records[:-1]) if i % 2 == 0 or "held_out_loss" in r]
            self.records = [*kept, self.records[-1]]
        return finite

    def as_json(self) -> dict[str, Any]:
        """The answer of ``GET /fluxduel/history``."""
        return {
            "run": self.run,
            "stage": self.stage,
            "state": self.state,
            "message": self.message,
            "total": self.total,
            "records": list(self.records),
            "notes": [list(note) for note in self.notes],
        }


class RunHistory:
    """The latest run of each node of this process."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def start(self, node: str, run: Run) -> None:
        self._runs[node] = run

    def latest(self, node: str) -> Run | None:
        return self._runs.get(node)


def progress_text(event: Mapping[str, Any]) -> str:
    """One line about a ``fluxduel.step`` event, such as ``stage 1, step 3/300, loss 0.123, 0.80 s/it, ETA 4 min``."""
    scalars, seconds = event["scalars"], event["seconds_per_step"]
    parts = [f"stage {STAGE_NUMBER[event['stage']]}", f"step {event['step']}/{event['total']}"]
    for name, word in (("diffusion_loss", "loss"), ("discriminator_loss", "discriminator loss")):
        if name in scalars:
            parts.append(f"{word} {scalars[name]:.3f}")
            break
    if seconds:
        remaining = _duration(seconds * (event["total"] - event["step"]))
        parts += [f"{seconds:.2f} s/it" if seconds < 10 else f"{seconds:.0f} s/it", f"ETA {remaining}"]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
