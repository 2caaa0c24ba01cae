"""Compare FLUX LoRAs in a real ComfyUI: the sheet, the words, the pictures for the page, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.asking import picture, refusal
from fluxduel.tests.host.test_errors import fake_flux
from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    ENCODERS,
    LATENTS,
    LORA,
    STAGE_1,
    STAGE_2,
    Graph,
    lora_node,
    node,
    two_stage_graph,
    write_pictures,
)

COMPARE, OTHER, SHOW_REPORT = "60", "61", "62"
VALUES: dict[str, Any] = {
    "prompts": "", "names": "", "step_counts": "1, 2", "samplers": "euler", "seeds": "0", "guidance": 1.0, "width": 0,
    "height": 0,
}  # fmt: skip
LISTED = "fluxduel_comparison"


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    return write_pictures(comfy_host.base / "input" / "compare-test", count=6)


def comparison_graph(folder: Path, *needed: str, **inputs: Any) -> Graph:
    """The node on the tiny base, with the nodes ``needed`` besides it; an input of ``None`` is left out."""
    whole = two_stage_graph(folder.name)
    whole[LATENTS]["inputs"] |= {"held_out_share": 0.3, "few_step_phrase": ""}
    values = VALUES | {"flux_lora": [LORA, 0], "real_latents": [LATENTS, 0], "vae": [ENCODERS, 1]} | inputs
    keys = (LORA, ENCODERS, "3", LATENTS, *needed)
    given = {name: value for name, value in values.items() if value is not None}
    return {key: whole[key] for key in keys} | {COMPARE: node("FluxDuelCompareFluxLoRAs", given)}


def test_base_and_both_stages_are_on_one_sheet_with_the_real_pictures(comfy_host: ComfyHost, folder: Path) -> None:
    graph = comparison_graph(
        folder, STAGE_1, DISCRIMINATOR, STAGE_2, flux_lora_2=[STAGE_1, 0], flux_lora_3=[STAGE_2, 0], seeds="0, 5",
    )  # fmt: skip
    graph[SHOW_REPORT] = node("PreviewAny", {"source": [COMPARE, 1]})
    outputs = comfy_host.run(graph)
    (comparison,) = outputs[COMPARE][LISTED]
    assert comparison["rows"] == ["base", "stage 1", "stage 2", "real pictures"]
    assert len(comparison["groups"]) == 3
    for group in comparison["groups"]:
        assert group["columns"] == ["1 step, seed 0", "1 step, seed 5", "2 steps, seed 0", "2 steps, seed 5"]
        assert group["prompt"].startswith("picture number ")
        assert [len(row) for row in group["cells"]] == [4] * 4
        # One real picture has this caption.
        assert [entry is None for entry in group["cells"][3]] == [False, True, True, True]
        pictures = [[np.asarray(picture(comfy_host, entry)) for entry in row] for row in group["cells"][:3]]
        assert all(picture.shape == (64, 64, 3) for row in pictures for picture in row)
        # Another seed is another picture; another LoRA is nearly the same one after three steps of training.
        assert np.abs(pictures[0][0].astype(int) - pictures[0][1]).mean() > 3
        assert not np.array_equal(pictures[0][0], pictures[1][0])
    number = comparison["groups"][0]["prompt"].rsplit(" ", 1)[1]
    real = np.asarray(picture(comfy_host, comparison["groups"][0]["cells"][3][0])).astype(int)
    true = np.asarray(Image.open(folder / f"picture{number}.png").convert("RGB"))
    assert np.abs(real - true).mean() < 40

    # The host would show a picture of the node's own below it, and the node would grow.
    assert "images" not in outputs[COMPARE]
    sheet = picture(comfy_host, comparison["sheet"])
    assert sheet.width > 4 * 192 and sheet.height > 3 * 4 * 192
    (report,) = outputs[COMPARE]["text"]
    assert outputs[SHOW_REPORT]["text"] == [report]
    lines = report.splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["row", "input", "LoRA", "base"]
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["base", "stage 1", "stage 2"]
    assert "`flux_lora_3`" in lines[4] and "trained: diffusion, adversarial" in lines[4]
    assert "All: euler, guidance 1, 64 x 64." in report
    assert f"1. {comparison['groups'][0]['prompt']} (real: picture{number}.png)" in report


def test_own_prompts_names_and_size(comfy_host: ComfyHost, folder: Path) -> None:
    graph = comparison_graph(
        folder, clip=[ENCODERS, 0], real_latents=None, prompts="a cat\n\n  a cat  \n猫 on a mat", names="mine",
        step_counts="1", samplers="euler, dpmpp_2m", width=96, height=64,
    )  # fmt: skip
    del graph[LATENTS], graph["3"]
    outputs = comfy_host.run(graph)
    (comparison,) = outputs[COMPARE][LISTED]
    assert comparison["rows"] == ["mine"]
    assert [group["prompt"] for group in comparison["groups"]] == ["a cat", "猫 on a mat"]
    assert comparison["groups"][0]["columns"] == ["1 step, euler", "1 step, dpmpp_2m"]
    assert picture(comfy_host, comparison["groups"][0]["cells"][0][0]).size == (96, 64)
    assert "2. 猫 on a mat" in outputs[COMPARE]["text"][0] and "All: seed 0, guidance 1, 96 x 64." in report_of(outputs)


def report_of(outputs: dict[str, Any]) -> str:
    return outputs[COMPARE]["text"][0]


def test_a_page_that_opens_later_finds_it_in_the_hosts_history(comfy_host: ComfyHost, folder: Path) -> None:
    """Also where the host has taken the node's results from another graph's run."""
    graph = comparison_graph(folder, step_counts="1", prompts="picture number 0")
    shown = []
    for name in ("one graph", "another"):
        prompt = comfy_host.queue(graph, workflow={"id": name, "nodes": []})
        assert failure(comfy_host.wait(prompt)) is None
        entry = comfy_host.get("/history?max_items=2")[prompt]
        assert entry["prompt"][3]["extra_pnginfo"]["workflow"]["id"] == name
        shown.append(entry["outputs"][COMPARE][LISTED])
    assert shown[0] == shown[1] and shown[0][0]["rows"] == ["base", "real pictures"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("step_counts", "4, many", "whole numbers from 1"),
        ("samplers", "euler, magic", "no sampler 'magic'"),
        ("seeds", "-1", "whole numbers from 0"),
        ("seeds", "9" * 30, "whole numbers from 0"),
        ("width", 4112, "4096"),
    ],
)
def test_a_value_that_is_no_list_is_refused_by_name(
    comfy_host: ComfyHost, folder: Path, name: str, value: Any, told: str
) -> None:
    message = refusal(comfy_host, comparison_graph(folder, **{name: value}))
    assert "refused the graph" in message and "FluxDuelCompareFluxLoRAs" in message
    assert name in message and told in message


def test_what_cannot_be_compared_says_what_to_change(comfy_host: ComfyHost, folder: Path) -> None:
    message = refusal(comfy_host, comparison_graph(folder, prompts="a cat"))
    assert "Compare FLUX LoRAs: prompts: 'a cat' is no caption of the data" in message and "Connect clip" in message
    message = refusal(comfy_host, comparison_graph(folder, real_latents=None))
    assert "Compare FLUX LoRAs: prompts is empty, and no real_latents are connected" in message
    message = refusal(comfy_host, comparison_graph(folder, names="a, b"))
    assert "there are 2 names for 1 LoRAs" in message
    message = refusal(comfy_host, comparison_graph(folder, seeds=", ".join(map(str, range(90)))))
    assert "540 pictures are asked for, and at most 400" in message


def test_a_lora_of_a_base_with_other_prompts_is_refused_by_its_input(comfy_host: ComfyHost, folder: Path) -> None:
    fake_flux(comfy_host.base / "models" / "diffusion_models" / "compare-wide.safetensors")
    graph = comparison_graph(folder, flux_lora_4=[OTHER, 0]) | {
        OTHER: lora_node(checkpoint="compare-wide.safetensors", rank=1)
    }
    message = refusal(comfy_host, graph)
    assert "Compare FLUX LoRAs: flux_lora_4: the prompt is 128 wide" in message


def test_cancel_ends_it(comfy_host: ComfyHost, folder: Path) -> None:
    prompt = comfy_host.queue(comparison_graph(folder, step_counts="1000", seeds="0, 1, 2, 3"))
    deadline = time.monotonic() + 60
    while comfy_host.get(f"/history/{prompt}") == {} and time.monotonic() < deadline:
        time.sleep(1)
        comfy_host.interrupt()
    entry = comfy_host.wait(prompt, timeout=60)
    assert failure(entry) == f"interrupted in FluxDuelCompareFluxLoRAs (node {COMPARE})"
