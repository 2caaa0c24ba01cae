"""What each training node has reported, kept for pages that open or reload in the middle of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_RECORDS = 4000


@dataclass
class Run:
    """One run of one node. ``state``: running, finished, stopped or failed."""

    run: str
    stage: str
    state: str = "running"
    message: str = ""
    total: int = 0
    records: list[dict[str, float]] = field(default_factory=list)

    def add(self, step: int, total: int, values: Mapping[str, float]) -> dict[str, float]:
        """Keep a step's numbers and return them as JSON can carry them: without those that are not finite."""
        self.total = total
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
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
        }


class RunHistory:
    """The latest run of each node of this process."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def start(self, node: str, run: Run) -> None:
        self._runs[node] = run

    def latest(self, node: str) -> Run | None:
        return self._runs.get(node)
