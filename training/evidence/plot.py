"""The curves of one or more stages as a picture; and how a figure becomes one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from .training_log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHING = 0.95
LOSSES = {
    "diffusion_loss": ("flow loss", "tab:blue"),
    "adversarial_loss": ("adversarial loss", "tab:orange"),
    "discriminator_loss": ("discriminator loss", "tab:green"),
}
ACCURACIES = {
    "real_accuracy": ("accuracy on real", "tab:green"),
    "fake_accuracy": ("accuracy on fake", "tab:red"),
}


def smoothed(values: Sequence[float], smoothing: float = SMOOTHING) -> list[float]:
    """Exponential average without its bias towards the start: the first value is ``values[0]``."""
    average, weight, out = 0.0, 0.0, []
    for value in values:
        average = smoothing * average + (1 - smoothing) * value
        weight = smoothing * weight + (1 - smoothing)
        out.append(average / weight)
    return out


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
    """Losses above, accuracies or gradient norms below, one column a log; raw values faint, smoothed ones on top.

    Held-out flow loss, where it was measured, is drawn as dots. Raises ``ValueError`` where there is no log.
    """
    if not logs:
        raise ValueError("There is no training log to plot: connect at least one.")
    figure = new_figure(7 * len(logs), 7)
    axes = figure.subplots(2, len(logs), squeeze=False)
    for column, log in enumerate(logs):
        upper, lower = axes[0][column], axes[1][column]
        upper.set_title(f"{log.stage} stage, {len(log.records)} records")
        _curves(upper, log, LOSSES)
        _held_out(upper, log)
        if any("real_accuracy" in record for record in log.records):
            _curves(lower, log, ACCURACIES)
            lower.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
            lower.set_ylim(-0.02, 1.02)
            lower.set_ylabel("share judged rightly")
        else:
            _curves(lower, log, {"grad_norm": ("gradient norm of the LoRA", "tab:purple")})
            if any(record.get("grad_norm", 0.0) > 0 for record in log.records):
                lower.set_yscale("log")
        lower.set_xlabel("step")
        for axis in (upper, lower):
            axis.grid(alpha=0.3)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="best")
    return drawn(figure)


def _curves(axis: Axes, log: TrainingLog, series: dict[str, tuple[str, str]]) -> None:
    for key, (label, colour) in series.items():
        points = [(record["step"], record[key]) for record in log.records if key in record]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        axis.plot(steps, smoothed(values), color=colour, label=label)


def _held_out(axis: Axes, log: TrainingLog) -> None:
    points = [(record["step"], record["held_out_loss"]) for record in log.records if "held_out_loss" in record]
    if points:
        axis.plot(*zip(*points, strict=True), "o--", color="black", markersize=4, label="flow loss, held out")
