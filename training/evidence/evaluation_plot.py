"""An evaluation as a chart, and its pictures as a sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ..step_counts import steps_text
from .evaluation_result import Evaluation, Result
from .glossary import CURVES, MEASURED
from .latent_metrics import Measurement
from .plot import draw_measured, draw_score, draw_watched, drawn, new_figure
from .sheet import Group, Sheet, draw_sheet
from .training_log import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of ``Measurement``, with the panel's title.
PANELS = {
    "frechet": "Fréchet distance (lower is better)",
    "patch_sliced_wasserstein": "distance of 3x3 patches (lower is better)",
    "spectrum_distance": "distance of spectra (lower is better)",
    "high_frequency": f"{CURVES['high_frequency'].label}, as a multiple of the real ones (best: 1)",
    "diversity": f"{CURVES['diversity'].label}, as a multiple of the real one (best: 1)",
    "memorised": "share that resembles training pictures (not above the floor)",
}
DISTANCES = ("frechet", "patch_sliced_wasserstein", "spectrum_distance")
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
MARKERS = "osD^"
_COLUMNS = 3


def plot_evaluation(evaluation: Evaluation, log: TrainingLog | None = None) -> Image.Image:
    """Six of the metrics over the number of sampling steps: a line for each LoRA, the floor dotted.

    Beneath, where ``log`` has measurements, what the watch saw in that stage over its updates, as the training node's
    chart shows it: the score with the best state, diversity and high frequencies, the held-out flow loss.
    """
    watched = log is not None and was_watched(log)
    rows = len(PANELS) // _COLUMNS + watched
    figure = new_figure(5.5 * _COLUMNS, 4.5 * rows)
    axes = figure.subplots(rows, _COLUMNS).flatten()
    for axis, (field, title) in zip(axes, PANELS.items(), strict=False):
        axis.set_title(title)
        _lines(axis, evaluation, field)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    if log is not None and watched:
        _watch(axes[len(PANELS) :], log)
    return drawn(figure)


def was_watched(log: TrainingLog) -> bool:
    """Whether anything was measured in a stage that ``plot_evaluation`` can show."""
    return any(name in record for record in log.records for name in MEASURED)


def _watch(axes: Sequence[Axes], log: TrainingLog) -> None:
    draw_score(axes[0], log)
    draw_watched(axes[1], log)
    draw_measured(axes[2], log, "held_out_loss")
    titles = ("score (lower is better)", "what the watch sees (best: 1)", "held-out flow loss (lower is better)")
    for axis, title in zip(axes, titles, strict=True):
        if not axis.lines:
            axis.set_axis_off()
            continue
        axis.set_title(f"{log.stage} stage: {title}")
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
        axis.legend(loc="best")


def _lines(axis: Axes, evaluation: Evaluation, field: str) -> None:
    counts = sorted({result.steps for result in evaluation.results})
    # Evenly spaced, for 1, 2, 4 and 25 are all of interest; a single one stays in the middle.
    axis.set_xticks(range(len(counts)), [str(count) for count in counts])
    axis.set_xlim(-0.5, len(counts) - 0.5)
    axis.set_xlabel("sampling steps")
    axis.grid(alpha=0.3)
    shown = []
    for number, name in enumerate(evaluation.names):
        points = [_value(r.measurement, field) for r in evaluation.results if r.name == name]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axis.plot(range(len(counts)), points, label=name, **style)
        shown += points
    if evaluation.floor is not None and math.isfinite(_value(evaluation.floor, field)):
        axis.axhline(_value(evaluation.floor, field), color="black", linestyle=":", label="real against real (floor)")
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color="gray")
        return
    # Of a bare base the distances can be a hundred times those of a LoRA.
    if field in DISTANCES and min(finite) > 0 and max(finite) > 10 * min(finite):
        axis.set_yscale("log")


def _value(measurement: Measurement, field: str) -> float:
    return getattr(measurement, field)


def picture_sheet(evaluation: Evaluation, decode: Callable[[Result], Sequence[Image.Image]]) -> Sheet:
    """The pictures that were kept: a row for each LoRA and number of steps, a column for each caption and noise.

    ``decode``: the pictures of a result's latents. Raises ``ValueError`` where none was kept.
    """
    results = (*evaluation.results, *evaluation.neighbours)
    rows = [f"{result.title}\n{steps_text(result.steps)}" for result in results]
    pictures = [decode(result) for result in results]
    groups = [
        Group(prompt=caption, columns=("",), cells=tuple((own[place],) for own in pictures))
        for place, caption in enumerate(evaluation.captions)
    ]
    return draw_sheet(rows, groups)
