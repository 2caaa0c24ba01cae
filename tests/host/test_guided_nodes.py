"""Classifier-free guidance and a base to look on, at the nodes of a real ComfyUI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.asking import picture, refusal
from fluxduel.tests.host.test_compare_node import COMPARE, LISTED, comparison_graph
from fluxduel.tests.host.test_errors import PROMPT, SAMPLE, SHOW, fake_flux, sample_graph
from fluxduel.tests.host.test_evaluate_node import EVALUATE, evaluation_graph
from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    ENCODERS,
    LATENTS,
    STAGE_1,
    STAGE_2,
    Graph,
    lora_node,
    node,
    write_pictures,
)

AWAY, SIBLING = "70", "71"


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    return write_pictures(comfy_host.base / "input" / "guided-test", count=8)


def shown(host: ComfyHost, graph: Graph) -> np.ndarray:
    (image,) = host.run(graph)[SHOW]["images"]
    return np.asarray(picture(host, image)).astype(int)


def test_sample_is_led_from_negative(comfy_host: ComfyHost) -> None:
    graph = sample_graph()
    graph[PROMPT]["inputs"]["text"] = "picture number 1"
    plain = shown(comfy_host, graph)
    graph[SAMPLE]["inputs"]["cfg"] = 6.0
    assert "takes a negative prompt, and negative is not connected" in refusal(comfy_host, graph)
    graph[AWAY] = node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": ""})
    graph[SAMPLE]["inputs"]["negative"] = [AWAY, 0]
    led = shown(comfy_host, graph)
    assert np.abs(plain - led).mean() > 1
    graph[SAMPLE]["inputs"]["cfg"] = 0.0
    assert np.array_equal(shown(comfy_host, graph), plain), "the tiny base needs none"


def test_evaluate_says_its_cfg_and_its_sampling_base(comfy_host: ComfyHost, folder: Path) -> None:
    graph = evaluation_graph(folder, cfg=3.0, sampling_base=[SIBLING, 0], step_counts="1")
    graph[SIBLING] = lora_node(rank=1)
    graph[LATENTS]["inputs"]["negative_prompt"] = "picture number 2"
    (report,) = comfy_host.run(graph)[EVALUATE]["text"]
    assert " Sampled at cfg 3." in report and "All are sampled on fluxduel-tiny-base." in report


def test_compare_takes_the_datas_negative_prompt_or_its_own(comfy_host: ComfyHost, folder: Path) -> None:
    def cell(**inputs: object) -> np.ndarray:
        graph = comparison_graph(folder, step_counts="1", clip=[ENCODERS, 0], **inputs)
        graph[LATENTS]["inputs"]["negative_prompt"] = "picture number 2"
        outputs = comfy_host.run(graph)
        (found,) = outputs[COMPARE][LISTED]
        assert ("cfg 3" in outputs[COMPARE]["text"][0]) == ("cfg" in inputs)
        return np.asarray(picture(comfy_host, found["groups"][0]["cells"][0][0])).astype(int)

    plain, of_data = cell(), cell(cfg=3.0)
    assert not np.array_equal(plain, of_data)
    assert np.array_equal(of_data, cell(cfg=3.0, negative_prompt="picture number 2"))
    assert not np.array_equal(of_data, cell(cfg=3.0, negative_prompt="picture number 5"))


def test_both_stages_are_examined_on_a_sibling_and_refuse_another_shape(comfy_host: ComfyHost, folder: Path) -> None:
    graph = evaluation_graph(folder, STAGE_1, DISCRIMINATOR, STAGE_2, flux_lora=[STAGE_2, 0], step_counts="1")
    for stage in (STAGE_1, STAGE_2):
        graph[stage]["inputs"]["sampling_base"] = [SIBLING, 0]
    graph[SIBLING] = lora_node(rank=1)
    assert EVALUATE in comfy_host.run(graph)
    fake_flux(comfy_host.base / "models" / "diffusion_models" / "wide.safetensors")
    graph[SIBLING] = lora_node(checkpoint="wide.safetensors", rank=1)
    graph[STAGE_1]["inputs"]["seed"] = 11
    assert "sampling_base: wide.safetensors has other shapes than fluxduel-tiny-base" in refusal(comfy_host, graph)
