"""Graphs on their way to the host's queue."""

from __future__ import annotations

from typing import Any

from server import PromptServer

from ..moved_options import with_option_nodes
from . import graph_check


def register_prompt_handler() -> None:
    """Have the host hand over each graph before it looks at it.

    Graphs of version 0.1 run as they did, and what can be known of a graph is checked before any of it runs.
    """

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        graph_check.forget()
        graph = request.get("prompt")
        if not isinstance(graph, dict) or not all(isinstance(node, dict) for node in graph.values()):
            # The host's own words on it are the better ones.
            return request
        whole = with_option_nodes(graph)
        page = request.get("client_id")
        return request | {"prompt": graph_check.checked(whole, request.get("partial_execution_targets"), page)}

    PromptServer.instance.add_on_prompt_handler(handle)
