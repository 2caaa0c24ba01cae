"""What a running stage tells the page: events, texts, pictures, and its history for a page that opens later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from PIL import Image
from server import PromptServer
from torch import Tensor

from ...training.evidence.glossary import CURVES, MEASURED
from ...training.evidence.note_kinds import is_warning
from ...training.evidence.preview_sheet import Row, save_preview
from ...training.failure_words import in_words
from ...training.runs.fingerprints import Fingerprint
from ...training.runs.run_directory import Choice
from ..run_history import Run, RunHistory, noted, progress_line
from .cancel_watch import CancelWatch
from .memory import interrupted, unless_interrupted
from .page_posts import answering, check_asker
from .peak_memory import PeakMemory
from .progress import Progress

log = logging.getLogger(__name__)

# Each of them has the page draw the graph anew, on a machine that trains.
EVENTS_A_SECOND = 2
# A line about the progress in the log now and then, for those who see nothing else.
FIRST_LINE_AFTER, LINE_EVERY = 10.0, 60.0

history = RunHistory()


class HostReporter:
    """A stage's ``Reporter``: progress bar, preview picture, text, events and history of one run of one node."""

    def __init__(
        self,
        node: str,
        wanted: Fingerprint,
        choice: Choice,
        decode: Callable[[Tensor], Image.Image],
        workflow: str = "",
    ) -> None:
        """``choice``: the run's folder, whose name is the run's, and why it was chosen. ``workflow``: the node's."""
        self._stage, self._decode, self._folder = wanted.stage, decode, choice.folder
        self._run = Run(choice.folder.name, wanted.stage, message=choice.text, total=wanted.total)
        if warmup := wanted.warmup:
            self._run.facts["warmup"] = warmup
        if choice.finished:
            self._run.facts["reused"] = 1
        self._progress, self._peak = Progress(node), PeakMemory()
        self.step = 0
        self._pending: dict[str, Any] | None = None
        self._sent_at = 0.0
        self._told: dict[str, float] = {}
        self._noted = 0
        self._line_at = time.monotonic() + FIRST_LINE_AFTER
        history.start(node, self._run, workflow)
        # By these a page knows whether a message is for it, and for which of its nodes.
        self._address = {"node": node, "workflow": workflow, "run": self._run.run}
        self._telling = threading.Lock()
        self._log(logging.INFO, choice.text)
        self._state()
        self._cancel = CancelWatch(self._cancelling)

    @property
    def running(self) -> bool:
        return self._run.is_going

    @property
    def message(self) -> str:
        return self._run.message

    @property
    def notes_text(self) -> str:
        """Such as ``2 notes``; empty where nothing was noted."""
        count = len(self._run.notes)
        return f"{count} {'note' if count == 1 else 'notes'}" if count else ""

    @property
    def place(self) -> str:
        """Such as ``after update 3 of 300``."""
        return f"{f'after update {self.step}' if self.step else 'before update 1'} of {self._run.total}"

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        self.step = step
        finite = self._run.add(step, total, values)
        self._pending = {
            **self._address,
            "sitting": self._run.sitting,
            "stage": stage,
            "step": step,
            "total": total,
            "scalars": {name: finite[name] for name in CURVES if name in finite},
            "seconds_per_step": finite.get("seconds_per_step", 0.0),
        }
        now = time.monotonic()
        # A measurement comes too seldom to be left to chance.
        if now - self._sent_at >= 1 / EVENTS_A_SECOND or step >= total or any(name in values for name in MEASURED):
            self._progress.update(step, total)
            self._send()
        if now >= self._line_at and step < total:
            self._line_at = now + LINE_EVERY
            log.info("%s", progress_line(self._run))

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        picture = unless_interrupted(lambda: self._decode(latents))
        if picture is None:
            return
        try:
            save_preview(picture, rows, self._folder, step, delivered)
        except OSError as error:
            self.note(step, f"The preview is not kept. {in_words(error)}")
            return
        PromptServer.instance.send_sync("fluxduel.preview", {**self._address, "step": step})

    def note(self, step: int, text: str) -> None:
        self._run.notes.append((step, text))
        log.log(
            logging.WARNING if is_warning(text) else logging.INFO, "%s stage, update %d: %s", self._stage, step, text
        )
        self._state()

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None:
        for record in records:
            self.step = int(record["step"])
            values = {name: value for name, value in record.items() if name not in ("step", "total")}
            self._run.add(self.step, total, values)
        self._run.notes, self._noted = [*notes, *self._run.notes], 0
        self._progress.update(self.step, total)
        self._state()

    def should_stop(self) -> bool:
        return interrupted()

    def finish(self, state: str, message: str, early: int | None = None) -> None:
        """``state``: finished, stopped or failed. Sends what the throttle held back, then the state.

        ``early``: the update with which the user has had it end, where that was before the last one.
        """
        self._cancel.close()
        self._send()
        if early is not None:
            self._run.facts["early"] = early
        said = message == self._run.message
        self._run.state, self._run.message = state, message
        # The host logs a failure itself, with its message.
        if state != "failed" and not said:
            self._log(logging.INFO if state == "finished" else logging.WARNING, message)
        self._state()

    def _cancelling(self) -> None:
        self._run.state = "cancelling"
        self._state()

    def _log(self, level: int, text: str) -> None:
        log.log(level, "%s stage: %s", self._stage, text)

    def _send(self) -> None:
        """The step that waits, with those facts that the page does not know yet."""
        if self._pending is None:
            return
        peak = self._peak.read()
        if peak is not None:
            self._run.facts["peak_memory"] = peak
        facts = self._run.facts
        new = {name: value for name, value in facts.items() if self._told.get(name) != value}
        PromptServer.instance.send_sync("fluxduel.step", self._pending | {"facts": new})
        self._told, self._pending, self._sent_at = dict(facts), None, time.monotonic()

    def _state(self) -> None:
        """The state, with the notes that are new. A page that lacks some of ``records`` fetches the history."""
        with self._telling:
            run, before = self._run, self._noted
            self._noted = len(run.notes)
            PromptServer.instance.send_sync(
                "fluxduel.state",
                {
                    **self._address,
                    "sitting": run.sitting,
                    "stage": run.stage,
                    "state": run.state,
                    "message": run.message,
                    "facts": dict(run.facts),
                    "notes_before": before,
                    "notes": noted(run.notes[before:]),
                    "records": len(run.records),
                },
            )


def asked_run(request: web.Request) -> Run | None:
    """The latest run of the ``node`` that is asked about, in its ``workflow``."""
    return history.latest(request.query.get("node", ""), request.query.get("workflow"))


def register_routes() -> None:
    """``GET /fluxduel/history?node=<id>&workflow=<id>``, for a page that opens while a run is going on; all scalars of
    each step with ``&columns=all``. Without a workflow, the node's latest run in any.

    A node that was not trained since the host started has no content (204): that is no error, and a page asks for
    every training node that it opens.
    """

    @PromptServer.instance.routes.get("/fluxduel/history")
    @answering
    async def get_history(request: web.Request) -> web.Response:
        check_asker(request)
        run = asked_run(request)
        if run is None:
            return web.Response(status=204)
        return web.json_response(run.as_json(everything=request.query.get("columns") == "all"))


