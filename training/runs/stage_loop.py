"""The loop around a stage's ``step()``: measurements, notes, previews, checkpoints, and an end that loses nothing."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..evidence.training_log import TrainingLog
from ..failure_words import reason
from ..lora import files as lora_files
from ..lora.adapter import FluxLoRA, LoRAError
from ..stages import previews
from ..stages.measurements import Stopped, share_of_time
from ..stages.optimiser import NonFiniteError
from ..stages.stage import Reporter, Stage, StageFailure, StageResult
from .checkpoints import STATS_FILE, CheckpointError, Snapshot
from .fingerprints import planned_over_steps
from .output_check import scarce_space
from .requests import Requests
from .run_directory import RESULT, RunDirectory
from .stats import Stats, parsed

log = logging.getLogger(__name__)


def run(
    stage: Stage, reporter: Reporter, directory: RunDirectory | None = None, requests: Requests | None = None
) -> StageResult:
    """Train to the stage's last step, or until the reporter says stop, from the last checkpoint in ``directory``.

    ``requests``: what is asked of it meanwhile. Raises ``StageFailure`` with the last good weights where a step fails,
    a loss that is not finite included.
    """
    return Loop(stage, reporter, directory, requests=requests).run()


def finished_result(directory: RunDirectory, start: FluxLoRA) -> StageResult | None:
    """What a run that started from ``start`` has delivered, or ``None`` where it is not finished."""
    done = directory.finished(start)
    if done is None:
        return None
    records, notes = parsed(done.stats)
    training_log = TrainingLog(directory.stage, tuple(records), str(directory.folder / STATS_FILE), tuple(notes))
    provenance = (*start.provenance, dict(done.provenance))
    return StageResult(replace(start, tensors=done.tensors, provenance=provenance, file=""), training_log, False)


class Loop:
    """One sitting of a run. ``step``: calls of the stage's ``step()`` that are done.

    ``pending``: the scalars of that step while its measurement is still to be made; ``None`` when it is complete.
    ``last_good``: where a step has failed, the state before it, if that is whole.
    """

    def __init__(
        self,
        stage: Stage,
        reporter: Reporter,
        directory: RunDirectory | None,
        again: Snapshot | None = None,
        requests: Requests | None = None,
    ) -> None:
        """From ``again``, which this very process has left; else from the last checkpoint in ``directory``."""
        self.stage, self.reporter, self.directory = stage, reporter, directory
        # Ranks are asked for nothing: each has requests of its own.
        self.requests = requests or Requests()
        self.last_good: Snapshot | None = None
        self.step = 0
        self.pending: dict[str, float] | None = {} if stage.config.validate_every else None
        self.score: float | None = None
        self.saved_at: int | None = None
        self._preview_every, self._preview_cut_off = previews.interval(stage), False
        self.stats = Stats(*self._restored(again))
        # An earlier sitting went for fewer steps, and has told the cost of their measurements.
        self._extended = bool(self.stats.records) and self.stats.records[-1]["total"] != stage.total
        if self.saved_at is not None and again is None:
            reporter.resumed(stage.name, stage.total, self.stats.records, self.stats.notes)

    def run(self) -> StageResult:
        """Train to the last step, or until the reporter says stop."""
        self._tell_space()
        # Whoever goes on from here does not hear it again.
        self._tell()
        whole = self.stage.updates
        try:
            if self.pending is not None:
                self._end_if_asked()
                self._complete(self.pending)
            if (self.step == 0 and self._preview_every) or self._preview_cut_off:
                self._preview()
            if self._extended and not self.stage.ended:
                self._tell_cost(self.step + 1, "the time from here on")
                self._tell()
            while self.step < self.stage.last_step and not self.stage.ended:
                self._stop_if_asked()
                started = time.perf_counter()
                self.pending = self.stage.step(self.step)
                self.step += 1
                whole = self.stage.updates
                # Before the measurement: the last step has one.
                self._end_if_asked()
                self._complete(self.pending, time.perf_counter() - started)
                self._preview_if_due()
                self._save_if_due()
            # Before it is concluded: a run with more steps goes on from here.
            self._save()
            if self.stage.finished_early is not None:
                self.stage.remarks.append(_early_end(self.stage))
            self.stage.conclude()
            self._tell()
        except Stopped:
            self._save()
            return self._result(stopped=True)
        except Exception as error:
            # In the midst of a step the networks may be at different steps; such a state is no place to go on from.
            if self.stage.updates == whole:
                self.last_good = self._snapshot()
                self._save()
            raise StageFailure(self._message(error), self._result(stopped=True)) from error
        result = self._result(stopped=False)
        self._finish(result)
        self._preview_the_end()
        return result

    def _complete(self, values: dict[str, float], seconds: float | None = None) -> None:
        """What follows a step: the notes, the measurement where it is due, the record."""
        # A measurement that is cut off is made again, with its notes, but the step before it is not.
        self._tell()
        if self._is_measured(self.step):
            measured = self.stage.validate(self._stop_if_asked)
            values = values | measured
            # Never one measure for want of another: they are not compared with each other.
            score = measured.get(self.stage.scored_by, math.nan)
            self.score = score if math.isfinite(score) else None
            if self.step == 0:
                self._tell_cost(0, "this run's time")
        else:
            self.score = None
        self.pending = None
        if values:
            self.stats.record(self.step, self.stage.total, values)
            timed = values if seconds is None else values | {"seconds_per_step": seconds}
            self.reporter.scalars(self.stage.name, self.step, self.stage.total, timed)
        self._tell()

    def _tell(self) -> None:
        for text in self.stage.take_notes():
            self.stats.note(self.step, text)
            self.reporter.note(self.step, text)

    def _is_measured(self, step: int) -> bool:
        every = self.stage.config.validate_every
        return bool(every) and (step % every == 0 or step == self.stage.last_step)

    def _tell_cost(self, first: int, of: str) -> None:
        """Say once what the measurements from step ``first`` on cost, as a share ``of`` some time."""
        stage, config = self.stage, self.stage.config
        steps = [each for each in range(first, stage.total + 1) if self._is_measured(each) and stage.evaluations(each)]
        if not steps:
            return
        # Each rank trains on its own pictures, and all of them measure with the same ones.
        own = config.batch_size * config.gradient_accumulation
        words = share_of_time(
            [stage.evaluations(step) for step in steps],
            own * stage.training_evaluations(self.step),
            own * stage.evaluations_per_picture,
            of,
            # The start and the end are measured in any case.
            fewer=any(0 < step < stage.total for step in steps),
        )
        if (self.step, words) not in self.stats.notes:
            stage.measurements.notes.append(words)

    def _tell_space(self) -> None:
        """Say before the first step that checkpoints may find no room."""
        if self.directory is None:
            return
        tensors, _ = self.stage.state()
        size = sum(tensor.nbytes for part in tensors.values() for tensor in part.values())
        # Both moments of the optimisers come with their first update; the LoRA's file lies beside the rest.
        trained = 0 if self.stage.updates else size
        lora = sum(tensor.nbytes for tensor in tensors["adapter"].values())
        text = scarce_space(self.directory.folder, size + 2 * trained + lora, self.stage.config.keep_last)
        if text:
            self.reporter.note(self.step, text)

    def _stop_if_asked(self) -> None:
        if self.stage.ranks.any(self.reporter.should_stop()):
            raise Stopped

    def _end_if_asked(self) -> None:
        """Have the stage end with the step that is done, where the user asks for that and the LoRA has an update."""
        if self.requests.asked("finish") and self.stage.warmup < self.step < self.stage.last_step:
            self.stage.finish_early(self.step - self.stage.warmup)

    def _preview_if_due(self) -> None:
        stage = self.stage
        # The last one is of what is delivered; and as long as the LoRA is still the start there is nothing to see.
        on_the_way = self.step < stage.last_step and not stage.ended and stage.lora_updates
        due = on_the_way and self._preview_every and self.step % self._preview_every == 0
        if self.requests.take("preview") or due:
            self._preview()

    def _preview(self) -> None:
        """Show what the LoRA draws now. Whatever goes wrong with it costs the pictures alone."""
        self._preview_cut_off = True
        self._show(self._stop_if_asked)
        self._preview_cut_off = False
        self._tell()

    def _preview_the_end(self) -> None:
        """Show what is delivered. The run is finished by now: a stop leaves the pictures out, and nothing else."""
        if not self._preview_every:
            return
        with contextlib.suppress(Stopped):
            self._show(self._stop_if_asked, self.stage.delivered_step(self.step))
        # The statistics are closed.
        for text in self.stage.take_notes():
            self.reporter.note(self.step, text)

    def _show(self, after_step: Callable[[], None], delivered: int | None = None) -> None:
        stage = self.stage
        try:
            latents = stage.measurements.take(
                "preview", lambda: previews.draw(stage, after_step), "set preview_every to 0"
            )
        except Stopped:
            raise
        except Exception as error:
            # Other ranks wait within a pass that this one has left.
            if stage.ranks.count > 1:
                raise
            stage.measurements.notes.append(_without_preview(error))
            return
        if latents is None:
            return
        try:
            self.reporter.preview(self.step, latents, previews.rows_of(stage), delivered)
        except Exception as error:
            stage.measurements.notes.append(_without_preview(error))

    def _restored(self, again: Snapshot | None) -> tuple[Path | None, str]:
        """Bring the stage to where its last checkpoint was. Returns the path and the text of its statistics."""
        early = self.stage.ranks.from_first(None if self.directory is None else self.directory.finished_early)
        if early is not None:
            # Its result is gone: it is made anew as it was, and not trained on.
            self.stage.finish_early(early)
        newest, words = again, []
        if again is None and self.directory is not None:
            newest, words = self.directory.checkpoints.newest(self.stage.last_step)
        snapshot = self.stage.ranks.from_first(newest)
        for text in words:
            self.reporter.note(0, text)
        path = None if self.directory is None else self.directory.folder / STATS_FILE
        if snapshot is None:
            return path, ""
        self.stage.restore(snapshot.tensors, snapshot.numbers["stage"])
        # Of an earlier version's checkpoint it is not known.
        self._preview_cut_off = snapshot.numbers.get("preview_cut_off", False)
        self.step, self.pending, self.score = snapshot.step, snapshot.numbers["pending"], snapshot.score
        self.saved_at = None if self.directory is None else self.step
        return path, snapshot.stats

    def _save_if_due(self) -> None:
        every = self.stage.config.checkpoint_every
        asked = self.requests.take("checkpoint")
        if asked or (every and self.step % every == 0):
            self._save()
        if asked and self.saved_at == self.step:
            self.reporter.note(
                self.step, f"The checkpoint of update {self.step} is written. {RESULT} in it is a LoRA to try."
            )

    def _save(self) -> None:
        """Write a checkpoint. One that cannot be written costs nothing but itself: training goes on without it."""
        if self.directory is None:
            return
        config = self.stage.config
        try:
            self.directory.checkpoints.save(self._snapshot(), {RESULT: self._lora_file()})
            self.directory.checkpoints.rotate(config.keep_last, config.keep_every)
            self.saved_at = self.step
        except (OSError, CheckpointError, LoRAError) as error:
            kept = "There is none yet" if self.saved_at is None else f"The one of update {self.saved_at} is kept"
            self.reporter.note(
                self.step,
                f"The checkpoint of update {self.step} could not be written ({reason(error)}). {kept}; the run goes "
                "on.",
            )

    def _snapshot(self) -> Snapshot:
        tensors, numbers = self.stage.state()
        return Snapshot(
            self.step,
            tensors,
            {"stage": numbers, "pending": self.pending, "preview_cut_off": self._preview_cut_off},
            self.stats.text,
            unmeasured=self.pending is not None,
            score=self.score,
        )

    def _lora_file(self) -> bytes:
        lora = self._result(stopped=True).lora
        return lora_files.content(lora, f"{self.stage.name}-{self.step}", lora_files.exact_format(lora))

    def _finish(self, result: StageResult) -> None:
        """Write the result. On a full disk all checkpoints but the last make room for it."""
        if self.directory is None:
            return
        try:
            try:
                self._write_result(self.directory, result)
            except (OSError, LoRAError):
                self.directory.checkpoints.rotate(keep_last=1, keep_every=0)
                self._write_result(self.directory, result)
        except (OSError, LoRAError) as error:
            self.reporter.note(
                self.step,
                f"The result could not be kept in {self.directory.folder} ({reason(error)}). The same run would end "
                "anew from its last checkpoint.",
            )

    def _write_result(self, directory: RunDirectory, result: StageResult) -> None:
        lora_files.save(result.lora, directory.folder / RESULT, lora_files.exact_format(result.lora))
        self.stage.keep(directory.folder)
        self.stats.complete()
        directory.finish(result.lora.tensors, result.lora.provenance[-1], self.stats.text, self.stage.finished_early)

    def _result(self, stopped: bool) -> StageResult:
        path = "" if self.directory is None else str(self.directory.folder / STATS_FILE)
        told = TrainingLog(self.stage.name, tuple(self.stats.records), path, tuple(self.stats.notes))
        return self.stage.result(told, stopped, self.saved_at)

    def _message(self, error: Exception) -> str:
        at = self.step if self.pending is not None else self.step + 1
        message = f"{self.stage.name} stage, update {at} of {self.stage.total}: {reason(error)}."
        if isinstance(error, NonFiniteError):
            message += (
                " The weights from before this update are kept. Lower the learning rate or the adversarial weight, and "
                "look at the images named."
            )
        return message


def _without_preview(error: Exception) -> str:
    return f"No preview this time: {reason(error) or type(error).__name__}. Training goes on without it."


def _early_end(stage: Stage) -> str:
    done, planned = stage.finished_early, stage.config.steps
    words = f"Finished early, as asked: the last update was {stage.last_step} of {stage.total}."
    if schedules := planned_over_steps(vars(stage.config)):
        words += f" {' and '.join(schedules)} had {planned} steps in view: steps = {done} would give another LoRA."
    return f"{words} With any other steps above {done} the run goes on from here."
