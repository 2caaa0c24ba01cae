"""The runs that are going on, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from .requests import Request, Requests

ANSWERS: dict[Request, str] = {
    "finish": "The stage ends after this update. The graph then goes on with what there is.",
    "checkpoint": "A checkpoint is written after this update.",
    "preview": "A preview is sampled after this update.",
}
FOLDER = "folder"
ACTIONS = (*get_args(Request), FOLDER)


class NotRunning(LookupError):
    """What is asked of a run that is not going on, or not in that node."""


@dataclass(frozen=True)
class _Running:
    node: str
    workflow: str
    stage: str
    folder: Path
    requests: Requests


class RunningRuns:
    """Those of this process: as a rule one, for a host executes one node at a time."""

    def __init__(self) -> None:
        self._runs: dict[str, _Running] = {}

    @contextmanager
    def open(self, node: str, stage: str, folder: Path, workflow: str = "") -> Iterator[Requests]:
        """Within the block the run of ``folder`` can be asked; what is asked of it arrives in what this gives.

        ``workflow``: that of ``node``, by its id; empty where it is in none.
        """
        running = _Running(node, workflow, stage, folder, Requests())
        self._runs[folder.name] = running
        try:
            yield running.requests
        finally:
            del self._runs[folder.name]

    def ask(self, action: str, node: str, run: str) -> str:
        """Pass on what is asked of the ``run`` in ``node``; ``action`` is one of ``ACTIONS``.

        Returns a sentence about what is going to happen; for ``folder``, its path. Raises ``NotRunning``.
        """
        running = self._runs.get(run)
        if running is None or running.node != node:
            raise NotRunning(f"No run {run!r} is going on in node {node!r} (any more). Reload the page.")
        if action == FOLDER:
            return str(running.folder)
        request = next(each for each in ANSWERS if each == action)
        running.requests.ask(request)
        return ANSWERS[request]

    def listed(self) -> list[dict[str, str]]:
        """Node, workflow, stage and run of each."""
        return [
            {"node": each.node, "workflow": each.workflow, "stage": each.stage, "run": run}
            for run, each in list(self._runs.items())
        ]
