"""An evaluation as a chart, and its pictures as a sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ..step_counts import steps_text
from .evaluation_result import Evaluation, Result
from .latent_metrics import Measurement
from .plot import drawn, new_figure
from .sheet import Group, Sheet, draw_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of ``Measurement``, with the panel's title.
PANELS = {
    "frechet": "Fréchet distance (lower is better)",
    "patch_sliced_wasserstein": "distance of 3x3 patches (lower is better)",
    "spectrum_distance": "distance of spectra (lower is better)",
    "high_frequency": "fine detail, as a multiple of the real one (best: 1)",
    "diversity": "diversity, as a multiple of the real one (best: 1)",
    "memorised": "share that resembles training pictures (not above the floor)",
}
DISTANCES = ("frechet", "patch_sliced_wasserstein", "spectrum_distance")
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")
MARKERS = "osD^"
_COLUMNS = 3


def plot_evaluation(evaluation: Evaluation) -> Image.Image:
    """Six of the metrics over the number of sampling steps: a line for each LoRA, the floor dotted."""
    figure = new_figure(5.5 * _COLUMNS, 9)
    axes = figure.subplots(len(PANELS) // _COLUMNS, _COLUMNS).flatten()
    for axis, (field, title) in zip(axes, PANELS.items(), strict=True):
        axis.set_title(title)
        _lines(axis, evaluation, field)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawn(figure)


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
