"""A run's previews for the page: which there are, and their pictures."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from PIL import Image
from server import PromptServer

from ...training.evidence.preview_sheet import PREVIEWS, SHEET, Column, Row, previews
from ...training.failure_words import reason
from ..run_history import Run
from .folders import runs_folder
from .reporting import asked_run
from .same_origin import from_this_host

log = logging.getLogger(__name__)

# Of a picture as the page shows it, in pixels: enough for a node that is zoomed in on.
SIDE = 512
QUALITY = 90


def register_preview_routes() -> None:
    """``GET /fluxduel/previews?node=<id>``: run, rows and steps of the node's latest run; no content (204) without one.

    ``GET /fluxduel/preview?node=<id>&step=<n>&version=<v>``: the pictures of one step side by side, as the first answer
    names them. ``GET /fluxduel/preview_sheet?node=<id>``: the whole sheet. All with ``&workflow=<id>``, as the history.
    No name of a file comes from outside: a node is looked up among those that were trained since the host started, and
    a step among the previews of its run. Another site's page is refused (403).
    """
    routes = PromptServer.instance.routes

    @routes.get("/fluxduel/previews")
    async def list_previews(request: web.Request) -> web.Response:
        if not from_this_host(request):
            return _foreign()
        found = await _of(request)
        if found is None:
            return web.Response(status=204)
        run, columns, rows = found
        return web.json_response(
            {
                "run": run.run,
                "sitting": run.sitting,
                "rows": [row._asdict() for row in rows],
                # As text: a number of nanoseconds is beyond what a page can count.
                "steps": [
                    {"step": column.step, "version": str(column.version), "delivered": column.delivered}
                    for column in columns
                ],
            }
        )

    @routes.get("/fluxduel/preview")
    async def show_preview(request: web.Request) -> web.Response:
        if not from_this_host(request):
            return _foreign()
        found = await _of(request)
        columns, rows = ([], ()) if found is None else found[1:]
        asked = request.query.get("step", ""), request.query.get("version", "")
        column = next((each for each in columns if (str(each.step), str(each.version)) == asked), None)
        if column is None:
            return _refusal(404, "There is no such preview (any more). Reload the page.")
        try:
            picture = await asyncio.to_thread(_small, column.path, len(rows))
        except OSError as error:
            log.warning("The preview %s cannot be shown: %s.", column.path, reason(error))
            return _refusal(404, "The preview cannot be read. The server's log says why.")
        # Another picture has another version, and so another address.
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return web.Response(body=picture, content_type="image/jpeg", headers=headers)

    @routes.get("/fluxduel/preview_sheet")
    async def show_sheet(request: web.Request) -> web.StreamResponse:
        if not from_this_host(request):
            return _foreign()
        found = await _of(request)
        sheet = None if found is None else runs_folder() / found[0].run / PREVIEWS / SHEET
        if sheet is None or not sheet.is_file():
            return _refusal(404, "There is no sheet of previews yet.")
        return web.FileResponse(sheet, headers={"Cache-Control": "no-cache"})


async def _of(request: web.Request) -> tuple[Run, list[Column], Sequence[Row]] | None:
    """The run that is asked about, its columns and rows; ``None`` without any preview."""
    run = asked_run(request)
    if run is None:
        return None
    # A run that went on from an earlier step will draw those after it anew.
    reached = int(run.records[-1]["step"]) if run.records else 0
    columns, rows = await asyncio.to_thread(previews, runs_folder() / run.run, reached)
    return (run, columns, rows) if columns else None


def _small(path: Path, count: int) -> bytes:
    with Image.open(path, formats=["PNG"]) as picture:
        whole = picture.convert("RGB")
    scale = min(1.0, SIDE / max(whole.height, whole.width // count))
    # Whole pixels for each of them, so that the page can tell them apart.
    small = whole.resize((count * max(1, round(whole.width // count * scale)), max(1, round(whole.height * scale))))
    content = io.BytesIO()
    small.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _foreign() -> web.Response:
    return _refusal(403, "Previews are shown to this host's own pages.")


def _refusal(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
