"""What each training node has reported, kept for pages that open or reload in the middle of a run."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..training.evidence.glossary import CURVES, MEASURED
from ..training.evidence.note_kinds import is_warning

MOST_RECORDS = 4000
# Of so many nodes the latest run is kept.
MOST_RUNS = 200
STAGE_NUMBER = {"diffusion": 1, "adversarial": 2}
# The pace is the mean over so many steps: one slow step must not double the remaining time.
PACE_STEPS = 20
# What is told of a run beside its curves, by the name of the scalar that it comes from.
FACTS = {"images_seen": "images", "best_step": "best_step", "best_score": "best_score", "peak_memory": "peak_memory"}

# Numbers of this process are above those of one before it.
_sittings = itertools.count(time.time_ns() // 1_000_000)


@dataclass
class Run:
    """One run of one node. ``state``: running, cancelling, finished, stopped or failed.

    ``notes``: (step, text) of what the stage noticed and did about it. ``sitting`` grows with each run and each going
    back to an earlier step: records with different numbers are not of one curve. ``facts``: the latest value of each of
    ``FACTS``; of its steps the discriminator's ``warmup``; the update with which it was finished ``early``; whether it
    was finished before and is ``reused``. ``stride``: of so many steps side by side one is kept.
    """

    run: str
    stage: str
    state: str = "running"
    message: str = ""
    total: int = 0
    records: list[dict[str, float]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    sitting: int = field(default_factory=lambda: next(_sittings))
    facts: dict[str, float] = field(default_factory=dict)
    stride: int = 1

    @property
    def is_going(self) -> bool:
        return self.state in ("running", "cancelling")

    def add(self, step: int, total: int, values: Mapping[str, float]) -> dict[str, float]:
        """Keep a step's numbers and return them as JSON can carry them: without those that are not finite."""
        self.total = total
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if self.records and self.records[-1]["step"] >= step:
            self._go_back(step)
        self.records.append({"step": step, **finite})
        self._thin()
        self.facts |= {fact: finite[name] for name, fact in FACTS.items() if name in finite}
        return finite

    @property
    def seconds_per_step(self) -> float:
        """The mean over the last steps; 0 before the first."""
        recent = [record["seconds_per_step"] for record in self.records[-PACE_STEPS:] if "seconds_per_step" in record]
        return sum(recent) / len(recent) if recent else 0.0

    def as_json(self, everything: bool = False) -> dict[str, Any]:
        """The answer of ``GET /fluxduel/history``: what the chart shows, or all scalars of each record."""
        # Before the records: another thread may be going back, and those that it drops are not of the new number.
        sitting, records = self.sitting, list(self.records)
        return {
            "run": self.run,
            "sitting": sitting,
            "stage": self.stage,
            "state": self.state,
            "message": self.message,
            "total": self.total,
            "facts": dict(self.facts),
            "records": records if everything else [shown(record) for record in records],
            "notes": noted(list(self.notes)),
        }

    def _go_back(self, step: int) -> None:
        """A run that goes on from an earlier step makes those after it anew."""
        while self.records and self.records[-1]["step"] >= step:
            self.records.pop()
        self.sitting = next(_sittings)

    def _thin(self) -> None:
        """Of ``stride`` steps side by side keep the first, and besides the last of all and what was measured.

        So the whole curve is kept at one density; every second record of the older half, again and again, would leave
        nothing of its beginning.
        """
        records = self.records
        if self.stride > 1 and len(records) > 2 and not self._is_kept(records[-2], records[-3]):
            del records[-2]
        while len(self.records) > MOST_RECORDS:
            before = self.records
            self.stride *= 2
            pairs = zip(before[1:-1], before, strict=False)
            self.records = [before[0], *(each for each, last in pairs if self._is_kept(each, last)), before[-1]]
            if len(self.records) == len(before):  # all of them measurements
                return

    def _is_kept(self, record: Mapping[str, float], before: Mapping[str, float]) -> bool:
        is_first = record["step"] // self.stride != before["step"] // self.stride
        return is_first or any(name in record for name in MEASURED)


class RunHistory:
    """The latest run of each node of this process. Nodes of two workflows may have the same id."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], Run] = {}

    def start(self, node: str, run: Run, workflow: str = "") -> None:
        """``workflow``: its id; empty where the prompt came without one, as from a script."""
        self._runs.pop((workflow, node), None)
        self._runs[workflow, node] = run
        while len(self._runs) > MOST_RUNS:
            del self._runs[next(iter(self._runs))]

    def latest(self, node: str, workflow: str | None = None) -> Run | None:
        """Of ``node`` in ``workflow``, or in a prompt without any; in whichever where none is asked for."""
        own = [
            run
            for (of, name), run in list(self._runs.items())
            if name == node and (workflow is None or of in (workflow, ""))
        ]
        return max(own, key=lambda run: run.sitting, default=None)

    def has_shown(self, node: str, run: str) -> bool:
        """Whether ``run`` is the latest of ``node``, in some workflow."""
        return any(name == node and known.run == run for (_, name), known in list(self._runs.items()))

    def has_finished_early(self, node: str, run: str) -> bool:
        """Whether ``node`` shows that ``run`` as finished before its last update."""
        return any(
            name == node and known.run == run and "early" in known.facts
            for (_, name), known in list(self._runs.items())
        )


def workflow_of(extra_pnginfo: Any) -> str:
    """The id of the workflow that a prompt was made from, as the page sends it along; empty without one."""
    workflow = extra_pnginfo.get("workflow") if isinstance(extra_pnginfo, Mapping) else None
    found = workflow.get("id") if isinstance(workflow, Mapping) else None
    return found if isinstance(found, str) else ""


def shown(values: Mapping[str, float]) -> dict[str, float]:
    """Of a record what the chart shows."""
    names = ("step", "seconds_per_step", *CURVES)
    return {name: values[name] for name in names if name in values}


def noted(notes: Iterable[tuple[int, str]]) -> list[list[Any]]:
    """Notes for the page: [step, text, whether it is a warning]."""
    return [[step, text, is_warning(text)] for step, text in notes]


def progress_line(run: Run) -> str:
    """Where a run is, such as ``stage 1, update 3/300, flow loss 0.123, 0.80 s/step, ETA 4 min``."""
    last = run.records[-1]
    step = int(last["step"])
    parts = [f"stage {STAGE_NUMBER[run.stage]}", f"update {step}/{run.total}"]
    for name in ("diffusion_loss", "discriminator_loss"):
        if name in last:
            parts.append(f"{CURVES[name].label} {last[name]:.3f}")
            break
    seconds = run.seconds_per_step
    if seconds and step < run.total:
        pace = f"{seconds:.2f} s/step" if seconds < 10 else f"{seconds:.0f} s/step"
        parts += [pace, f"ETA {_duration(seconds * (run.total - step))}"]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
