"""The blueprint against a real host: listed, with nodes, values and wires that the host knows."""

from __future__ import annotations

import json

import pytest

from fluxduel.demo.templates.__main__ import BLUEPRINT, written_blueprint
from fluxduel.demo.templates.write import CORE_VERSION
from fluxduel.demo.workflow import widget_values
from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost
from fluxduel.tests.host.test_workflows import check_value, socket_type


def test_the_host_lists_and_serves_it(comfy_host: ComfyHost) -> None:
    found = comfy_host.get("/global_subgraphs")
    # Newer hosts bring some of their own.
    ours = {key: each for key, each in found.items() if each["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"}
    ((key, entry),) = ours.items()
    assert entry["name"] == BLUEPRINT.stem
    assert comfy_host.get(f"/global_subgraphs/{key}")["data"] == BLUEPRINT.read_text()


def test_it_fits_the_hosts_nodes(comfy_host: ComfyHost) -> None:
    info = comfy_host.object_info()
    (subgraph,) = json.loads(BLUEPRINT.read_text())["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for node in nodes.values():
        declared = info[node["type"]]
        inputs = declared["input"].get("required", {}) | declared["input"].get("optional", {})
        for name, value in widget_values(node, declared).items():
            check_value(f"{node['type']}.{name}", inputs[name], value)
        assert [slot["type"] for slot in node["outputs"]] == declared["output"]
        assert {slot["name"] for slot in node["inputs"]} == inputs.keys()
        for slot in node["inputs"]:
            assert slot["type"] == socket_type(inputs[slot["name"]][0])
    ends = {
        subgraph["inputNode"]["id"]: {"outputs": [slot | {"links": slot["linkIds"]} for slot in subgraph["inputs"]]},
        subgraph["outputNode"]["id"]: {"inputs": [slot | {"link": slot["linkIds"][0]} for slot in subgraph["outputs"]]},
    }
    everything = nodes | ends
    for link in subgraph["links"]:
        source = everything[link["origin_id"]]["outputs"][link["origin_slot"]]
        sink = everything[link["target_id"]]["inputs"][link["target_slot"]]
        assert source["type"] == sink["type"] == link["type"]
        assert link["id"] in source["links"] and sink["link"] == link["id"]


def test_the_file_is_what_the_command_writes(comfy_host: ComfyHost) -> None:
    version = comfy_host.get("/system_stats")["system"]["comfyui_version"]
    if version != CORE_VERSION:
        pytest.skip(f"host {version} describes its own nodes otherwise than {CORE_VERSION}, for which it is written")
    assert json.loads(BLUEPRINT.read_text()) == written_blueprint(comfy_host.object_info())
