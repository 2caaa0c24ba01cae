"""What the host answers to a graph with problems: each of them at the input that it is about.

The host tells what ``validate_inputs`` answers at every input that this names, whatever the graph. So it names one, and
the answer is mended on its way to the page, which marks the inputs that it is told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from server import PromptServer

import nodes as host_nodes

from ...training.graph.problems import named_input
from .graph_check import SHOWN_AT, found

PATHS = ("/prompt", "/api/prompt")

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def register_refusals() -> None:
    """Have the answers to graphs pass by here, where the server has not begun to answer yet."""
    app = PromptServer.instance.app
    if not app.frozen:
        app.middlewares.append(_at_their_inputs)


@web.middleware
async def _at_their_inputs(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if request.method == "POST" and request.path in PATHS and isinstance(response, web.Response) and found():
        try:
            _mend(response)
        except Exception:
            log.warning("Problems are told at the inputs that the host has chosen.", exc_info=True)
    return response


def _mend(response: web.Response) -> None:
    answer = json.loads(response.text or "{}")
    reports: Mapping[str, dict[str, Any]] = answer.get("node_errors", {})
    for key, texts in found().items():
        if key in reports:
            errors = reports[key]["errors"]
            rest = [error for error in errors if error["type"] != "custom_validation_failed"]
            reports[key]["errors"] = rest + _errors(reports[key]["class_type"], texts, errors)
    response.text = json.dumps(answer)


def _errors(kind: str, texts: list[str], errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each problem, as the host's own for all of them."""
    usual, inputs = SHOWN_AT[kind][0], host_nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    names = [name for group in ("required", "optional") for name in inputs.get(group, {})]
    like = next((error for error in errors if error["type"] == "custom_validation_failed"), None)
    told = [] if like is None else [(named_input(text, names) or usual, text) for text in texts]
    return [{**like, "details": f"{name} - {text}", "extra_info": {"input_name": name}} for name, text in told]
