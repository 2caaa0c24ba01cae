"""The shipped workflows against a real host: they open without a missing node, value or wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fluxduel.demo.workflow import NOTES, api_graph, is_widget, widget_values
from fluxduel.tests.comfy_host import ROOT, ComfyHost, HostError
from fluxduel.training.data.demo_pictures import DEMO_LABEL

WORKFLOWS = [ROOT / "example_workflows" / name for name in ("two_stage_tiny.json", "two_stage_flux_dev.json")]


def put_what_the_workflow_lists(base: Path, workflow: dict[str, Any]) -> None:
    """Empty model files and training folders, so that the host's lists offer what the workflow has chosen."""
    for node in workflow["nodes"]:
        for model in node["properties"].get("models", ()):
            path = base / "models" / model["directory"] / model["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if node["type"] == "FluxDuelLoadTrainingImages" and node["widgets_values"][0] != DEMO_LABEL:
            (base / "input" / node["widgets_values"][0]).mkdir(parents=True, exist_ok=True)


def socket_type(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else kind


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_fits_the_hosts_nodes(comfy_host: ComfyHost, path: Path) -> None:
    workflow = json.loads(path.read_text())
    put_what_the_workflow_lists(comfy_host.base, workflow)
    info = comfy_host.object_info()
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    assert [node["type"] for node in nodes.values() if node["type"] not in info] == []

    for node in nodes.values():
        declared = info[node["type"]]
        inputs = declared["input"].get("required", {}) | declared["input"].get("optional", {})
        for name, value in widget_values(node, declared).items():
            check_value(f"{node['type']}.{name}", inputs[name], value)
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        required = declared["input"].get("required", {})
        sockets = {name for name, (kind, *rest) in required.items() if not is_widget(kind, rest[0] if rest else {})}
        assert sockets <= linked, f"{node['type']}: {sockets - linked} not connected"
        outputs = [slot["type"] for slot in node["outputs"]]
        # Newer hosts add outputs to nodes of their own, at the end.
        assert outputs == (declared["output"] if "FluxDuel" in node["type"] else declared["output"][: len(outputs)])

    for number, origin, out, target, slot, kind in workflow["links"]:
        source, sink = nodes[origin]["outputs"][out], nodes[target]["inputs"][slot]
        declared = info[nodes[target]["type"]]["input"]
        wanted = (declared.get("required", {}) | declared.get("optional", {}))[sink["name"]][0]
        assert source["type"] == kind == socket_type(wanted)
        assert number in source["links"] and sink["link"] == number


def check_value(where: str, declared: list[Any], value: Any) -> None:
    kind, options = declared[0], (declared[1] if len(declared) > 1 else {})
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options["options"]
        assert value in choices, f"{where}: {value!r} is none of {choices}"
    elif kind in ("INT", "FLOAT"):
        assert isinstance(value, int if kind == "INT" else (int, float)), f"{where}: {value!r}"
        assert options.get("min", value) <= value <= options.get("max", value), f"{where}: {value!r}"
    else:
        assert isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind]), f"{where}: {value!r}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_do_not_overlap_and_lie_in_one_group_at_most(path: Path) -> None:
    workflow = json.loads(path.read_text())
    # The title bar is drawn above a node's position.
    boxes = [(node["pos"][0], node["pos"][1] - 30, *node["size"]) for node in workflow["nodes"]]
    boxes = [(x, y, x + width, y + height + 30) for x, y, width, height in boxes]
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in workflow["groups"])]
    for rectangles in (boxes, groups):
        for index, one in enumerate(rectangles):
            assert not [other for other in rectangles[index + 1 :] if overlap(one, other)]
    assert [group["title"] for group in workflow["groups"]] == ["1 Data", "2 Stage 1", "3 Stage 2", "4 Result"]
    lefts = [group[0] for group in groups]
    assert lefts == sorted(lefts)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_the_queue_takes_the_tiny_workflow(comfy_host: ComfyHost) -> None:
    workflow = json.loads(WORKFLOWS[0].read_text())
    (pictures,) = [node for node in workflow["nodes"] if node["type"] == "FluxDuelLoadTrainingImages"]
    pictures["widgets_values"][0] = "no_pictures"
    put_what_the_workflow_lists(comfy_host.base, workflow)
    graph = api_graph(workflow, comfy_host.object_info())
    # The host accepts the graph, and the first node that needs pictures says what is missing.
    entry = comfy_host.wait(comfy_host.queue(graph), timeout=120)
    (error,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert error["node_type"] == "FluxDuelLoadTrainingImages"
    assert "no_pictures" in error["exception_message"]


def test_a_graph_with_the_old_demo_folder_is_told_what_to_choose(comfy_host: ComfyHost) -> None:
    workflow = json.loads(WORKFLOWS[0].read_text())
    (pictures,) = [node for node in workflow["nodes"] if node["type"] == "FluxDuelLoadTrainingImages"]
    pictures["widgets_values"][0] = "fluxduel_demo"
    graph = api_graph(workflow, comfy_host.object_info())
    load = str(pictures["id"])
    # The host runs whatever other outputs are valid: those that need no pictures.
    graph = {load: graph[load], "show": {"class_type": "PreviewAny", "inputs": {"source": [load, 1]}}}
    with pytest.raises(HostError) as refusal:
        comfy_host.queue(graph)
    for part in ("FluxDuelLoadTrainingImages", "'fluxduel_demo'", DEMO_LABEL, str(comfy_host.base / "input")):
        assert part in str(refusal.value)
