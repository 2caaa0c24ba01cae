"""What an evaluation found: numbers as a table, in sentences and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..step_counts import steps_text
from . import markdown
from .glossary import CURVES
from .latent_metrics import Measurement

# Of ``Measurement``, in the table's order, with the headings there.
COLUMNS = {
    "frechet": "Fréchet",
    "patch_sliced_wasserstein": "patch SWD",
    "spectrum_distance": "spectrum",
    "high_frequency": CURVES["high_frequency"].label,
    "diversity": CURVES["diversity"].label,
    "memorised": "memorised",
}
FLOW_LOSS = CURVES["held_out_loss"].label
# Behind the number of steps of a LoRA for two samplers that was asked as its few-step one.
FEW_STEP_MARK = " few"
BEST_AT_1 = (COLUMNS["high_frequency"], COLUMNS["diversity"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one LoRA gives with one number of sampling steps."""

    name: str
    bare: bool
    """Whether the LoRA changes nothing, so that this is its base."""
    steps: int
    guidance: float
    """Given to the base while sampling."""
    cfg: float
    """Classifier-free guidance; 1: none."""
    solver: str
    """Sampled with, by the host's name."""
    variation: str
    """What differs from how the others are sampled, for a neighbour; else empty."""
    few_step: bool
    """Whether a LoRA for two samplers was asked as its few-step one, by prompt or by guidance."""
    measurement: Measurement
    """``memorised`` is NaN where no pictures were held out to compare with."""
    held_out_loss: float | None
    """The LoRA's, so the same for all its numbers of steps; ``None`` where no picture is held out."""
    latents: Tensor
    """The first ``keep`` samples (keep, C, h, w), in model space, on the CPU, of ``Evaluation.captions``."""

    @property
    def title(self) -> str:
        """The LoRA's name, and what differs."""
        return f"{self.name}, {self.variation}" if self.variation else self.name

    def values(self) -> dict[str, float]:
        """The table's numbers by their headings; NaN where there is none."""
        loss = math.nan if self.held_out_loss is None else self.held_out_loss
        return _columns(self.measurement) | {FLOW_LOSS: loss}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What ``evaluate`` found. ``results``: by LoRA, in the order given, and then by rising number of steps."""

    results: tuple[Result, ...]
    neighbours: tuple[Result, ...]
    """Of the last LoRA, sampled in other ways; empty where that was not asked for."""
    floor: Measurement | None
    """What real pictures score against real ones; ``None`` where there are too few."""
    count: int
    """Pictures sampled for each result."""
    size: tuple[int, int]
    """Height and width of the latents."""
    factor: int
    """Pixels of the picture along one side of a latent pixel."""
    training: int
    held_out: int
    """Real pictures of that size."""
    against_training: bool
    """Whether the distances are to training pictures, for want of held-out ones."""
    flow_guidance: float
    """Given to the base for the flow loss, of all LoRAs alike."""
    captions: tuple[str, ...]
    """Of the samples that are kept of each result; neighbours with other prompts have been asked for those."""
    notes: tuple[str, ...]
    """What to know before the numbers are believed, in sentences."""

    @property
    def names(self) -> list[str]:
        """The LoRAs, in order."""
        return list(dict.fromkeys(result.name for result in self.results))

    def rows(self) -> list[dict[str, str | int | float]]:
        """One dict a result: ``LoRA``, ``steps`` and the table's numbers by their headings; NaN where not measured."""
        shown = (*self.results, *self.neighbours)
        return [{"LoRA": result.title, "steps": result.steps, **result.values()} for result in shown]

    def table(self) -> str:
        """The numbers as a table of Markdown; the last row is the floor. ``-`` is a number that was not measured."""
        headings = ["LoRA", "steps", *COLUMNS.values(), FLOW_LOSS]
        lines = []
        for result in (*self.results, *self.neighbours):
            steps = f"{result.steps}{FEW_STEP_MARK if result.few_step else ''}"
            lines.append([markdown.plain(result.title), steps, *map(_number, result.values().values())])
        floor = {} if self.floor is None else _columns(self.floor)
        lines.append(["floor (real)", "-", *(_number(floor.get(heading, math.nan)) for heading in headings[2:])])
        return markdown.table(headings, lines)

    def comparisons(self) -> list[str]:
        """The last LoRA's numbers against another's, one sentence for each number of steps: distances as multiples.

        The other is the first that is not the bare base, or else the base; there is none to a LoRA that is alone.
        """
        last = self.names[-1]
        bare = {result.name for result in self.results if result.bare}
        others = sorted(self.names[:-1], key=lambda name: name in bare)
        if not others:
            return []
        values = {(result.name, result.steps): result.values() for result in self.results}
        sentences = []
        for steps in dict.fromkeys(result.steps for result in self.results):
            theirs = values[others[0], steps]
            changes = {
                heading: _change(heading, own, theirs[heading])
                for heading, own in values[last, steps].items()
                # A share of a few in a hundred pictures: its multiples are chance.
                if heading != COLUMNS["memorised"]
            }
            told = ", ".join(f"{heading} {change}" for heading, change in changes.items() if change)
            if told:
                sentences.append(f"{last} against {others[0]} at {steps_text(steps)}: {told}.")
        return sentences

    def report(self) -> str:
        """Table, comparisons and notes as Markdown."""
        height, width = (side * self.factor for side in self.size)
        reals = f"{self.training} training" if self.against_training else f"{self.held_out} held-out"
        head = (
            f"{self.count} pictures of {width} x {height} a row, against {reals} pictures. Fréchet, patch SWD and "
            "spectrum are distances: better when smaller, down to the floor, which is real pictures against real ones. "
            f"High frequencies and diversity are best at 1. The sampler is {self.results[0].solver}. The held-out flow "
            f"loss is at guidance {self.flow_guidance:g}.{self._cfg_words()}"
        )
        said = [markdown.bullets([*map(markdown.plain, texts)]) for texts in (self.comparisons(), self.notes)]
        parts = (head, self.table(), *said)
        return "\n\n".join(part for part in parts if part)

    def _cfg_words(self) -> str:
        """Which LoRA was sampled at which ``cfg``; empty where none was guided."""
        by_cfg: dict[float, list[str]] = {}
        for result in self.results:
            by_cfg.setdefault(result.cfg, []).append(f"{markdown.plain(result.name)} at {steps_text(result.steps)}")
        if set(by_cfg) == {1.0}:
            return ""
        if len(by_cfg) == 1:
            return f" Sampled at cfg {next(iter(by_cfg)):g}."
        told = (f"cfg {cfg:g}: {', '.join(names)}" for cfg, names in by_cfg.items())
        return f" Sampled at {'; '.join(told)}."

    def as_json(self) -> dict[str, Any]:
        """All but the latents, fit for JSON: what was not measured, or is not finite, is ``None``."""
        return {
            "count": self.count,
            "size": list(self.size),
            "training": self.training,
            "held_out": self.held_out,
            "against_training": self.against_training,
            "flow_guidance": self.flow_guidance,
            "results": [_json(result) for result in self.results],
            "neighbours": [_json(result) for result in self.neighbours],
            "floor": None if self.floor is None else _finite(asdict(self.floor)),
            "comparisons": self.comparisons(),
            "notes": list(self.notes),
        }


def _json(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "steps": result.steps,
        "sampler": result.solver,
        "variation": result.variation,
        "guidance": result.guidance,
        "cfg": result.cfg,
        "few_step": result.few_step,
        **_finite(asdict(result.measurement) | {"held_out_loss": result.held_out_loss}),
    }


def _columns(measurement: Measurement) -> dict[str, float]:
    return {heading: getattr(measurement, field) for field, heading in COLUMNS.items()}


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _change(heading: str, own: float, other: float) -> str:
    """Such as ``0.21x``, or ``1.4 -> 1.1`` of what is best at 1; empty where there is nothing to compare."""
    if not (math.isfinite(own) and math.isfinite(other) and other > 0):
        return ""
    return f"{_number(other)} -> {_number(own)}" if heading in BEST_AT_1 else f"{own / other:.2f}x"


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
