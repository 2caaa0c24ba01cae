"""From the results of many jobs to ratios with intervals: ours over what costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..statistics import median_and_interval
from . import arms, job
from .drawing import Setting

Result = dict[str, Any]
Cell = tuple[str, int, int]
OWN = Setting("euler", job.FEW, arms.GUIDANCE)
# What a user chooses from: every solver, at both guidances, at strength 1.
FREE = {
    steps: [Setting(solver, steps, guidance) for solver in job.SOLVERS for guidance in job.GUIDANCES]
    for steps in (job.FEW, job.SOME, job.MANY)
}


def by_cell(results: Iterable[Result], arm: str, images: int) -> dict[Cell, Result]:
    """Style, images and seed -> the arm's result."""
    return {(r["style"], r["images"], r["seed"]): r for r in results if r["arm"] == arm and r["images"] == images}


def best(result: Result, steps: int) -> dict[str, float]:
    """All subjects drawn in the best way to sample with ``steps`` evaluations: by its paired distance on a third."""
    tried = [setting.name for setting in FREE[steps] if setting.name in result["part"]]
    name = min(tried, key=lambda each: result["part"][each]["paired"])
    return {**result["whole"][name], "setting": name} if name in result["whole"] else result["part"][name]


def best_of_part(result: Result, steps: int, measure: str, guidance: float | None = None) -> float:
    """The least of a measure among all ways to sample with ``steps`` evaluations, at one guidance or at any."""
    tried = [s for s in FREE[steps] if guidance in (None, s.guidance) and s.name in result["part"]]
    return min(result["part"][setting.name][measure] for setting in tried)


def ratios(
    results: list[Result], images: int, above: Callable[[Result], float], arm: str, below: Callable[[Result], float]
) -> list[float]:
    """``above`` of ours over ``below`` of ``arm``, cell by cell."""
    ours, other = by_cell(results, "ours", images), by_cell(results, arm, images)
    return [above(ours[cell]) / max(below(other[cell]), 1e-9) for cell in sorted(ours.keys() & other.keys())]


def own(result: Result, measure: str = "paired") -> float:
    """At the sampling that the LoRA is trained for."""
    return result["whole"][OWN.name][measure]


def toll(result: Result, steps: int) -> float:
    """The worst stock solver's distance over that of the LoRA's own sampling, the same subjects and guidance."""
    tried = [s.name for s in FREE[steps] if s.guidance == OWN.guidance and s.name in result["part"]]
    return max(result["part"][name]["paired"] for name in tried) / result["part"][OWN.name]["paired"]


def strengths(result: Result, stage_1: Result) -> dict[str, float]:
    """By strength, the distance over that of stage 1 at that strength."""
    found = {}
    for strength in (*job.STRENGTHS, 1.0):
        name = OWN._replace(strength=strength).name
        found[f"{strength:g}"] = result["part"][name]["paired"] / stage_1["part"][name]["paired"]
    return found


def summary(results: list[Result], images: int) -> dict[str, Any]:
    """The figures that the benchmark is run for; see ``run``."""

    def told(values: Sequence[float]) -> float:
        return round(median_and_interval(values)[0], 4)

    few = ratios(results, images, own, "stage1", lambda r: best(r, job.FEW)["paired"])
    middle, interval = median_and_interval(few)

    def over_stage_1(measure: str) -> float:
        return told(
            ratios(results, images, lambda r: own(r, measure), "stage1", lambda r: best(r, job.FEW)[measure])
        )

    def part_ratio(measure: str, guidance: float | None) -> float:
        """On a third, each measure with the solver that is best by that very measure."""
        return told(
            ratios(
                results, images, lambda r: r["part"][OWN.name][measure],
                "stage1", lambda r: best_of_part(r, job.FEW, measure, guidance),
            )
        )  # fmt: skip

    ours, stage_1 = by_cell(results, "ours", images), by_cell(results, "stage1", images)
    cells = sorted(ours.keys() & stage_1.keys())
    swept = [strengths(ours[cell], stage_1[cell]) for cell in cells]
    return {
        "cells": len(cells),
        "paired4": round(middle, 4),
        "paired4_ci": [round(value, 4) for value in interval],
        "paired4_same_guidance": part_ratio("paired", OWN.guidance),
        "paired4_both_best": told(
            ratios(
                results, images, lambda r: best_of_part(r, job.FEW, "paired"),
                "stage1", lambda r: best_of_part(r, job.FEW, "paired"),
            )
        ),
        "frechet4": part_ratio("frechet", None),
        "paired4_over_many": told(ratios(results, images, own, "stage1", lambda r: best(r, job.MANY)["paired"])),
        "retrieval": over_stage_1("retrieval"),
        "style": over_stage_1("style"),
        "sharpness": told([own(ours[cell], "sharpness") for cell in cells]),
        "sharpness_stage1": told([best(stage_1[cell], job.FEW)["sharpness"] for cell in cells]),
        "memorised": told(
            [(own(ours[c], "memorised") + 0.01) / (best(stage_1[c], job.FEW)["memorised"] + 0.01) for c in cells]
        ),
        "diversity": told([own(ours[cell], "diversity") for cell in cells]),
        "toll4": told([toll(ours[cell], job.FEW) for cell in cells]),
        "toll25": told([toll(ours[cell], job.MANY) for cell in cells]),
        "strengths": {name: told([each[name] for each in swept]) for name in swept[0]} if swept else {},
        "drift": told(ratios(results, images, lambda r: r["drift"], "stage1", lambda r: r["drift"])),
        "val_flow": told(ratios(results, images, lambda r: r["flow"], "stage1", lambda r: r["flow"])),
    }


def over(results: list[Result], arm: str, images: int) -> dict[str, Any]:
    """Ours over a rival, each at its own sampling; ``None`` where the rival was not trained."""
    found = ratios(results, images, own, arm, own)
    if not found:
        return {"ratio": None, "ci": None, "cells": 0}
    middle, interval = median_and_interval(found)
    return {"ratio": round(middle, 4), "ci": [round(value, 4) for value in interval], "cells": len(found)}
