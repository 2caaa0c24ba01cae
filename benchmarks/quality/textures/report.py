"""The textures' part of the page: tables, a plot and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..statistics import median_and_interval, told
from . import domains
from .arms import ARMS, DISCRIMINATOR_RATE, GENERATOR_STEPS, LORA_RATE, SCALE, STAGE_1_STEPS
from .job import SAMPLES, STEP_COUNTS, UNSEEN, Job

Result = dict[str, Any]
# With few pictures the flow loss is held to stage 1, not to them.
FEW_ARM = "anchored"
TITLES = {"base": "base, no LoRA", "stage1": "stage 1", **{name: arm.title for name, arm in ARMS.items()}}
COLUMNS: tuple[tuple[str, Callable[[Result], float]], ...] = (
    ("**FD at 4**", lambda r: r["4"]["frechet"]),
    ("HF at 4", lambda r: r["4"]["high_frequency"]),
    ("diversity at 4", lambda r: r["4"]["diversity"]),
    ("memorised at 4", lambda r: r["4"]["memorised"]),
    ("**FD at 25**", lambda r: r["25"]["frechet"]),
    ("HF at 25", lambda r: r["25"]["high_frequency"]),
    ("memorised at 25", lambda r: r["25"]["memorised"]),
    ("flow loss", lambda r: r["flow"]),
)


def chosen(results: Iterable[Result], images: int, arm: str) -> dict[tuple[str, int], Result]:
    """Domain and seed -> result."""
    return {(r["domain"], r["seed"]): r for r in results if r["images"] == images and r["arm"] == arm}


def best_stock(result: Result, steps: int) -> float:
    """The distance with the best of all solvers at that number of evaluations."""
    return min(result["solvers"][str(steps)].values())


def over_best_solver(results: list[Result], images: int, arm: str = "target4", steps: int = 4) -> list[float]:
    """The arm with Euler over stage 1 with the best stock solver, pair by pair."""
    ours, stage_1 = chosen(results, images, arm), chosen(results, images, "stage1")
    pairs = sorted(ours.keys() & stage_1.keys())
    return [ours[pair][str(steps)]["frechet"] / best_stock(stage_1[pair], steps) for pair in pairs]


def toll(results: list[Result], images: int, arm: str, steps: int) -> list[float]:
    """The arm's worst distance with any solver at ``steps`` evaluations over its own with Euler at 4, pair by pair."""
    ours = chosen(results, images, arm)
    return [max(ours[pair]["solvers"][str(steps)].values()) / ours[pair]["4"]["frechet"] for pair in sorted(ours)]


def summary(results: list[Result], images: int, few_images: int) -> dict[str, Any]:
    """The numbers of this part in the JSON line; see ``run``."""
    out = {}
    for name, count, arm in (("target4", images, "target4"), ("few_images", few_images, FEW_ARM)):
        ratios = over_best_solver(results, count, arm)
        if not ratios:
            out[name] = {"ratio": None, "ci": None, "pairs": 0, "better_in": 0}
            continue
        middle, interval = median_and_interval(ratios)
        out[name] = {
            "ratio": round(middle, 4), "ci": [round(each, 4) for each in interval], "pairs": len(ratios),
            "better_in": sum(ratio < 1 for ratio in ratios),
        }  # fmt: skip
    return out


def write_pictures(results: list[Result], floors: dict[str, Any], folder: Path, pictures: Path, images: int) -> None:
    """The plot and a grid for each domain, into ``pictures``."""
    _plot(results, floors, images).save(pictures / "frechet.png", optimize=True)
    for domain in domains.DOMAINS:
        _grid(folder, domain, images).save(pictures / f"{domain}.png", optimize=True)


def section(results: list[Result], floors: dict[str, Any], images: int, few_images: int) -> list[str]:
    """Lines of Markdown."""
    steps = " or ".join(f"{count} ({number} images)" for number, count in STAGE_1_STEPS.items())
    lines = [
        "## Textures",
        "",
        f"A FLUX-shaped transformer of 0.4 million weights and {len(domains.DOMAINS)} domains of real photographs "
        f"({', '.join(domains.DOMAINS)}), of which one picture gives unlimited unseen examples of the same kind. "
        f"Stage 1 adapts the LoRA in {steps} steps; from its result each arm takes {GENERATOR_STEPS} more generator "
        f"steps of batch {SCALE['batch_size']} (learning rates {LORA_RATE:g} for the LoRA, {DISCRIMINATOR_RATE:g} for "
        "the discriminator). FD is the Fréchet distance of 80 statistics of a fixed random network, which no "
        f"discriminator sees, between {SAMPLES[4]} (at 4 steps; {SAMPLES[25]} at 25) samples and {UNSEEN} crops from "
        "parts of the photograph that no arm trains on. HF is the power of the highest third of frequencies over "
        "real; 1 is ideal. Diversity is the mean distance between samples over that between unseen crops. Memorised "
        "is the share of samples closer to a training picture than 95 % of unseen crops are; 0.05 is ideal. All are "
        "sampled with Euler but for the column that says otherwise.",
        "",
        "FD of ours with Euler over stage 1 with its best stock solver, at as many evaluations; medians and 95 % "
        "intervals over domains and seeds:",
        "",
        "| | ratio | better in |",
        "|---|---|---|",
    ]
    for title, count, arm, at in (
        (f"target_steps 4, {images} images", images, "target4", 4),
        (f"target_steps 4, {few_images} images", few_images, "target4", 4),
        (f"target_steps 4, anchor start, {few_images} images", few_images, FEW_ARM, 4),
        (f"target_steps 25, {images} images, at 25", images, "target25", 25),
        (f"two_samplers, {images} images, at 4", images, "both", 4),
        (f"two_samplers, {images} images, at 25", images, "both", 25),
    ):
        ratios = over_best_solver(results, count, arm, at)
        if ratios:
            lines.append(f"| {title} | {told(ratios)} | {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} |")
    lines += ["", "![Fréchet distance of every arm](experiments/frechet.png)", ""]
    for count, arms in ((images, TITLES), (few_images, ("stage1", "control", "target4", FEW_ARM))):
        for domain in domains.DOMAINS:
            lines += [f"### {domain}, {count} images", "", *_table(results, floors[domain], domain, count, arms), ""]
            lines += [*_solvers(results, domain, count), ""]
            if count == images:
                lines += [f"![Samples, {domain}](experiments/{domain}.png)", ""]
    return lines


