"""From a workflow as the editor saves it to the graph that the host's queue takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}


class WorkflowError(ValueError):
    """A workflow that does not fit the host's nodes: which node, and how."""


def api_graph(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What the editor's Run button would queue, for a workflow in format 0.4 without subgraphs.

    ``object_info``: the host's description of its nodes, by id. Raises ``WorkflowError`` for a node that the host
    does not have and for a number of widget values that is not the node's.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        if node["type"] not in object_info:
            raise WorkflowError(f"The host has no node {node['type']} (node {node['id']} of the workflow).")
        inputs = widget_values(node, object_info[node["type"]])
        inputs |= {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        title = node.get("title") or object_info[node["type"]]["display_name"]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return graph


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """The saved values by widget name. They are saved by position, in the order in which the node declares them."""
    names = list(saved_widgets(info))
    values = node.get("widgets_values") or []
    if len(values) != len(names):
        raise WorkflowError(
            f"{node['type']} (node {node['id']}) has {len(values)} saved values for {len(names)} widgets: "
            f"{', '.join(name or 'control after generate' for name in names)}."
        )
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}


def is_widget(kind: str | list[Any], options: Mapping[str, Any]) -> bool:
    """Whether the editor draws a widget for an input of this kind. A list is a combo's choices, in the older form."""
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def saved_widgets(info: Mapping[str, Any]) -> Iterator[str | None]:
    """Names of a node's widgets with a saved value, in their order; ``None`` for the editor's own beside a seed."""
    for section in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(section, {}).items():
            options = rest[0] if rest else {}
            if not is_widget(kind, options):
                continue
            yield name
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                yield None
            if options.get("image_upload"):
                yield None
