"""What is said of a whole graph before it runs: every fault at its node, and nothing of a graph that would run."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import save_file

from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    ENCODERS,
    IMAGES,
    LATENTS,
    LORA,
    PROMPT,
    SAMPLE,
    SAVE,
    STAGE_1,
    STAGE_2,
    Graph,
    node,
    two_stage_graph,
    write_pictures,
)
from fluxduel.tests.true_width import write_headers
from fluxduel.tests.unit.graph.machine import TINY, Machine, changed
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import TINY_BASE, AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.graph import problems as problems_file
from fluxduel.training.graph.known import Memory
from fluxduel.training.graph.problems import Checking, named_input
from fluxduel.training.lora.adapter import create, save
from fluxduel.training.lora.value import LoRAConfig
from fluxduel.training.runs.fingerprints import Fingerprint
from fluxduel.training.runs.planned import settings_of
from fluxduel.training.runs.run_directory import RunDirectory
from fluxduel.training.stages import discriminator_files

FLUX = "flux.safetensors"
GIB = 2**30
MEMORY, SIBLING, EVALUATE = "21", "22", "23"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    write_pictures(tmp_path / "input" / "pictures", count=2)
    (tmp_path / "output").mkdir()
    return Machine(tmp_path)


@pytest.fixture
def graph() -> Graph:
    return two_stage_graph("pictures")


def on_flux(machine: Machine, graph: Graph) -> Graph:
    """The graph with a FLUX.1-dev of which only the header is there, and its encoders."""
    machine.checkpoints[FLUX] = str(write_headers(machine.root / FLUX))
    graph = changed(graph, LORA, checkpoint=FLUX, precision="auto", rank=16, targets="attention+mlp")
    graph[ENCODERS] = node("DualCLIPLoader", {"clip_name1": "a", "clip_name2": "b", "type": "flux"})
    return changed(graph, LATENTS, resolution=1024)


def test_a_sound_graph_has_no_problem(machine: Machine, graph: Graph) -> None:
    assert machine.check(graph) == {}
    assert list((machine.root / "output").iterdir()) == []


def test_every_fault_is_told_at_its_node_at_once(machine: Machine, graph: Graph) -> None:
    graph = changed(graph, LORA, lora="gone.safetensors")
    graph = changed(graph, STAGE_2, target="two_samplers")
    graph = changed(graph, DISCRIMINATOR, taps="d99")
    graph = changed(graph, SAVE, prefix=" ")
    told = machine.check(graph)
    assert set(told) == {LORA, STAGE_2, DISCRIMINATOR, SAVE}
    assert "gone.safetensors" in told[LORA][0] and "few_step_phrase" in told[STAGE_2][0]
    assert "d99" in told[DISCRIMINATOR][0]


FAULTS: list[tuple[str, dict[str, Any], str, str]] = [
    (LORA, {"checkpoint": "gone"}, LORA, "Load FLUX LoRA: checkpoint: the host lists no 'gone'"),
    (LORA, {"targets": "regex"}, LORA, "target_regex is empty"),
    (LORA, {"targets": "regex", "target_regex": "("}, LORA, "no valid expression"),
    (LORA, {"targets": "regex", "target_regex": "nothing"}, LORA, "No linear layer"),
    (LORA, {"targets": "some"}, LORA, "targets must be one of"),
    (IMAGES, {"folder": "gone"}, IMAGES, "no folder gone"),
    (IMAGES, {"caption_rule": "trigger word only"}, IMAGES, "needs a trigger word"),
    (IMAGES, {"mask_rule": "some"}, IMAGES, "mask_rule must be one of"),
    (LATENTS, {"conditioning": [PROMPT, 0]}, LATENTS, "both captions and conditioning"),
    (LATENTS, {"conditioning": [PROMPT, 0], "few_step_phrase": "fast"}, LATENTS, "few_step_phrase is set"),
    (LATENTS, {"conditioning": [PROMPT, 0], "practice_prompts": "a"}, LATENTS, "practice_prompts are texts"),
    (LATENTS, {"preview_prompts": "\n".join(map(str, range(17)))}, LATENTS, "preview_prompts has 17"),
    (LATENTS, {"bucket_step": 128}, LATENTS, "resolution must be from bucket_step"),
    (STAGE_1, {"streamed_share": 0.5, "gradient_checkpointing": False}, STAGE_1, "streamed_share is 0.5"),
    (STAGE_1, {"lr_schedule": "some"}, STAGE_1, "lr_schedule must be one of"),
    (STAGE_2, {"renoise": False}, STAGE_2, "cannot judge clean latents"),
    (DISCRIMINATOR, {"loss": "wgan-gp"}, DISCRIMINATOR, "second derivatives"),
    (DISCRIMINATOR, {"architecture": "cnn", "mismatched_share": 0.5}, DISCRIMINATOR, "does not look at prompts"),
    (DISCRIMINATOR, {"taps": "x1"}, DISCRIMINATOR, "no block of this base"),
    (DISCRIMINATOR, {"continue_from": "gone"}, DISCRIMINATOR, "continue_from: the host lists no 'gone'"),
    (STAGE_2, {"balance": "gradient_ratio", "anchor": "start"}, STAGE_2, "Set balance to fixed"),
    (STAGE_2, {"target": "two_samplers"}, STAGE_2, "few_step_guidance in Judged Sample Options"),
    (SAVE, {"prefix": ""}, SAVE, "no prefix"),
    (SAVE, {"dtype": "fp8"}, SAVE, "dtype must be one of"),
    (SAMPLE, {"width": 100}, SAMPLE, "width must be a multiple of 16"),
    (SAMPLE, {"steps": "four"}, SAMPLE, "steps must be one or more whole numbers"),
]


@pytest.mark.parametrize(("where", "inputs", "told_at", "words"), FAULTS)
def test_a_fault(
    machine: Machine, graph: Graph, where: str, inputs: dict[str, Any], told_at: str, words: str
) -> None:
    told = machine.check(changed(graph, where, **inputs))
    assert set(told) == {told_at} and any(words in text for text in told[told_at]), told


@pytest.mark.parametrize(("where", "inputs", "told_at", "words"), FAULTS)
def test_of_what_a_wire_brings_nothing_is_said(
    machine: Machine, graph: Graph, where: str, inputs: dict[str, Any], told_at: str, words: str
) -> None:
    graph["99"] = node("SomeOtherNode")
    wired = {name: ["99", 0] for name in inputs if name != "conditioning"}
    if "conditioning" in inputs:
        del graph[where]["inputs"]["captions"]
        wired["conditioning"] = [PROMPT, 0]
    assert machine.check(changed(graph, where, **wired)) == {}


def test_options_come_from_the_nearest_node_of_a_chain(machine: Machine, graph: Graph) -> None:
    for name in ("streamed_share", "gradient_checkpointing", "renoise", "few_step_guidance"):
        for stage in (STAGE_1, STAGE_2):
            graph[stage]["inputs"].pop(name, None)
    graph[MEMORY] = node("FluxDuelMemoryOptions", {"streamed_share": 0.5, "gradient_checkpointing": False})
    graph["22"] = node("FluxDuelSavingOptions", {"keep_last": 3, "options": [MEMORY, 0]})
    told = machine.check(changed(graph, STAGE_1, options=["22", 0]))
    assert list(told) == [MEMORY] and "streamed_share is 0.5" in told[MEMORY][0]
    graph["23"] = node("FluxDuelMemoryOptions", {"gradient_checkpointing": True, "options": ["22", 0]})
    assert machine.check(changed(graph, STAGE_1, options=["23", 0])) == {}
    # A node of another pack may set what it likes.
    graph["22"] = node("SomeSwitch", {"options": [MEMORY, 0]})
    assert machine.check(changed(graph, STAGE_1, options=["22", 0])) == {}


def test_a_lora_file(machine: Machine, graph: Graph) -> None:
    file = save(create(BaseReference(TINY_BASE), LoRAConfig(rank=2)), machine.root / "sound.safetensors")
    machine.loras |= {"sound": file, "damaged": machine.root / "damaged.safetensors", "other": machine.root / "o.sft"}
    machine.loras["damaged"].write_bytes(file.read_bytes()[:-100])
    save_file({"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(2, 2)}, machine.loras["other"])
    assert machine.check(changed(graph, LORA, lora="sound")) == {}
    assert "damaged.safetensors" in machine.check(changed(graph, LORA, lora="damaged"))[LORA][0]
    assert list(machine.check(changed(graph, LORA, lora="other"))) == [LORA]
    # What was said of a file is not said of the one that takes its place.
    machine.loras["damaged"].write_bytes(file.read_bytes())
    assert machine.check(changed(graph, LORA, lora="damaged")) == {}


def test_a_discriminator_to_continue(machine: Machine, graph: Graph) -> None:
    file = machine.root / "discriminator.safetensors"
    config = DiscriminatorConfig(width=8, architecture="cnn")
    discriminator_files.save({"weight": torch.zeros(2)}, config, "tiny", file)
    machine.discriminators["run"] = file
    assert machine.check(changed(graph, DISCRIMINATOR, continue_from="run", architecture="cnn")) == {}
    told = machine.check(changed(graph, DISCRIMINATOR, continue_from="run"))
    assert "Set architecture to 'cnn'" in told[DISCRIMINATOR][0]


def test_a_checkpoint_that_is_none(machine: Machine, graph: Graph) -> None:
    file = machine.root / "other.safetensors"
    save_file({"conv_in.weight": torch.zeros(4, 4)}, file)
    machine.checkpoints["other"] = str(file)
    told = machine.check(changed(graph, LORA, checkpoint="other"))
    assert list(told) == [LORA] and "is no FLUX.1 checkpoint" in told[LORA][0]


def test_an_empty_folder(machine: Machine, graph: Graph) -> None:
    machine.folders["empty"] = machine.root / "empty"
    machine.folders["empty"].mkdir()
    assert "holds no picture" in machine.check(changed(graph, IMAGES, folder="empty"))[IMAGES][0]


def test_encoders_of_another_base(machine: Machine, graph: Graph) -> None:
    real = on_flux(machine, graph)
    assert machine.check(real) == {}
    tiny = copy.deepcopy(real) | {ENCODERS: graph[ENCODERS]}
    told = machine.check(tiny)
    assert set(told) == {LATENTS, SAMPLE} and "Connect DualCLIPLoader of type flux" in told[LATENTS][0]
    assert set(machine.check(changed(real, ENCODERS, type="sdxl"))) == {LATENTS, SAMPLE}
    assert machine.check(changed(real, ENCODERS, type="hunyuan_video")) == {}
    assert set(machine.check(changed(real, LORA, checkpoint=TINY))) == {LATENTS, SAMPLE}


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("decoder.conv_in.weight", (8, 4, 3, 3), "Stable Diffusion 1.5's or SDXL's"),
        ("decoder.conv_in.weight", (8, 16, 3, 3), ""),
        ("decoder.conv_in.conv.weight", (8, 16, 3, 3, 3), "HunyuanVideo's"),
        ("something", (1,), ""),
    ],
)
def test_a_vae(machine: Machine, graph: Graph, key: str, shape: tuple[int, ...], words: str) -> None:
    machine.vaes["ae"] = machine.root / "ae.safetensors"
    save_file({key: torch.zeros(shape)}, machine.vaes["ae"])
    graph["30"] = node("VAELoader", {"vae_name": "ae"})
    told = machine.check(changed(graph, LATENTS, vae=["30", 0]))
    assert (words in told[LATENTS][0]) if words else told == {}


def on_flux2(machine: Machine, graph: Graph) -> Graph:
    """The graph with a small FLUX.2, and the loaders of its encoders."""
    file = machine.root / "klein.safetensors"
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128, "num_attention_heads": 1}
    transformer = Flux2Transformer2DModel(**sizes, joint_attention_dim=24, guidance_embeds=False)
    save_file(transformer.state_dict(), file)
    machine.checkpoints["klein"] = str(file)
    graph = changed(graph, LORA, checkpoint="klein")
    graph[ENCODERS] = node("CLIPLoader", {"clip_name": "a", "type": "flux2"})
    graph["30"] = node("VAELoader", {"vae_name": "flux2"})
    machine.vaes = {name: machine.root / f"{name}.safetensors" for name in ("flux2", "ae")}
    save_file({"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}, machine.vaes["ae"])
    of_flux2 = {"decoder.conv_in.weight": torch.zeros(8, 32, 3, 3), "bn.running_mean": torch.zeros(128)}
    save_file(of_flux2, machine.vaes["flux2"])
    return changed(graph, LATENTS, vae=["30", 0])


def test_encoders_of_flux2(machine: Machine, graph: Graph) -> None:
    sound = on_flux2(machine, graph)
    assert machine.check(sound) == {}
    told = machine.check(changed(sound, "30", vae_name="ae"))
    assert told == {LATENTS: [
        "Encode Real Latents: vae: ae is FLUX.1's, and klein.safetensors takes latents of FLUX.2's. Connect FLUX.2's "
        "own VAE (flux2-vae.safetensors)."
    ]}  # fmt: skip
    double = copy.deepcopy(sound) | {ENCODERS: node("DualCLIPLoader", {"clip_name1": "a", "type": "hunyuan_video"})}
    told = machine.check(double)
    assert set(told) == {LATENTS, SAMPLE} and "needs CLIPLoader of type flux2" in told[LATENTS][0]
    tiny = copy.deepcopy(sound) | {ENCODERS: node("FluxDuelLoadTinyFluxEncoders")}
    assert "Connect CLIPLoader of type flux2: Qwen3" in machine.check(tiny)[LATENTS][0]


def test_flux2s_encoders_for_flux1(machine: Machine, graph: Graph) -> None:
    on_flux2(machine, graph)
    real = on_flux(machine, graph)
    told = machine.check(copy.deepcopy(real) | {ENCODERS: node("CLIPLoader", {"clip_name": "a", "type": "flux2"})})
    assert set(told) == {LATENTS, SAMPLE} and "needs DualCLIPLoader of type flux" in told[LATENTS][0]
    real["30"] = node("VAELoader", {"vae_name": "flux2"})
    told = machine.check(changed(real, LATENTS, vae=["30", 0]))
    assert "takes latents of FLUX.1's. Connect FLUX's own VAE (ae.safetensors)" in told[LATENTS][0]


def with_sibling(graph: Graph, base: Graph, checkpoint: str) -> Graph:
    """The graph, of which both stages and an evaluation sample on another base."""
    compared = {"flux_lora": [STAGE_2, 0], "flux_lora_2": [LORA, 0], "real_latents": [LATENTS, 0]}
    graph = {**graph, SIBLING: copy.deepcopy(base[LORA]), EVALUATE: node("FluxDuelEvaluateFluxLoRA", compared)}
    for where in (STAGE_1, STAGE_2, EVALUATE):
        graph = changed(graph, where, sampling_base=[SIBLING, 0])
    return changed(graph, SIBLING, checkpoint=checkpoint)


def test_a_sibling(machine: Machine, graph: Graph) -> None:
    real = on_flux(machine, graph)
    machine.checkpoints["schnell"] = str(write_headers(machine.root / "flux1-schnell.safetensors"))
    assert machine.check(with_sibling(real, graph, "schnell")) == {}
    on_flux2(machine, graph)
    told = machine.check(with_sibling(real, graph, "klein"))
    assert told == dict.fromkeys([STAGE_1, STAGE_2, EVALUATE], [
        "sampling_base: klein.safetensors has other shapes than flux.safetensors, which the LoRA was trained on: it is "
        "FLUX.2 and not FLUX.1. Choose its sibling, such as the distilled model of the same size."
    ])  # fmt: skip
    told = machine.check(with_sibling(real, graph, TINY))
    assert set(told) == {STAGE_1, STAGE_2, EVALUATE} and "its num_layers is 2 and not 19" in told[EVALUATE][0]


def test_a_sibling_that_is_gone(machine: Machine, graph: Graph) -> None:
    assert set(machine.check(with_sibling(graph, graph, "gone"))) == {SIBLING}
    machine.checkpoints["removed"] = str(machine.root / "removed.safetensors")
    told = machine.check(with_sibling(graph, graph, "removed"))
    assert set(told) == {SIBLING} and "removed.safetensors" in told[SIBLING][0]


def test_a_folder_that_cannot_be_written(machine: Machine, graph: Graph) -> None:
    (machine.root / "output" / "fluxduel").write_text("a file in the way")
    (machine.root / "output" / "loras").write_text("another")
    assert set(machine.check(graph)) == {STAGE_1, STAGE_2, SAVE}


def test_a_card_that_is_too_small(machine: Machine, graph: Graph) -> None:
    graph = changed(on_flux(machine, graph), LORA, precision="bf16")
    machine.memory = Memory(80 * GIB, True)
    assert machine.check(graph) == {}
    machine.memory = Memory(12 * GIB, True)
    told = machine.check(graph)
    assert set(told) == {STAGE_1, STAGE_2}
    assert "Stage 1 does not fit" in told[STAGE_1][0] and "raise streamed_share to" in told[STAGE_1][0]
    # Left to the plan it fits; and without a card nothing is planned.
    assert machine.check(changed(graph, LORA, precision="auto")) == {}
    machine.memory = Memory(12 * GIB, False)
    assert machine.check(graph) == {}


def test_a_memory_limit(machine: Machine, graph: Graph) -> None:
    told = machine.check(changed(graph, STAGE_1, memory_limit_gb=0.001))
    assert list(told) == [STAGE_1] and "raise memory_limit_gb to" in told[STAGE_1][0]


def test_a_run_that_may_be_finished_needs_no_memory(machine: Machine, graph: Graph) -> None:
    refused = changed(graph, STAGE_1, memory_limit_gb=0.001)
    start = create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=2, alpha=2.0, targets="attention"))
    config = DiffusionStageConfig(steps=3, batch_size=2, validate_every=1)
    wanted = Fingerprint("diffusion", {"some": "part"}, 3)
    folder = machine.root / "output" / "fluxduel" / "diffusion-1"
    with RunDirectory.opened(folder, wanted, settings_of(start, diffusion=config)):
        pass
    assert machine.check(refused) == {}
    # What is not used is no difference.
    assert machine.check(changed(refused, LORA, target_regex="unused")) == {}
    assert list(machine.check(changed(refused, STAGE_1, seed=1))) == [STAGE_1]


def test_the_check_is_quick(machine: Machine, graph: Graph) -> None:
    began = time.perf_counter()
    machine.check(graph)
    tiny = time.perf_counter() - began
    machine.memory = Memory(24 * GIB, True)
    large = on_flux(machine, graph)
    began = time.perf_counter()
    machine.check(large)
    first = time.perf_counter() - began
    began = time.perf_counter()
    machine.check(large)
    print(f"tiny {tiny:.2f} s, FLUX.1 {first:.2f} s, again {time.perf_counter() - began:.2f} s")
    assert tiny < 1 and first < 10


def test_what_is_left_is_known_while_the_check_goes_on(machine: Machine, graph: Graph) -> None:
    graph, asked, go_on = changed(graph, SAVE, prefix=" "), threading.Event(), threading.Event()

    def memory() -> Memory:
        asked.set()
        go_on.wait(30)
        return Memory(GIB, False)

    checking = Checking(graph, dataclasses.replace(machine.known(), memory=memory))
    thread = threading.Thread(target=checking.run)
    thread.start()
    assert asked.wait(30)
    assert [(part.node.key, part.what) for part in checking.left] == [(STAGE_1, "memory"), (STAGE_2, "memory")]
    assert set(checking.found) == {SAVE}
    go_on.set()
    thread.join()
    assert checking.left == () and set(checking.found) == {SAVE}


def test_where_the_check_fails_itself_the_graph_runs(
    machine: Machine, graph: Graph, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(problems_file, "check_start", broken)
    assert list(machine.check(changed(graph, SAVE, prefix=""))) == [SAVE]
    assert "no such thing" in caplog.text


@pytest.mark.parametrize("text", ["{}", '{"1": {}}', '{"1": {"class_type": 3, "inputs": []}}'])
def test_odd_graphs(machine: Machine, text: str) -> None:
    assert machine.check(json.loads(text)) == {}


def test_wires_in_a_circle(machine: Machine, graph: Graph) -> None:
    graph[STAGE_1]["inputs"]["flux_lora"] = [STAGE_2, 0]
    assert machine.check(graph) == {}


def test_defaults_go_together(machine: Machine, graph: Graph) -> None:
    for key, config in ((STAGE_1, DiffusionStageConfig), (STAGE_2, AdversarialStageConfig)):
        for name in vars(config()):
            graph[key]["inputs"].pop(name, None)
    assert machine.check(graph) == {}


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("Encode Real Latents: there are no captions. Connect the captions of Load Dataset Images.", "captions"),
        ("Encode Real Latents: connect clip and captions, or conditioning.", "clip"),
        ("Encode Real Latents: vae: a.safetensors is Wan 2.1's. Connect FLUX's own VAE, or clip.", "vae"),
        ("Encode Real Latents: resolution must be from bucket_step (128) to 2048; got 64.", "resolution"),
        ("DataConfig.bucket_step must be a multiple of 16 for this vae.", "bucket_step"),
        ("The disk of /images.vae is full: recaption_vae, clipping, vae_name, data.resolution.", None),
    ],
)
def test_a_problem_is_about_the_first_input_that_it_names(text: str, about: str | None) -> None:
    names = ("images", "vae", "clip", "captions", "conditioning", "bucket_step", "resolution")
    assert named_input(text, names) == about
