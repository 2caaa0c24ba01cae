"""Both stages as one node: a subgraph that the editor's list of nodes offers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from .layout import Size, place
from .pieces import STAGE_1, accumulated, judge, refine, train
from .spec import Blueprint, Group, Node
from .write import PACK, PACK_VERSION, TemplateError, in_order, link, node_of

# The numbers by which the editor knows the two ends of a subgraph.
INPUTS, OUTPUTS = -10, -20
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
END = (150, 100)  # width and height of such an end
DISTANCE = 60
COLUMN = 300
SIZE = (280, 90)  # of the node that stands for the subgraph

TWO_STAGES = Blueprint(
    name="Train FLUX LoRA in two stages",
    description=(
        "Trains a FLUX.1 LoRA with the flow-matching loss, then refines it against a discriminator of latents for the "
        "number of steps that you will sample with. Open it for steps, learning rates, charts and previews."
    ),
    words=("LoRA training", "train LoRA", "LoRA trainer", "finetune", "fine-tune", "GAN", "adversarial", "FluxDuel"),
    nodes={
        "stage 1": train(STAGE_1, "optimiser"),
        "stage 2": refine("optimiser"),
        "discriminator": judge(),
        "optimiser": accumulated(),
    },
    columns=(("stage 1", "optimiser", "discriminator"), ("stage 2",)),
    inputs={"flux_lora": ("lora", "flux_lora"), "real_latents": ("encode", "real_latents")},
    outputs={
        "flux_lora": ("stage 2", "flux_lora"),
        "stage_1_flux_lora": ("stage 1", "flux_lora"),
        "how_to_sample": ("stage 2", "how_to_sample"),
    },
)


def write_blueprint(
    blueprint: Blueprint, size_of: Callable[[Node], Size], object_info: Mapping[str, Any]
) -> dict[str, Any]:
    """The blueprint as the editor would save it: a graph of one node in format 0.4, and the subgraph it stands for.

    ``object_info``: the host's description of its nodes, by id. Raises ``TemplateError`` for a node, widget, socket
    or output that the host does not have, and for an input that no node takes.
    """
    numbers = {key: number for number, key in enumerate(blueprint.nodes, 1)} | {"inputs": INPUTS, "outputs": OUTPUTS}
    nodes: dict[str, dict[str, Any]] = {}
    for key, node in blueprint.nodes.items():
        if node.kind not in object_info:
            raise TemplateError(f"{blueprint.name}, node {key}: the host has no node {node.kind}.")
        nodes[key] = node_of(f"{blueprint.name}, node {key}", node, object_info[node.kind])
    nodes["inputs"] = {"outputs": [_input(blueprint, name, nodes) for name in blueprint.inputs]}
    nodes["outputs"] = {"inputs": [_output(blueprint, name, nodes) for name in blueprint.outputs]}

    outside = {wire: ("inputs", name) for name, wire in blueprint.inputs.items()}
    wires = [
        ((key, socket), outside.get(wire, wire))
        for key, node in blueprint.nodes.items()
        for socket, wire in node.wires.items()
    ]
    wires += [(("outputs", name), wire) for name, wire in blueprint.outputs.items()]
    links = [link(blueprint.name, to, from_, nodes, numbers, i) for i, (to, from_) in enumerate(wires, 1)]

    box, places = place(Group("", blueprint.columns, COLUMN), blueprint.nodes, size_of, 0, 0)
    for order, key in enumerate(blueprint.nodes):
        left, top, width, height = places[key]
        nodes[key] |= {"id": numbers[key], "pos": [left, top], "size": [width, height], "order": order}
    subgraph = _number(f"fluxduel/{blueprint.name}")
    taken, given = nodes["inputs"]["outputs"], nodes["outputs"]["inputs"]
    return {
        "id": _number(f"fluxduel/{blueprint.name}/graph"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [_shown(blueprint, subgraph, taken, given)],
        "links": [],
        "groups": [],
        "definitions": {
            "subgraphs": [
                {
                    "id": subgraph,
                    "version": 1,
                    "state": {
                        "lastGroupId": 0, "lastNodeId": len(blueprint.nodes), "lastLinkId": len(links),
                        "lastRerouteId": 0,
                    },
                    "revision": 0,
                    "config": {},
                    "name": blueprint.name,
                    "description": blueprint.description,
                    "inputNode": {"id": INPUTS, "bounding": [-END[0] - DISTANCE, 0, *END]},
                    "outputNode": {"id": OUTPUTS, "bounding": [box[2] + DISTANCE, 0, *END]},
                    "inputs": [
                        {"id": _number(f"{subgraph}/in/{slot['name']}"), "name": slot["name"], "type": slot["type"],
                         "linkIds": slot["links"]}
                        for slot in taken
                    ],
                    "outputs": [
                        {"id": _number(f"{subgraph}/out/{slot['name']}"), "name": slot["name"], "type": slot["type"],
                         "linkIds": [slot["link"]]}
                        for slot in given
                    ],
                    "widgets": [],
                    "nodes": [in_order(nodes[key]) for key in blueprint.nodes],
                    "groups": [],
                    # Inside a subgraph the editor saves links by the names of their parts.
                    "links": [dict(zip(LINK, each, strict=True)) for each in links],
                    "extra": {},
                }
            ]
        },
        "config": {},
        "extra": {
            "BlueprintDescription": blueprint.description,
            "BlueprintSearchAliases": list(blueprint.words),
        },
        "version": 0.4,
    }  # fmt: skip


def _number(name: str) -> str:
    """An id that is the same whenever the file is written."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _input(blueprint: Blueprint, name: str, nodes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the subgraph takes as ``name``, seen from inside. Its type is that of the sockets that take it."""
    wire = blueprint.inputs[name]
    for key, node in blueprint.nodes.items():
        taken = [socket for socket, from_ in node.wires.items() if from_ == wire]
        for slot in nodes[key]["inputs"]:
            if slot["name"] in taken:
                return {"name": name, "type": slot["type"], "links": []}
    raise TemplateError(f"{blueprint.name}: no node takes {name}, which is {wire[0]}.{wire[1]}.")


def _output(blueprint: Blueprint, name: str, nodes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What the subgraph gives as ``name``, seen from inside."""
    key, output = blueprint.outputs[name]
    types = {slot["name"]: slot["type"] for slot in nodes[key]["outputs"]}
    if output not in types:
        raise TemplateError(f"{blueprint.name}, node {key}: no output {output}, only {', '.join(types)}.")
    return {"name": name, "type": types[output], "link": None}


def _shown(
    blueprint: Blueprint, subgraph: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The one node of the outer graph."""
    return {
        "id": 1,
        "type": subgraph,
        "pos": [0, 0],
        "size": list(SIZE),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": slot["name"], "type": slot["type"], "link": None} for slot in inputs],
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in outputs],
        "title": blueprint.name,
        "properties": {"proxyWidgets": [], "cnr_id": PACK, "ver": PACK_VERSION},
        "widgets_values": [],
    }
