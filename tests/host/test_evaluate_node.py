"""Evaluate FLUX LoRA in a real ComfyUI: its chart, its pictures, its words, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

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

EVALUATE, SHOW_CHART, SHOW_PICTURES, OTHER, LATER = "50", "51", "52", "53", "54"


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    return write_pictures(comfy_host.base / "input" / "evaluate-test", count=8)


def evaluation_graph(folder: Path, *needed: str, **inputs: Any) -> Graph:
    """The node on the tiny base's data, with the nodes ``needed`` besides it."""
    values = {"step_counts": "1, 2", "count": 4, "seed": 0, "guidance": 1.0, "pictures": 3}
    values |= {"sampler": "euler", "neighbours": "off"}
    values |= {"flux_lora": [LORA, 0], "real_latents": [LATENTS, 0]}
    whole = two_stage_graph(folder.name)
    whole[LATENTS]["inputs"] |= {"held_out_share": 0.5, "few_step_phrase": ""}
    return {key: whole[key] for key in (LORA, ENCODERS, "3", LATENTS, *needed)} | {
        EVALUATE: node("FluxDuelEvaluateFluxLoRA", values | inputs),
        SHOW_CHART: node("PreviewImage", {"images": [EVALUATE, 0]}),
        SHOW_PICTURES: node("PreviewImage", {"images": [EVALUATE, 1]}),
    }


def shown(host: ComfyHost, outputs: dict[str, Any], node_id: str) -> Image.Image:
    """The one picture that a node shows."""
    (image,) = outputs[node_id]["images"]
    return picture(host, image)


def test_base_stage_1_and_stage_2_are_compared(comfy_host: ComfyHost, folder: Path) -> None:
    graph = evaluation_graph(
        folder,
        STAGE_1,
        DISCRIMINATOR,
        STAGE_2,
        flux_lora=[STAGE_2, 0],
        flux_lora_2=[STAGE_1, 0],
        flux_lora_3=[LORA, 0],
        vae=[ENCODERS, 1],
        neighbours="on",
        log=[STAGE_2, 1],
    )
    graph[LATENTS]["inputs"]["practice_prompts"] = "a cat\na dog"
    outputs = comfy_host.run(graph)
    (report,) = outputs[EVALUATE]["text"]
    lines = report.splitlines()
    tiny = "(fluxduel-tiny-base)"
    assert lines[0] == (
        f"Rows: base is flux_lora_3 {tiny}, stage 1 is flux_lora_2 {tiny}, stage 2 is flux_lora {tiny}."
    )
    assert "4 pictures of 64 x 64 a row, against 4 held-out" in report
    start = next(number for number, line in enumerate(lines) if line.startswith("| LoRA"))
    rows = [line.split("|")[1].strip() for line in lines[start + 2 : start + 15]]
    beside = ["dpmpp_2m", "twice the steps", "strength 0.7", "strength 1.3", "practice prompts", "no prompt"]
    assert rows == ["base"] * 2 + ["stage 1"] * 2 + ["stage 2"] * 2 + [f"stage 2, {text}" for text in beside] + [
        "floor (real)"
    ]
    assert "stage 2 against stage 1 at 2 steps: Fréchet " in report
    assert "trained on other data" not in report and "no measurements" not in report

    assert shown(comfy_host, outputs, SHOW_CHART).size == (1650, 1350)
    grid = shown(comfy_host, outputs, SHOW_PICTURES)
    # Twelve rows of three pictures, each three times as large, with names before them and captions beneath.
    assert grid.height > 12 * 192 and grid.width > 3 * 192
    # The untrained LoRA and stage 1 after three steps look alike.
    pictures = grid.crop((grid.width - 3 * 192, 0, grid.width, grid.height))
    assert len(pictures.getcolors(maxcolors=1 << 20)) > 1000


def test_without_a_vae_the_pictures_are_previews(comfy_host: ComfyHost, folder: Path) -> None:
    with_vae = comfy_host.run(evaluation_graph(folder, step_counts="1", vae=[ENCODERS, 1]))
    without = comfy_host.run(evaluation_graph(folder, step_counts="1"))
    pictures = [shown(comfy_host, outputs, SHOW_PICTURES) for outputs in (with_vae, without)]
    # The tiny base's own decoder is small enough to be the preview, too.
    assert pictures[0].size == pictures[1].size
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert "base is flux_lora (fluxduel-tiny-base)" in without[EVALUATE]["text"][0]


def test_nothing_held_out_is_told(comfy_host: ComfyHost, folder: Path) -> None:
    graph = evaluation_graph(folder, step_counts="1")
    graph[LATENTS]["inputs"]["held_out_share"] = 0.0
    (report,) = comfy_host.run(graph)[EVALUATE]["text"]
    assert "against 8 training pictures" in report and "Only 0 pictures are held out" in report


@pytest.mark.parametrize(
    ("name", "value"), [("step_counts", "4, many"), ("step_counts", "0"), ("count", 3), ("pictures", 17)]
)
def test_a_value_out_of_range_is_refused_by_name(comfy_host: ComfyHost, folder: Path, name: str, value: Any) -> None:
    message = refusal(comfy_host, evaluation_graph(folder, **{name: value}))
    assert "refused the graph" in message and "FluxDuelEvaluateFluxLoRA" in message and name in message


def test_too_few_pictures_are_refused(comfy_host: ComfyHost) -> None:
    one = write_pictures(comfy_host.base / "input" / "evaluate-one", count=1)
    message = refusal(comfy_host, evaluation_graph(one))
    assert "FluxDuelEvaluateFluxLoRA" in message
    assert "Evaluate FLUX LoRA: Distances to 1 training pictures" in message and "Add pictures" in message


def test_a_lora_of_a_base_with_other_prompts_is_refused(comfy_host: ComfyHost, folder: Path) -> None:
    fake_flux(comfy_host.base / "models" / "diffusion_models" / "wide.safetensors")
    graph = evaluation_graph(folder, flux_lora_2=[OTHER, 0]) | {
        OTHER: lora_node(checkpoint="wide.safetensors", rank=1)
    }
    message = refusal(comfy_host, graph)
    # Before anything runs, at the node that encodes.
    assert "refused the graph" in message and "FluxDuelEncodeRealLatents" in message
    assert "128 wide" in message and "wide.safetensors takes 16" in message


def test_cancel_ends_it(comfy_host: ComfyHost, folder: Path) -> None:
    prompt = comfy_host.queue(evaluation_graph(folder, step_counts="1000", count=64))
    deadline = time.monotonic() + 60
    while comfy_host.get(f"/history/{prompt}") == {} and time.monotonic() < deadline:
        time.sleep(1)
        comfy_host.interrupt()
    entry = comfy_host.wait(prompt, timeout=60)
    assert failure(entry) == f"interrupted in FluxDuelEvaluateFluxLoRA (node {EVALUATE})"
