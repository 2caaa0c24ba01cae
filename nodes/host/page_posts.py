"""What a page of this very host posts: checked, since any page that a browser has open can post to a local server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from .same_origin import from_this_host

MOST_BYTES = 4096
MOST_CHARACTERS = 300

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Refused(Exception):
    """A request that is not answered. ``status``: from 400 to 499; the message says what is wrong with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answering(handle: Handler) -> Handler:
    """``handle``, whose refusals are answered as JSON: ``{"error": message}``."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await handle(request)
        except Refused as refusal:
            return web.json_response({"error": str(refusal)}, status=refusal.status)

    return answer


def check_page(request: web.Request) -> None:
    """Raises ``Refused`` unless it is a POST, and of a page of this host where a browser sends it."""
    if request.method != "POST":
        raise Refused(405, "Only POST is answered here.")
    check_asker(request)


def check_asker(request: web.Request) -> None:
    """Raises ``Refused`` for what another site's page asks."""
    if not from_this_host(request):
        raise Refused(403, "Only pages of this ComfyUI may ask that.")


async def texts_of(request: web.Request, *names: str) -> list[str]:
    """The texts of these names in the JSON object that is posted. Raises ``Refused`` where it holds no such."""
    if request.content_type != "application/json":
        raise Refused(415, "The body must be of type application/json.")
    try:
        body = json.loads(await _content(request))
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is no JSON.") from error
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object.")
    found = [body.get(name) for name in names]
    texts = [text for text in found if isinstance(text, str) and 0 < len(text) <= MOST_CHARACTERS]
    if len(texts) != len(names):
        raise Refused(
            400, f"The body must hold {' and '.join(names)}, texts of 1 to {MOST_CHARACTERS} characters."
        )
    return texts


async def _content(request: web.Request) -> bytes:
    content = b""
    try:
        async for part in request.content.iter_any():
            content += part
            if len(content) > MOST_BYTES:
                raise Refused(413, f"The body has more than {MOST_BYTES} bytes.")
    except web.RequestPayloadError as error:
        raise Refused(400, "The body cannot be decoded.") from error
    return content
