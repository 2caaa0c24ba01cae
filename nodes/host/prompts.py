"""Graphs on their way to the host's queue."""

from __future__ import annotations

from typing import Any

from server import PromptServer

from ..moved_options import with_option_nodes


def register_prompt_handler() -> None:
    """Have the host hand over each graph before it looks at it, so that graphs of version 0.1 run as they did."""

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        graph = request.get("prompt")
        if not isinstance(graph, dict) or not all(isinstance(node, dict) for node in graph.values()):
            # The host's own words on it are the better ones.
            return request
        return request | {"prompt": with_option_nodes(graph)}

    PromptServer.instance.add_on_prompt_handler(handle)
