"""What a page asks of a run: its end, a checkpoint, a preview, its folder; and that one finished early goes on."""

from __future__ import annotations

import asyncio

from aiohttp import web
from server import PromptServer

from ...training.failure_words import in_words
from ...training.runs.run_directory import RunDirectoryError, reopen
from ...training.runs.running import ACTIONS, FOLDER, NotRunning, RunningRuns
from .folders import runs_folder
from .page_posts import Refused, answering, check_asker, check_page, texts_of
from .reporting import history

GO_ON = "go_on"

running = RunningRuns()
_reopened: list[str] = []


def reopened() -> int:
    """How often a run was reopened. After each time the host's own copies of the training nodes' results are stale."""
    return len(_reopened)


def register_run_routes() -> None:
    """``POST /fluxduel/run/<action>`` with ``{"node": its execution id, "run": the run's id}``, and ``GET
    /fluxduel/runs`` with those that can be asked.

    An action is answered with ``{"message": what is going to happen}``, for ``folder`` with its path; all that is not
    understood with a status from 400 to 499 and ``{"error": why}``. ``go_on`` is for a run that was finished early, and
    ``folder`` also for one that has ended.
    """

    @PromptServer.instance.routes.get("/fluxduel/runs")
    @answering
    async def list_runs(request: web.Request) -> web.Response:
        check_asker(request)
        return web.json_response({"runs": running.listed()})

    @PromptServer.instance.routes.route("*", "/fluxduel/run/{action}")
    @answering
    async def ask(request: web.Request) -> web.Response:
        check_page(request)
        action = request.match_info["action"]
        if action not in (*ACTIONS, GO_ON):
            raise Refused(404, f"There is no such action. Known are {', '.join((*ACTIONS, GO_ON))}.")
        node, run = await texts_of(request, "node", "run")
        if action == GO_ON:
            return web.json_response({"message": await _go_on(node, run)})
        try:
            return web.json_response({"message": running.ask(action, node, run)})
        except NotRunning as error:
            if action == FOLDER and history.has_shown(node, run):
                return web.json_response({"message": str(runs_folder() / run)})
            raise Refused(409, str(error)) from error


async def _go_on(node: str, run: str) -> str:
    """No name of a folder comes from outside: a run is one of those that this process has shown."""
    if not history.has_finished_early(node, run):
        raise Refused(409, f"Node {node!r} has no run {run!r} that was finished early (any more). Reload the page.")
    try:
        await asyncio.to_thread(reopen, runs_folder() / run)
    except RunDirectoryError as error:
        raise Refused(409, str(error)) from error
    except OSError as error:
        raise Refused(409, in_words(error)) from error
    _reopened.append(run)
    return "The next run with the same settings goes on from there."