def _table(results: list[Result], floor: dict[str, Any], domain: str, images: int, arms: Iterable[str]) -> list[str]:
    """Mean and deviation over the seeds."""
    lines = ["| arm | " + " | ".join(title for title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for arm in arms:
        runs = [r for (d, _), r in sorted(chosen(results, images, arm).items()) if d == domain]
        if runs:
            cells = [_cell([value(r) for r in runs]) for _, value in COLUMNS]
            lines.append(f"| {TITLES[arm]} | " + " | ".join(cells) + " |")
    cells = []
    for _, value in COLUMNS:
        try:
            cells.append(f"{value(floor):.3g}")
        except KeyError:
            cells.append("")
    lines.append("| *real against real* | " + " | ".join(cells) + " |")
    return lines


def _solvers(results: list[Result], domain: str, images: int) -> list[str]:
    """FD by solver, the mean over the seeds."""
    lines: list[str] = []
    for arm in ("stage1", "control", "target4", FEW_ARM):
        runs = [r for (d, _), r in chosen(results, images, arm).items() if d == domain and r["solvers"]]
        if not runs:
            continue
        names = [(steps, solver) for steps in runs[0]["solvers"] for solver in runs[0]["solvers"][steps]]
        if not lines:
            lines = ["| FD by solver | " + " | ".join(f"{solver} {steps}" for steps, solver in names) + " |"]
            lines.append("|---" * (len(names) + 1) + "|")
        cells = [f"{statistics.mean(r['solvers'][steps][solver] for r in runs):.3g}" for steps, solver in names]
        lines.append(f"| {TITLES[arm]} | " + " | ".join(cells) + " |")
    return lines


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}"


def _plot(results: list[Result], floors: dict[str, Any], images: int) -> Image.Image:
    figure = Figure(figsize=(5 * len(domains.DOMAINS), 5), dpi=90, layout="constrained")
    axes = figure.subplots(1, len(domains.DOMAINS), squeeze=False)[0]
    for axis, domain in zip(axes, domains.DOMAINS, strict=True):
        for number, (arm, title) in enumerate(TITLES.items()):
            runs = [r for (d, _), r in chosen(results, images, arm).items() if d == domain]
            if runs:
                colour, ours = f"C{number}", title.startswith("ours")
                axis.scatter(
                    [r["4"]["frechet"] for r in runs], [r["25"]["frechet"] for r in runs],
                    color=colour, marker="*" if ours else "o", s=110 if ours else 35, label=title, zorder=2 + ours,
                )  # fmt: skip
        stock = [r for (d, _), r in chosen(results, images, "stage1").items() if d == domain]
        if stock:
            axis.scatter(
                [best_stock(r, 4) for r in stock], [best_stock(r, 25) for r in stock],
                color="black", marker="x", s=50, label="stage 1, best stock solver", zorder=4,
            )  # fmt: skip
        axis.axvline(floors[domain]["4"]["frechet"], color="gray", linestyle=":")
        axis.axhline(floors[domain]["25"]["frechet"], color="gray", linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="FD at 4 steps", ylabel="FD at 25 steps", title=domain)
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, loc="best")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _grid(folder: Path, domain: str, images: int) -> Image.Image:
    """Rows: arms at 4 and at 25 steps, the same noise; the last row is unseen photographs. Titles at the left."""
    rows: list[tuple[str, Tensor]] = []
    for arm in TITLES:
        file = folder / f"{Job(domain, 0, images, arm).name}.safetensors"
        if file.exists():
            shown = load_file(file)
            rows += [(f"{TITLES[arm]}, {steps} steps", shown[str(steps)]) for steps in STEP_COUNTS]
    unseen = domains.crops(domains.grey(domains.DOMAINS[domain]), len(rows[0][1]), 7, unseen=True)
    rows.append(("unseen photographs", unseen))
    figure = Figure(figsize=(11, 0.55 * len(rows)), dpi=90)
    for number, (title, latents) in enumerate(rows):
        axis = figure.add_axes((0.33, 1 - (number + 1) / len(rows), 0.66, 0.95 / len(rows)))
        pixels = torch.nn.functional.pad(domains.decode(latents), (1, 1, 1, 1), value=1.0)
        axis.imshow(torch.cat(list(pixels), 1), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.axis("off")
        figure.text(0.005, 1 - (number + 0.5) / len(rows), title, fontsize=9, va="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L")
