"""The shipped workflows against a real host: they open without a missing node, value or wire."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fluxduel.demo.templates.__main__ import written
from fluxduel.demo.templates.layout import TITLE
from fluxduel.demo.templates.write import CORE_VERSION
from fluxduel.demo.workflow import NOTES, api_graph, is_widget, widget_values
from fluxduel.tests.comfy_host import ROOT, ComfyHost, HostError
from fluxduel.training.data.demo_pictures import DEMO_LABEL

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
TINY = ROOT / "example_workflows" / "A first run on the tiny base.json"


def put_what_the_workflow_lists(base: Path, workflow: dict[str, Any]) -> None:
    """Empty model files and training folders, so that the host's lists offer what the workflow has chosen."""
    values = [value for node in workflow["nodes"] for value in node["widgets_values"]]
    for name in [value for value in values if str(value).startswith("my_lora")]:
        (base / "models" / "loras").mkdir(parents=True, exist_ok=True)
        (base / "models" / "loras" / name).touch()
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
def test_nodes_do_not_overlap_and_lie_in_one_group(path: Path) -> None:
    workflow = json.loads(path.read_text())
    boxes = {node["id"]: drawn_box(node) for node in workflow["nodes"]}
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in workflow["groups"])]
    for rectangles in ([*boxes.values()], groups):
        for index, one in enumerate(rectangles):
            assert not [other for other in rectangles[index + 1 :] if overlap(one, other)]
    for node in workflow["nodes"]:
        homes = [group for group in groups if overlap(group, boxes[node["id"]])]
        assert len(homes) == (node["type"] not in NOTES), node["type"]
        assert all(inside(boxes[node["id"]], group) for group in homes), node["type"]
    titles = [group["title"] for group in workflow["groups"]]
    assert [title.split()[0] for title in titles] == [str(number) for number in range(1, len(titles) + 1)]
    lefts = [group[0] for group in groups]
    assert lefts == sorted(lefts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_groups_are_tight_and_wires_go_to_the_right_or_stay_in_their_group(path: Path) -> None:
    workflow = json.loads(path.read_text())
    boxes = {node["id"]: drawn_box(node) for node in workflow["nodes"]}
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in workflow["groups"])]
    for group in groups:
        within = [box for box in boxes.values() if overlap(group, box)]
        margins = (
            min(box[0] for box in within) - group[0],
            min(box[1] for box in within) - group[1],
            group[2] - max(box[2] for box in within),
            group[3] - max(box[3] for box in within),
        )
        assert all(0 <= margin <= 50 for margin in margins), margins
    home = {number: [g for g in groups if overlap(g, box)] for number, box in boxes.items()}
    for _, origin, _, target, _, kind in workflow["links"]:
        assert boxes[origin][2] <= boxes[target][0] or home[origin] == home[target], kind


def drawn_box(node: dict[str, Any]) -> tuple[float, ...]:
    """A node's left, top, right and bottom: its title bar is above its position, and all of a folded one."""
    (x, y), (width, height) = node["pos"], node["size"]
    return (x, y - TITLE, x + width, y + (0 if node["flags"].get("collapsed") else height))


def inside(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] >= other[0] and box[1] >= other[1] and box[2] <= other[2] and box[3] <= other[3]


def test_the_files_are_what_the_command_writes(comfy_host: ComfyHost) -> None:
    version = comfy_host.get("/system_stats")["system"]["comfyui_version"]
    if version != CORE_VERSION:
        pytest.skip(f"host {version} describes its own nodes otherwise than {CORE_VERSION}, for which they are written")
    found = written(comfy_host.object_info())
    assert sorted(found) == [path.name for path in WORKFLOWS]
    for path in WORKFLOWS:
        assert json.loads(path.read_text()) == found[path.name], f"python -m fluxduel.demo.templates ({path.name})"


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_the_queue_takes_the_tiny_workflow_as_it_is(comfy_host: ComfyHost) -> None:
    prompt = comfy_host.queue(api_graph(json.loads(TINY.read_text()), comfy_host.object_info()))
    while prompt not in comfy_host.get("/history"):
        comfy_host.interrupt()
        time.sleep(0.5)
    messages = comfy_host.get(f"/history/{prompt}")[prompt]["status"]["messages"]
    assert [data for kind, data in messages if kind == "execution_error"] == []


def test_a_folder_without_pictures_is_named_before_anything_runs(comfy_host: ComfyHost) -> None:
    workflow = json.loads(TINY.read_text())
    (pictures,) = [node for node in workflow["nodes"] if node["type"] == "FluxDuelLoadTrainingImages"]
    pictures["widgets_values"][0] = "no_pictures"
    put_what_the_workflow_lists(comfy_host.base, workflow)
    with pytest.raises(HostError, match=r"FluxDuelLoadTrainingImages .*no_pictures holds no picture"):
        comfy_host.queue(api_graph(workflow, comfy_host.object_info()))


def test_a_graph_with_the_old_demo_folder_is_told_what_to_choose(comfy_host: ComfyHost) -> None:
    workflow = json.loads(TINY.read_text())
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
