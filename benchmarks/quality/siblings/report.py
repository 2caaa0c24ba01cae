"""The comparison on the distilled sibling as a section of docs/EXPERIMENTS.md."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..statistics import told
from ..styles import subjects
from . import distilled, job

Result = dict[str, Any]
TITLE = "## On the distilled sibling"
TWO = ("base", "flow")


def _of(results: Sequence[Result], arm: str) -> dict[tuple[str, int], Result]:
    return {(r["style"], r["seed"]): r for r in results if r["arm"] == arm}


def _ratios(results: Sequence[Result], arm: str, other: str, part: str, name: str) -> list[float]:
    ours, theirs = _of(results, arm), _of(results, other)
    return [ours[cell][part][name] / theirs[cell][part][name] for cell in ours if cell in theirs]


def over_best(
    results: Sequence[Result],
    arm: str,
    name: str = "paired",
    *,
    of: Sequence[str] = job.OTHERS,
    still: bool = False,
) -> list[float]:
    """Distance of ``arm`` over the best of the arms ``of``, LoRA by LoRA. ``name``: which distance.

    ``still``: the best of those that move no more outside than ``arm`` does, and of no LoRA.
    """
    others = [_of(results, each) for each in of]
    nothing, ratios = _of(results, "none"), []
    for cell, found in _of(results, arm).items():
        rivals = [other[cell] for other in others if cell in other]
        if still:
            rivals = [each for each in rivals if each["old"]["paired"] <= found["old"]["paired"]] + [nothing[cell]]
        if rivals:
            ratios.append(found["whole"][name] / min(each["whole"][name] for each in rivals))
    return ratios


def drift(results: Sequence[Result], arm: str) -> list[float]:
    """Distance outside over that without a LoRA, LoRA by LoRA."""
    return _ratios(results, arm, "none", "old", "paired")


def section(found: Mapping[str, Sequence[Result]], moved: Mapping[str, float]) -> list[str]:
    """Lines of Markdown, the title first. ``found``: results by sibling; ``moved``: see ``distilled``."""
    everything = [result for results in found.values() for result in results]
    styles = [style for style in subjects.STYLES if any(r["style"] == style for r in everything)]
    lines = [
        TITLE,
        "",
        f"Siblings of the built-in base that draw in {distilled.STEPS} steps what the base draws in "
        f"{distilled.STEPS * distilled.SUB_STEPS} at its guidance, made by `benchmarks/quality/siblings/distilled.py` "
        f"without a picture: one near the base, one far from it. LoRAs of {len(styles)} styles from "
        f"{everything[0]['images']} pictures, seeds {', '.join(map(str, sorted({r['seed'] for r in everything})))}, "
        f"sampled on the sibling with Euler in {distilled.STEPS} steps; those *sampled there* on the base in its own "
        f"{job.MANY.steps}. *Distance* to the true pictures of unseen subjects; *FD*: Fréchet distance to them; "
        "*subject*: the share whose nearest true picture is the one asked for; *style*: the share that a classifier "
        "takes for it; *sharpness* over the true pictures'. *Outside*: captions in a style that the base knows and "
        "that no LoRA was trained or held on: distance over that without a LoRA on the sibling, and subject.",
        "",
    ]
    for sibling, results in found.items():
        lines += [f"### {sibling.capitalize()}: {moved[sibling]:.0%} of the base's norm away", ""]
        lines += [*_table(results, styles), "", *_medians(results), ""]
    return lines


def _table(results: Sequence[Result], styles: Sequence[str]) -> list[str]:
    bare, seeds = _of(results, "none"), {r["seed"] for r in results}
    lines = [
        "| style | LoRA | distance | FD | subject | style | sharpness | outside, distance | outside, subject |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for style, arm in itertools.product(styles, job.ARMS):
        rows = [(cell, r) for cell, r in _of(results, arm).items() if cell[0] == style]
        if not rows:
            continue
        whole = {
            name: sum(r["whole"][name] for _, r in rows) / len(rows)
            for name in ("paired", "frechet", "retrieval", "style", "sharpness")
        }
        outside = sum(r["old"]["paired"] / bare[cell]["old"]["paired"] for cell, r in rows) / len(rows)
        kept = sum(r["old"]["retrieval"] for _, r in rows) / len(rows)
        alone = f" (seed {rows[0][0][1]})" if len(rows) < len(seeds) else ""
        lines.append(
            f"| {style} | {job.ARMS[arm].title}{alone} | {whole['paired']:.3f} | {whole['frechet']:.1f} | "
            f"{whole['retrieval']:.2f} | {whole['style']:.2f} | {whole['sharpness']:.2f} | {outside:.3f} | {kept:.2f} |"
        )
    return lines


def _medians(results: Sequence[Result]) -> list[str]:
    def over(other: str, name: str, arm: str = "stage2") -> str:
        return told(_ratios(results, arm, other, "whole", name))

    return [
        f"Stage 2, medians over {len(_of(results, 'stage2'))} LoRAs with 95 % intervals:",
        "",
        "- Over the better of two, trained on the base and by flow loss on the distilled model: distance "
        f"{told(over_best(results, 'stage2', of=TWO))} (asked: 0.5), FD "
        f"{told(over_best(results, 'stage2', 'frechet', of=TWO))}.",
        "- Over the best of all without it, strengths and longer training among them, whatever they cost outside: "
        f"distance {told(over_best(results, 'stage2'))}, FD {told(over_best(results, 'stage2', 'frechet'))}.",
        "- Over the best of those that move no more outside than it does, or of no LoRA: distance "
        f"{told(over_best(results, 'stage2', still=True))}, FD "
        f"{told(over_best(results, 'stage2', 'frechet', still=True))}.",
        f"- Over the LoRA trained on the base: distance {over('base', 'paired')}, FD {over('base', 'frechet')}.",
        f"- Subject, over the LoRA trained by flow loss: {over('flow', 'retrieval')}.",
        f"- Outside: {told(drift(results, 'stage2'))} of the distance without a LoRA (asked: 1.05), where the LoRA "
        f"trained on the base has {told(drift(results, 'base'))}, the one trained on the distilled model "
        f"{told(drift(results, 'flow'))}.",
        f"- The LoRA trained on the base is on the sibling at {over('many', 'paired', 'base')} of its distance on the "
        "base.",
    ]


def write(found: Mapping[str, Sequence[Result]], moved: Mapping[str, float], report: Path) -> None:
    """Put the section in the place of the one that ``report`` has, or before its last one."""
    page = report.read_text(encoding="utf-8")
    text = "\n".join(section(found, moved)) + "\n"
    old = re.search(rf"^{re.escape(TITLE)}\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    if old:
        page = page[: old.start()] + text + page[old.end() :]
    else:
        last = page.rindex("\n## ") + 1
        page = page[:last] + text + page[last:]
    report.write_text(page, encoding="utf-8")
