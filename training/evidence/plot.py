"""The curves of one or more stages as a picture; and how a figure becomes one."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from .glossary import CURVES
from .smoothing import smoothed, window
from .training_log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = ("diffusion_loss", "adversarial_loss", "discriminator_loss")
WATCHED = ("diversity", "high_frequency")
ACCURACIES = ("real_accuracy", "fake_accuracy", "pair_accuracy")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many hundred pixels."""
    # Figure and its canvas directly: pyplot would choose a window system and keep every figure alive.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def drawn(figure: Figure) -> Image.Image:
    """The figure as an RGB picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def plot_logs(logs: Sequence[TrainingLog]) -> Image.Image:
    """One column a log, with the words and colours of the chart in the training nodes; see ``glossary``.

    From above: the losses; the score and what the watch sees, where they were measured; accuracies, or gradient norms.
    Raw values are faint, smoothed ones strong, measurements dots; a dotted line is where the stage started from. Raises
    ``ValueError`` where there is no log.
    """
    if not logs:
        raise ValueError("There is no training log to plot: connect at least one.")
    watched = any("score" in record for log in logs for record in log.records)
    heights = [3.0, 2.0, 2.0, 2.5] if watched else [3.5, 3.5]
    figure = new_figure(7 * len(logs), sum(heights))
    rows = figure.subplots(len(heights), len(logs), squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights})
    for column, log in enumerate(logs):
        axes = [row[column] for row in rows]
        axes[0].set_title(f"{log.stage} stage, {len(log.records)} records")
        _curves(axes[0], log, LOSSES)
        draw_measured(axes[0], log, "held_out_loss")
        if watched:
            draw_score(axes[1], log)
            draw_watched(axes[2], log)
        if any("real_accuracy" in record for record in log.records):
            _curves(axes[-1], log, ACCURACIES)
            axes[-1].axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
            axes[-1].set_ylim(-0.02, 1.02)
        else:
            _curves(axes[-1], log, ("grad_norm",))
            if any(record.get("grad_norm", 0.0) > 0 for record in log.records):
                axes[-1].set_yscale("log")
        axes[-1].set_xlabel("update")
        for axis in axes:
            axis.grid(alpha=0.3)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="best")
            elif axis is not axes[0] and not axis.lines:
                axis.set_axis_off()
    return drawn(figure)


def _curves(axis: Axes, log: TrainingLog, names: Sequence[str]) -> None:
    for name in names:
        steps, values = _points(log, name)
        if not steps:
            continue
        term, width = CURVES[name], window(int(log.records[-1].get("total", steps[-1])))
        axis.plot(steps, values, color=term.colour, alpha=0.2, linewidth=0.8)
        axis.plot(steps, smoothed(steps, values, width), color=term.colour, label=term.label)


def draw_measured(axis: Axes, log: TrainingLog, name: str, unit: float = 1.0) -> None:
    """One of ``glossary.MEASURED`` as dots, where it was measured. ``unit``: what values are told as a share of."""
    steps, values = _points(log, name)
    if steps:
        term = CURVES[name]
        axis.plot(steps, [value / unit for value in values], "o--", color=term.colour, markersize=4, label=term.label)


def draw_score(axis: Axes, log: TrainingLog) -> None:
    """The score, with the start as a dotted line and a ring around the best."""
    draw_measured(axis, log, "score")
    steps, values = _points(log, "score")
    if not steps:
        return
    if steps[0] == 0:
        axis.axhline(values[0], color="gray", linewidth=0.8, linestyle=":", label="start")
    best = {int(record["best_step"]) for record in log.records[-1:] if "best_step" in record}
    for step, value in zip(steps, values, strict=True):
        if step in best:
            label = f"best: update {step:g}" if step else "best: the start"
            axis.plot([step], [value], "o", color="black", fillstyle="none", markersize=10, label=label)


def draw_watched(axis: Axes, log: TrainingLog) -> None:
    """Diversity as a share of the start's, and high frequencies."""
    steps, values = _points(log, "diversity")
    if steps and values[0] > 0:
        draw_measured(axis, log, "diversity", values[0])
    draw_measured(axis, log, "high_frequency")
    if axis.lines:
        axis.axhline(1.0, color="gray", linewidth=0.8, linestyle=":")


def _points(log: TrainingLog, name: str) -> tuple[list[float], list[float]]:
    """Steps and values, those that are not finite left out."""
    points = [(r["step"], r[name]) for r in log.records if name in r and math.isfinite(r[name])]
    return [step for step, _ in points], [value for _, value in points]
