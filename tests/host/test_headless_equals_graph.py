"""What was tuned in the graph runs without ComfyUI, to the same bit: both stages, from the graph's own file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import LATENTS, SAVE, STAGE_1, STAGE_2, two_stage_graph, write_pictures

SETTINGS = {"flip": True, "few_step_phrase": "quick draft"}
STAGES = {
    STAGE_1: {"steps": 5, "batch_size": 2, "caption_dropout": 0.2, "lr_schedule": "cosine", "lr_warmup_steps": 2},
    # Without the watch, which would deliver the start as the best of so few steps, and so compare stage 1 twice.
    STAGE_2: {"steps": 4, "batch_size": 2, "target": "two_samplers", "target_steps": 2, "watch": False},
}


@pytest.fixture(scope="module")
def graph_of_both(comfy_host: ComfyHost) -> tuple[Path, Path]:
    """The graph as a file, and the pictures' folder, after ComfyUI has run it."""
    folder = write_pictures(comfy_host.base / "input" / "headless-test")
    graph = two_stage_graph(folder.name, prefix="loras/by-graph")
    graph[LATENTS]["inputs"] |= SETTINGS
    for node, options in STAGES.items():
        graph[node]["inputs"] |= options
    graph["stage 1 file"] = {**graph[SAVE], "inputs": graph[SAVE]["inputs"] | {
        "flux_lora": [STAGE_1, 0], "prefix": "loras/by-graph-stage1",
    }}  # fmt: skip
    comfy_host.run(graph)
    del graph["stage 1 file"]
    file = comfy_host.base / "graph.json"
    file.write_text(json.dumps(graph))
    return file, folder


def usage_hint(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return file.metadata()["modelspec.usage_hint"]


def test_graph_and_headless_run_give_the_same_lora(
    comfy_host: ComfyHost, graph_of_both: tuple[Path, Path], tmp_path: Path
) -> None:
    file, folder = graph_of_both
    program = [sys.executable, "-m", "fluxduel"]
    config = tmp_path / "config.json"
    subprocess.run([*program, "workflow", str(file), "--out", str(config)], check=True)
    output = tmp_path / "output"
    arguments = ["--images.folder", str(folder), "--output.folder", str(output), "--output.name", "headless"]
    subprocess.run([*program, "train", str(config), *arguments], check=True)
    loras = comfy_host.base / "output" / "loras"
    for ours, theirs in (("headless-stage1", "by-graph-stage1_00001_"), ("headless", "by-graph_00001_")):
        headless, graph = load_file(output / f"{ours}.safetensors"), load_file(loras / f"{theirs}.safetensors")
        assert headless.keys() == graph.keys()
        assert any(tensor.any() for name, tensor in headless.items() if "lora_B" in name)
        for name, tensor in headless.items():
            assert torch.equal(tensor, graph[name]), name
        hints = [usage_hint(output / f"{ours}.safetensors"), usage_hint(loras / f"{theirs}.safetensors")]
        assert hints[0] == hints[1]
        assert ("any sampler" if "stage1" in ours else "Both: sampler euler, scheduler simple, ") in hints[0]
    stage_1, stage_2 = (load_file(output / f"{name}.safetensors") for name in ("headless-stage1", "headless"))
    assert not all(torch.equal(tensor, stage_2[name]) for name, tensor in stage_1.items())
    # The statistics too.
    for stage in ("diffusion", "adversarial"):
        (headless_run,) = output.glob(f"{stage}-*")
        stats = (headless_run / "stats.jsonl").read_bytes()
        runs = (comfy_host.base / "output" / "fluxduel").glob(f"{stage}-*/stats.jsonl")
        assert stats in [run.read_bytes() for run in runs]
