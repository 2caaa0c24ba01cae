"""A template in the editor's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..workflow import is_widget, saved_widgets
from .layout import MORE, NOTE, Layout
from .spec import Node, Template

PACK, PACK_VERSION = "fluxduel", "0.2.0"
CORE, CORE_VERSION = "comfy-core", "0.3.75"
COLOURS = ("#3f789e", "#88aa88", "#b58b2a", "#a1309b")


class TemplateError(ValueError):
    """A template that does not fit the host's nodes: which node, and how."""


def write(template: Template, layout: Layout, object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The graph as the editor would save it, in format 0.4, but without an id: each graph that it is opened as gets
    one of its own, and so shows runs of its own.

    ``object_info``: the host's description of its nodes, by id. Raises ``TemplateError`` for a node, widget, socket
    or output that the host does not have.
    """
    notes = {NOTE: _note("About this graph", template.note)}
    if template.more:
        notes[MORE] = _note("More about this graph", template.more, folded=True)
    numbers = {key: number for number, key in enumerate((*notes, *template.nodes), 1)}
    links: list[list[Any]] = []
    nodes = {**notes}
    for key, node in template.nodes.items():
        if node.kind not in object_info:
            raise TemplateError(f"{template.name}, node {key}: the host has no node {node.kind}.")
        nodes[key] = node_of(f"{template.name}, node {key}", node, object_info[node.kind])
    for key, node in template.nodes.items():
        for socket, (source, output) in node.wires.items():
            links.append(link(template.name, (key, socket), (source, output), nodes, numbers, len(links) + 1))
    for order, (key, node) in enumerate(nodes.items()):
        left, top, width, height = layout.nodes[key]
        node |= {"id": numbers[key], "pos": [left, top], "size": [width, height], "order": order}
    return {
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": [in_order(node) for node in nodes.values()],
        "links": links,
        "groups": [
            {"id": number, "title": group.title, "bounding": list(box), "color": colour, "font_size": 24, "flags": {}}
            for number, (group, box, colour) in enumerate(
                zip(template.groups, layout.groups, _colours(template), strict=True), 1
            )
        ],
        "config": {},
        "extra": {"ds": {"scale": layout.scale, "offset": list(layout.offset)}},
        "version": 0.4,
    }


def _colours(template: Template) -> list[str]:
    """The last group, the result, has the same colour in every template."""
    return [*COLOURS[: len(template.groups) - 1], COLOURS[-1]]


def in_order(node: dict[str, Any]) -> dict[str, Any]:
    """The node with its entries in the order in which the editor saves them."""
    keys = ("id", "type", "pos", "size", "flags", "order", "mode", "inputs", "outputs", "title", "properties")
    return {key: node[key] for key in (*keys, "widgets_values") if key in node}


def _note(title: str, text: str, *, folded: bool = False) -> dict[str, Any]:
    return {
        "type": "MarkdownNote", "flags": {"collapsed": True} if folded else {}, "mode": 0, "inputs": [], "outputs": [],
        "title": title,
        "properties": {"Node name for S&R": "MarkdownNote", "cnr_id": CORE, "ver": CORE_VERSION},
        "widgets_values": [text],
    }  # fmt: skip


def node_of(where: str, node: Node, info: Mapping[str, Any]) -> dict[str, Any]:
    """A node in the editor's format, without number, place and links. ``info``: the host's description of its kind.

    Raises ``TemplateError``, which begins with ``where``, for a widget or socket that the host does not have.
    """
    declared = info["input"].get("required", {}) | info["input"].get("optional", {})
    unknown = (node.values.keys() | node.wires.keys()) - declared.keys()
    if unknown:
        raise TemplateError(f"{where}: {node.kind} has no input {', '.join(sorted(unknown))}.")
    ours = node.kind.startswith("FluxDuel")
    properties: dict[str, Any] = {
        "Node name for S&R": node.kind,
        "cnr_id": PACK if ours else CORE,
        "ver": PACK_VERSION if ours else CORE_VERSION,
    }
    if node.models:
        properties["models"] = [dict(model) for model in node.models]
    sockets, widgets = [], []
    for name, (kind, *rest) in declared.items():
        type_ = "COMBO" if isinstance(kind, list) else kind
        if is_widget(kind, rest[0] if rest else {}):
            widgets.append({"name": name, "type": type_, "widget": {"name": name}, "link": None})
        else:
            sockets.append({"name": name, "type": type_, "link": None})
    made: dict[str, Any] = {
        "type": node.kind,
        "flags": {"collapsed": True} if node.folded else {},
        "mode": 0,
        "inputs": [*sockets, *widgets],
        "outputs": [
            {"name": name, "type": kind, "links": []}
            for name, kind in zip(info["output_name"], info["output"], strict=True)
        ],
        "properties": properties,
        "widgets_values": [_value(node, declared, name) for name in saved_widgets(info)],
    }
    return made | ({"title": node.title} if node.title else {})


def _value(node: Node, declared: Mapping[str, Any], name: str | None) -> Any:
    """A widget's value; of the editor's own widget beside a seed, that the seed stays."""
    if name is None:
        return "fixed"
    if name in node.values:
        return node.values[name]
    kind, *rest = declared[name]
    options = rest[0] if rest else {}
    choices = kind if isinstance(kind, list) else options.get("options")
    return options["default"] if "default" in options else choices[0]


def link(
    name: str,
    to: tuple[str, str],
    from_: tuple[str, str],
    nodes: Mapping[str, dict[str, Any]],
    numbers: Mapping[str, int],
    number: int,
) -> list[Any]:
    """A link as the editor saves it, entered at its two nodes as well. ``name``: the graph's, for what is refused.

    Raises ``TemplateError`` for an output that the source does not have, or of another type than the socket.
    """
    (key, socket), (source, output) = to, from_
    outputs = [slot["name"] for slot in nodes[source]["outputs"]]
    if output not in outputs:
        raise TemplateError(f"{name}, node {source}: no output {output}, only {', '.join(outputs)}.")
    place = [slot["name"] for slot in nodes[key]["inputs"]].index(socket)
    sink, slot = nodes[key]["inputs"][place], nodes[source]["outputs"][outputs.index(output)]
    if sink["type"] != slot["type"]:
        raise TemplateError(f"{name}: {source}.{output} is {slot['type']}, {key}.{socket} is {sink['type']}.")
    sink["link"] = number
    slot["links"].append(number)
    return [number, numbers[source], outputs.index(output), numbers[key], place, slot["type"]]
