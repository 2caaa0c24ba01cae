"""From results to what a reader sees: the JSON summary, and docs/EXPERIMENTS.md with tables, plots and pictures."""

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

from . import domains
from .arms import ARMS, DISCRIMINATOR_RATE, GENERATOR_STEPS, LORA_RATE, SCALE, STAGE_1_STEPS
from .job import SAMPLES, STEP_COUNTS, UNSEEN, Job

Result = dict[str, Any]
OURS = {"target4": "4", "target25": "25", "both": "4"}
TITLES = {"base": "base, no LoRA", "stage1": "stage 1", **{name: arm.title for name, arm in ARMS.items()}}
COLUMNS: tuple[tuple[str, Callable[[Result], float]], ...] = (
    ("FD at 1", lambda r: r["1"]["frechet"]),
    ("**FD at 4**", lambda r: r["4"]["frechet"]),
    ("spectrum at 4", lambda r: r["4"]["spectrum_distance"]),
    ("HF at 4", lambda r: r["4"]["high_frequency"]),
    ("diversity at 4", lambda r: r["4"]["diversity"]),
    ("memorised at 4", lambda r: r["4"]["memorised"]),
    ("**FD at 25**", lambda r: r["25"]["frechet"]),
    ("spectrum at 25", lambda r: r["25"]["spectrum_distance"]),
    ("HF at 25", lambda r: r["25"]["high_frequency"]),
    ("diversity at 25", lambda r: r["25"]["diversity"]),
    ("memorised at 25", lambda r: r["25"]["memorised"]),
    ("flow loss", lambda r: r["flow"]),
)


def _chosen(results: Iterable[Result], images: int, arm: str) -> dict[tuple[str, int], Result]:
    return {(r["domain"], r["seed"]): r for r in results if r["images"] == images and r["arm"] == arm}


def summary(results: list[Result], floors: dict[str, Any], images: int, few_images: int) -> dict[str, Any]:
    """The numbers that the benchmark is run for; see ``run``."""
    out: dict[str, Any] = {}
    wins: dict[str, list[int]] = {}
    for name, arm, count in (*((arm, arm, images) for arm in OURS), ("few_images", "target4", few_images)):
        ours, control = _chosen(results, count, arm), _chosen(results, count, "control")
        steps = OURS[arm]
        pairs = [(ours[key], control[key]) for key in sorted(ours)]

        def median(value: Callable[[Result, Result], float], pairs: list[tuple[Result, Result]] = pairs) -> float:
            return round(statistics.median(value(a, b) for a, b in pairs), 4)

        out[name] = {
            "fd4": median(lambda a, b: a["4"]["frechet"] / b["4"]["frechet"]),
            "fd25": median(lambda a, b: a["25"]["frechet"] / b["25"]["frechet"]),
            "spectrum4": median(lambda a, b: a["4"]["spectrum_distance"] / b["4"]["spectrum_distance"]),
            "val_flow": median(lambda a, b: a["flow"] / b["flow"]),
            "diversity": median(lambda a, b, s=steps: a[s]["diversity"]),
            "memorised": median(lambda a, b, s=steps: a[s]["memorised"]),
            "memorised_control": median(lambda a, b, s=steps: b[s]["memorised"]),
            "high_frequency4": median(lambda a, b: a["4"]["high_frequency"]),
            "high_frequency25": median(lambda a, b: a["25"]["high_frequency"]),
        }
        counted = {"both": ("4", "25")}.get(arm, (steps,))
        wins[name] = [
            sum(all(a[s]["frechet"] < b[s]["frechet"] for s in counted) for a, b in pairs),
            len(pairs),
        ]
    floor = {d: {s: round(v["frechet"], 3) for s, v in found.items()} for d, found in floors.items()}
    return {**out, "floor": floor, "wins": wins}


def write(
    results: list[Result], floors: dict[str, Any], folder: Path, report: Path, images: int, few_images: int
) -> None:
    """``report`` and, beside it, a folder ``experiments`` with its plots and pictures."""
    pictures = report.parent / "experiments"
    pictures.mkdir(parents=True, exist_ok=True)
    _plot(results, floors, images).save(pictures / "frechet.png", optimize=True)
    for domain in domains.DOMAINS:
        _grid(folder, domain, images, results).save(pictures / f"{domain}.png", optimize=True)
    report.write_text("\n".join(_text(results, floors, images, few_images)) + "\n", encoding="utf-8")


