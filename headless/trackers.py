"""Curves and previews in TensorBoard, wandb and trackio, through accelerate. Nothing is sent unless the user set it up.

A stage's run is a run of the tracker, under the name of its folder, so that a run that goes on does so there as well.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from ..training.data.latent_cache import digest
from ..training.failure_words import reason
from .run_config import RunConfig, TrackersConfig

log = logging.getLogger(__name__)

FOLDER = "tensorboard"


class TrackerError(ValueError):
    """A tracker that is unknown or not installed. The message says what to do."""


def wanted(config: TrackersConfig) -> tuple[str, ...]:
    """The trackers asked for. Raises ``TrackerError`` for one that is unknown or not installed."""
    names = tuple(dict.fromkeys(name for part in config.trackers.split(",") if (name := part.strip().lower())))
    for name in names:
        if name not in _TRACKERS:
            raise TrackerError(f"trackers.trackers: there is no tracker {name!r}; there are {', '.join(_TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise TrackerError(f"trackers.trackers: {name} is not installed. Install it: pip install {name}")
    return names


class Trackers:
    """Those of one run of a stage. They are started with the first number; one that fails is given up with a warning.

    ``stage``: before each metric's name, as in ``diffusion/diffusion_loss``. ``folder``: the run's. ``config``: is
    stored with the run.
    """

    def __init__(self, stage: str, folder: Path, config: RunConfig) -> None:
        self._stage, self._folder, self._config = stage, folder, config
        self._waiting = wanted(config.trackers)
        self._running: dict[str, _Tracker] = {}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of ``step``, which is the stage's own."""
        named = {f"{self._stage}/{name}": float(value) for name, value in values.items()}
        self._each(step, lambda tracker: tracker.tracker.log(named, step=step))

    def picture(self, step: int, picture: Image.Image) -> None:
        """A preview."""
        self._each(step, lambda tracker: tracker.picture(f"{self._stage}/preview", step, picture))

    def finish(self) -> None:
        """Write what is left, and close."""
        for name in list(self._running):
            self._guarded(name, lambda tracker: tracker.tracker.finish())
        self._running.clear()

    def _each(self, step: int, act: Callable[[_Tracker], None]) -> None:
        for name in self._waiting:
            self._start(name, step)
        self._waiting = ()
        for name in list(self._running):
            self._guarded(name, act)

    def _start(self, name: str, step: int) -> None:
        PartialState()  # accelerate's trackers ask it which process they are in
        try:
            self._running[name] = _TRACKERS[name](self._folder, self._config, step)
        except Exception as error:
            self._give_up(name, error)

    def _guarded(self, name: str, act: Callable[[_Tracker], None]) -> None:
        # Whatever it is: hours of training must not end because of a curve.
        try:
            act(self._running[name])
        except Exception as error:
            del self._running[name]
            self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        log.warning(
            "%s failed and gets no more of the %s stage, which goes on: %s: %s",
            name, self._stage, type(error).__name__, reason(error),
        )  # fmt: skip


class _Tracker:
    """One tracker, running. ``tracker``: accelerate's."""

    def __init__(self, tracker: GeneralTracker) -> None:
        self.tracker = tracker
        tracker.start()

    def picture(self, name: str, step: int, picture: Image.Image) -> None:
        self.tracker.log_images({name: [picture]}, step=step)


class _TensorBoard(_Tracker):
    def __init__(self, folder: Path, config: RunConfig, step: int) -> None:
        # What an earlier sitting wrote from this step on is trained, and written, again.
        super().__init__(TensorBoardTracker(folder.name, folder.parent / FOLDER, purge_step=step))
        if step <= 1:
            self.tracker.store_init_configuration(_flat(config))

    def picture(self, name: str, step: int, picture: Image.Image) -> None:
        pixels = numpy.asarray(picture.convert("RGB"))[None]
        self.tracker.log_images({name: pixels}, step=step, dataformats="NHWC")


class _WandB(_Tracker):
    def __init__(self, folder: Path, config: RunConfig, step: int) -> None:
        import wandb

        asked = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
        tracker = WandBTracker(
            config.trackers.project,
            name=folder.name,
            id=_identity(folder),
            dir=str(folder.parent),
            config=_flat(config),
            # Without a key wandb would ask for one, and wait.
            mode=None if asked else "offline",
            resume="allow" if asked else None,
            settings=wandb.Settings(console="off", disable_git=True),
        )
        super().__init__(tracker)


class _Trackio(_Tracker):
    def __init__(self, folder: Path, config: RunConfig, step: int) -> None:
        tracker = TrackioTracker(
            config.trackers.project,
            name=f"{folder.name}-{_identity(folder)}",
            config=_flat(config),
            resume="allow",
        )
        super().__init__(tracker)

    def picture(self, name: str, step: int, picture: Image.Image) -> None:
        import trackio

        self.tracker.log({name: trackio.Image(picture)}, step=step)


_TRACKERS: dict[str, Callable[[Path, RunConfig, int], _Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
}


def _identity(folder: Path) -> str:
    """The same for a run that goes on, another for one of the same name elsewhere."""
    return digest(str(folder.resolve()))[:12]


def _flat(config: RunConfig) -> dict[str, Any]:
    """``section.option`` -> value."""
    sections = dataclasses.asdict(config)
    return {f"{section}.{name}": value for section, options in sections.items() for name, value in options.items()}
