"""Where a stage of a headless run reports: the terminal, the run's folder, the trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..training.evidence.picture_files import side_by_side
from ..training.evidence.preview_sheet import Row, save_preview
from ..training.failure_words import in_words
from .run_config import RunConfig
from .stop_signals import StopSignals
from .terminal import Progress, warn
from .trackers import Trackers

STAGE_NAMES = {"diffusion": "stage 1", "adversarial": "stage 2"}


class RunReporter:
    """The ``Reporter`` of the process that speaks for all.

    ``decode``: latents (n, 16, h, w) in model space -> pictures (n, H, W, 3) in [0, 1]. ``told``: where the texts of
    the notes go that the user has been shown.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        config: RunConfig,
        decode: Callable[[Tensor], Tensor],
        stop: StopSignals,
        told: list[str],
    ) -> None:
        self._name = STAGE_NAMES[stage]
        self._folder, self._decode, self._stop, self._told = folder, decode, stop, told
        warmup = config.adversarial.discriminator_warmup if stage == "adversarial" else 0
        self._progress = Progress(f"{self._name} ({warmup} of warm-up first)" if warmup else self._name)
        self._trackers = Trackers(stage, folder, config)

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        # The notes were read when they came, and are in stats.jsonl.
        self._progress.resumed(int(records[-1]["step"]) if records else 0)

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self._progress.update(step, total, values)
        self._trackers.scalars(step, values)

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        picture = side_by_side(self._decode(latents))
        self._trackers.picture(step, picture)
        try:
            save_preview(picture, rows, self._folder, step, delivered)
        except OSError as error:
            self.note(step, f"The preview is not kept. {in_words(error)}")

    def note(self, step: int, text: str) -> None:
        warn(f"{self._name}, update {step}: {text}")
        self._told.append(text)

    def should_stop(self) -> bool:
        return bool(self._stop)

    def close(self) -> None:
        """The stage is over, however it ended."""
        self._progress.close()
        self._trackers.finish()


class QuietReporter:
    """The ``Reporter`` of every other process: it only passes on that the run is to stop."""

    def __init__(self, stop: StopSignals) -> None:
        self._stop = stop

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        pass

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        pass

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        pass

    def note(self, step: int, text: str) -> None:
        pass

    def should_stop(self) -> bool:
        return bool(self._stop)

    def close(self) -> None:
        pass