def _text(results: list[Result], floors: dict[str, Any], images: int, few_images: int) -> list[str]:
    seeds = len({r["seed"] for r in results})
    found = summary(results, floors, images, few_images)
    steps = " or ".join(f"{count} ({number} images)" for number, count in STAGE_1_STEPS.items())
    lines = [
        "# Experiments",
        "",
        "Made by `make bench-quality`, which computes every number and picture on this page. Do not edit it by hand.",
        "",
        f"A FLUX-shaped transformer of 0.4 million weights, {len(domains.DOMAINS)} domains of real photographs "
        f"({', '.join(domains.DOMAINS)}: textures, of which one picture gives unlimited unseen examples of the same "
        f"kind), {seeds} seeds. Stage 1 adapts the LoRA in {steps} steps; from its result each arm takes "
        f"{GENERATOR_STEPS} more generator steps of batch {SCALE['batch_size']} (learning rates {LORA_RATE:g} for the "
        f"LoRA, {DISCRIMINATOR_RATE:g} for the discriminator; all else is the pack's default). FD is the Fréchet "
        "distance of 80 statistics of a fixed random network, which no discriminator sees, between "
        f"{SAMPLES[4]} (at 4 steps; {SAMPLES[25]} otherwise) samples and {UNSEEN} crops from parts of the photograph "
        "that no arm trains on. HF is the power of the highest third of frequencies over real; 1 is ideal. Diversity "
        "is the mean distance between samples over that between unseen crops. Memorised is the share of samples closer "
        "to a training picture than 95 % of unseen crops are; 0.05 is ideal.",
        "",
        "## In short",
        "",
        "Medians over domains and seeds, as ratios to the control (stage 1 continued, as many generator steps):",
        "",
        "| | FD at 4 | FD at 25 | spectrum at 4 | flow loss | HF at 4 | HF at 25 | diversity | memorised (control) | "
        "better in |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {**{arm: TITLES[arm] for arm in OURS}, "few_images": f"ours, target_steps 4, {few_images} images"}
    for name, title in names.items():
        f, (won, pairs) = found[name], found["wins"][name]
        lines.append(
            f"| {title} | {f['fd4']:.3f} | {f['fd25']:.3f} | {f['spectrum4']:.3f} | {f['val_flow']:.3f} | "
            f"{f['high_frequency4']:.2f} | {f['high_frequency25']:.2f} | {f['diversity']:.2f} | "
            f"{f['memorised']:.3f} ({f['memorised_control']:.3f}) | {won} of {pairs} |"
        )
    lines += ["", "![Fréchet distance of every arm](experiments/frechet.png)", ""]
    for count, arms in ((images, TITLES), (few_images, ("stage1", "control", "target4"))):
        for domain in domains.DOMAINS:
            lines += [f"## {domain}, {count} images", "", *_table(results, floors[domain], domain, count, arms), ""]
            if count == images:
                lines += [f"![Samples, {domain}](experiments/{domain}.png)", ""]
    return lines


def _table(results: list[Result], floor: dict[str, Any], domain: str, images: int, arms: Iterable[str]) -> list[str]:
    """Mean and deviation over the seeds."""
    lines = ["| arm | " + " | ".join(title for title, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for arm in arms:
        runs = [r for (d, _), r in sorted(_chosen(results, images, arm).items()) if d == domain]
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


def _cell(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}"


def _plot(results: list[Result], floors: dict[str, Any], images: int) -> Image.Image:
    figure = Figure(figsize=(5 * len(domains.DOMAINS), 5), dpi=90, layout="constrained")
    axes = figure.subplots(1, len(domains.DOMAINS), squeeze=False)[0]
    for axis, domain in zip(axes, domains.DOMAINS, strict=True):
        for number, (arm, title) in enumerate(TITLES.items()):
            runs = [r for (d, _), r in _chosen(results, images, arm).items() if d == domain]
            if runs:
                colour, ours = f"C{number}", arm in OURS
                axis.scatter(
                    [r["4"]["frechet"] for r in runs], [r["25"]["frechet"] for r in runs],
                    color=colour, marker="*" if ours else "o", s=110 if ours else 35, label=title, zorder=2 + ours,
                )  # fmt: skip
        axis.axvline(floors[domain]["4"]["frechet"], color="gray", linestyle=":")
        axis.axhline(floors[domain]["25"]["frechet"], color="gray", linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="FD at 4 steps", ylabel="FD at 25 steps", title=domain)
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, loc="best")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _grid(folder: Path, domain: str, images: int, results: list[Result]) -> Image.Image:
    """Rows: arms at 4 and at 25 steps, the same noise; the last row is unseen photographs. Titles at the left."""
    rows: list[tuple[str, Tensor]] = []
    for arm in TITLES:
        file = folder / f"{Job(domain, 0, images, arm).name}.safetensors"
        if file.exists():
            shown = load_file(file)
            rows += [(f"{TITLES[arm]}, {steps} steps", shown[str(steps)]) for steps in STEP_COUNTS if steps > 1]
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
