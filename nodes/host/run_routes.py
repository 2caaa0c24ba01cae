"""What a page asks of a run that is going on: its end, a checkpoint, a preview, its folder."""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

from ...training.runs.running import ACTIONS, NotRunning, RunningRuns
from .page_posts import Refused, answering, check_asker, check_page, texts_of

running = RunningRuns()


def register_run_routes() -> None:
    """``POST /fluxduel/run/<action>`` with ``{"node": its execution id, "run": the run's id}``, and ``GET
    /fluxduel/runs`` with those that can be asked.

    An action is answered with ``{"message": what is going to happen}``, for ``folder`` with its path; all that is not
    understood with a status from 400 to 499 and ``{"error": why}``.
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
        if action not in ACTIONS:
            raise Refused(404, f"There is no such action. Known are {', '.join(ACTIONS)}.")
        node, run = await texts_of(request, "node", "run")
        try:
            return web.json_response({"message": running.ask(action, node, run)})
        except NotRunning as error:
            raise Refused(409, str(error)) from error
