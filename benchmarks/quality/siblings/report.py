"""The comparison on the distilled sibling as a section of docs/EXPERIMENTS.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..statistics import told
from ..styles import subjects
from . import distilled, job

Result = dict[str, Any]
TITLE = "## On the distilled sibling"


def _of(results: Sequence[Result], arm: str) -> dict[tuple[str, int], Result]:
    return {(r["style"], r["seed"]): r for r in results if r["arm"] == arm}


def _ratios(results: Sequence[Result], arm: str, other: str, part: str, name: str) -> list[float]:
    ours, theirs = _of(results, arm), _of(results, other)
    return [ours[cell][part][name] / theirs[cell][part][name] for cell in ours if cell in theirs]


def best_of_two(results: Sequence[Result], arm: str) -> list[float]:
    """Distance of ``arm`` over the better of the two without stage 2, LoRA by LoRA."""
    ours, base, flow = (_of(results, each) for each in (arm, "base", "flow"))
    return [
        found["whole"]["paired"] / min(base[cell]["whole"]["paired"], flow[cell]["whole"]["paired"])
        for cell, found in ours.items()
        if cell in base and cell in flow
    ]


def drift(results: Sequence[Result], arm: str) -> list[float]:
    """Distance outside over that without a LoRA, LoRA by LoRA."""
    return _ratios(results, arm, "none", "old", "paired")


def section(results: Sequence[Result]) -> list[str]:
    """Lines of Markdown, the title first."""
    arms = [arm for arm in job.ARMS if _of(results, arm)]
    styles = [style for style in subjects.STYLES if any(r["style"] == style for r in results)]
    seeds = sorted({r["seed"] for r in results})
    lines = [
        TITLE,
        "",
        f"A sibling of the built-in base that draws in {distilled.STEPS} steps what the base draws in "
        f"{distilled.STEPS * distilled.SUB_STEPS} at its guidance, made by `benchmarks/quality/siblings/distilled.py` "
        f"without a picture. LoRAs of {len(styles)} styles from {results[0]['images']} pictures, seeds "
        f"{', '.join(map(str, seeds))}, sampled on the sibling with Euler in {distilled.STEPS} steps; those *sampled "
        f"there* on the base in its own {job.MANY.steps}. *Distance* to the true pictures of unseen subjects; *FD*: "
        "Fréchet distance to them; *subject*: the share whose nearest true picture is the one asked for; *style*: the "
        "share that a classifier takes for it; *sharpness* over the true pictures'. *Outside*: captions in a style "
        "that the base knows and that no LoRA was trained or held on: distance over that without a LoRA on the "
        "sibling, and subject.",
        "",
        "| style | LoRA | distance | FD | subject | style | sharpness | outside, distance | outside, subject |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    bare = _of(results, "none")
    for style in styles:
        for arm in arms:
            rows = [(cell, r) for cell, r in _of(results, arm).items() if cell[0] == style]
            if not rows:
                continue
            whole = {
                name: sum(r["whole"][name] for _, r in rows) / len(rows)
                for name in ("paired", "frechet", "retrieval", "style", "sharpness")
            }
            moved = sum(r["old"]["paired"] / bare[cell]["old"]["paired"] for cell, r in rows) / len(rows)
            kept = sum(r["old"]["retrieval"] for _, r in rows) / len(rows)
            alone = f" (seed {rows[0][0][1]})" if len(rows) < len(seeds) else ""
            lines.append(
                f"| {style} | {job.ARMS[arm].title}{alone} | {whole['paired']:.3f} | {whole['frechet']:.1f} | "
                f"{whole['retrieval']:.2f} | "
                f"{whole['style']:.2f} | {whole['sharpness']:.2f} | {moved:.3f} | {kept:.2f} |"
            )
    frechet = _ratios(results, "stage2", "base", "whole", "frechet")
    lines += [
        "",
        f"Stage 2, medians over {len(_of(results, 'stage2'))} LoRAs with 95 % intervals: distance over the "
        f"better of the two LoRAs without it {told(best_of_two(results, 'stage2'))} (asked: 0.5), over the one "
        "trained on the base "
        f"{told(_ratios(results, 'stage2', 'base', 'whole', 'paired'))}, FD over that {told(frechet)}; outside "
        f"{told(drift(results, 'stage2'))} of the distance without a LoRA (asked: 1.05), where the LoRA trained on the "
        f"base has {told(drift(results, 'base'))} and the one trained on the distilled model "
        f"{told(drift(results, 'flow'))}. The LoRA trained on the base is on the sibling at "
        f"{told(_ratios(results, 'base', 'many', 'whole', 'paired'))} of its distance on the base: what it lacks it "
        "lacks there, too.",
    ]
    return [*lines, ""]


def write(results: Sequence[Result], report: Path) -> None:
    """Put the section in the place of the one that ``report`` has, or before its last one."""
    page = report.read_text(encoding="utf-8")
    text = "\n".join(section(results)) + "\n"
    old = re.search(rf"^{re.escape(TITLE)}\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    if old:
        page = page[: old.start()] + text + page[old.end() :]
    else:
        last = page.rindex("\n## ") + 1
        page = page[:last] + text + page[last:]
    report.write_text(page, encoding="utf-8")
