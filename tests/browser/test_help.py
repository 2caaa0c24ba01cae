"""The help page of every node: served, and in step with the node."""

from __future__ import annotations

import re
import urllib.request
from typing import Any

import pytest

from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost

NODES = [
    "FluxDuelAdversarialOptions",
    "FluxDuelApplyFluxLoRA",
    "FluxDuelCompareFluxLoRAs",
    "FluxDuelEncodeRealLatents",
    "FluxDuelEvaluateFluxLoRA",
    "FluxDuelJudgedSampleOptions",
    "FluxDuelLatentDiscriminator",
    "FluxDuelLoadFluxLoRA",
    "FluxDuelLoadTinyFluxEncoders",
    "FluxDuelLoadTrainingImages",
    "FluxDuelMemoryOptions",
    "FluxDuelNoiseOptions",
    "FluxDuelOptimiserOptions",
    "FluxDuelPlotTrainingLog",
    "FluxDuelPreviewOptions",
    "FluxDuelSampleFluxLoRA",
    "FluxDuelSaveLoRA",
    "FluxDuelSavingOptions",
    "FluxDuelTrainAdversarialStage",
    "FluxDuelTrainDiffusionStage",
    "FluxDuelWatchOptions",
]


def test_these_are_all_nodes(comfy_host: ComfyHost) -> None:
    assert sorted(name for name in comfy_host.object_info() if name.startswith("FluxDuel")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_the_page_lists_the_node_s_sockets_and_widgets(comfy_host: ComfyHost, node: str) -> None:
    with urllib.request.urlopen(f"{comfy_host.url}/extensions/{PACK_NAME}/docs/{node}.md") as answer:
        page = answer.read().decode()
    info = comfy_host.object_info(node)
    assert page.startswith(f"# {info['display_name']}\n")
    parts = dict(re.findall(r"^## (.+)\n([^#]*)", page, flags=re.MULTILINE))
    tables = [parts[part] for part in ("Inputs", "Advanced inputs") if part in parts and "|" in parts[part]]
    # A narrow sidebar cuts the last column off, which must not be the meaning.
    assert {table.lstrip().splitlines()[0] for table in tables} <= {"| input | meaning | default |"}
    listed = {name: default for table in tables for name, default in rows(table, "default").items()}
    meanings = {name: meaning for table in tables for name, meaning in rows(table, "meaning").items()}
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert set(listed) == set(inputs)
    for name, (_, options) in inputs.items():
        if "default" in options and not isinstance(options["default"], str):
            assert stated(listed[name]) == pytest.approx(options["default"]), name
        elif options.get("default"):
            assert listed[name] == options["default"], name
        assert options["tooltip"] in meanings[name], name
    results = rows(parts["Outputs"], "meaning")
    assert list(results) == info["output_name"]
    for (name, meaning), tooltip in zip(results.items(), info["output_tooltips"], strict=True):
        assert meaning.startswith(tooltip.rstrip(".")), name
    assert len(parts["Advice"].strip()) > 100


def rows(table: str, column: str) -> dict[str, str]:
    """First column -> the named one, without code marks, of a Markdown table."""
    lines = [[cell.strip().strip("`") for cell in line.split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {row[1]: row[lines[0].index(column)] for row in lines[2:]}


def stated(text: str) -> Any:
    return {"on": True, "off": False}.get(text) if text in ("on", "off") else float(text)
