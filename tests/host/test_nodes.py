"""The nodes as a real ComfyUI sees them: complete, explained, and bounded as the configuration says."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.request import urlopen

import pytest

from fluxduel.tests.comfy_host import ComfyHost, HostError
from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    IMAGES,
    LORA,
    SAMPLE,
    SAVE,
    SHOW_PLOT,
    SHOW_SAMPLES,
    STAGE_1,
    STAGE_2,
    save_node,
    two_stage_graph,
    write_pictures,
)
from fluxduel.training.config import (
    AdversarialStageConfig,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)

NODES = {
    "FluxDuelLoadFluxLoRA",
    "FluxDuelLoadTinyFluxEncoders",
    "FluxDuelLoadTrainingImages",
    "FluxDuelEncodeRealLatents",
    "FluxDuelTrainDiffusionStage",
    "FluxDuelLatentDiscriminator",
    "FluxDuelTrainAdversarialStage",
    "FluxDuelSaveLoRA",
    "FluxDuelApplyFluxLoRA",
    "FluxDuelSampleFluxLoRA",
    "FluxDuelPlotTrainingLog",
    "FluxDuelEvaluateFluxLoRA",
}
CONFIGURED = {
    "FluxDuelLoadFluxLoRA": LoRAConfig,
    "FluxDuelTrainDiffusionStage": DiffusionStageConfig,
    "FluxDuelTrainAdversarialStage": AdversarialStageConfig,
    "FluxDuelLatentDiscriminator": DiscriminatorConfig,
    "FluxDuelEncodeRealLatents": DataConfig,
}


@pytest.fixture(scope="session")
def pictures(comfy_host: ComfyHost) -> str:
    """The name of a folder of pictures in the host's input folder."""
    write_pictures(comfy_host.base / "input" / "nodes-test")
    return "nodes-test"


def declared_inputs(info: dict[str, Any]) -> dict[str, Any]:
    return info["input"].get("required", {}) | info["input"].get("optional", {})


def test_the_host_has_all_nodes(comfy_host: ComfyHost) -> None:
    info = comfy_host.object_info()
    assert {name for name in info if name.startswith("FluxDuel")} == NODES
    assert {info[name]["category"] for name in NODES} == {"FluxDuel"}
    assert all(info[name]["description"] for name in NODES)


def test_every_input_and_output_is_explained(comfy_host: ComfyHost) -> None:
    info = comfy_host.object_info()
    unexplained = [
        f"{name}.{slot}"
        for name in NODES
        for slot, (_, options) in declared_inputs(info[name]).items()
        if not options.get("tooltip")
    ]
    unexplained += [
        f"{name} -> {output}"
        for name in NODES
        for output, tooltip in zip(info[name]["output_name"], info[name]["output_tooltips"], strict=True)
        if not tooltip
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", CONFIGURED)
def test_widgets_are_the_configurations_options(comfy_host: ComfyHost, name: str) -> None:
    inputs = declared_inputs(comfy_host.object_info(name))
    for field in dataclasses.fields(CONFIGURED[name]):
        kind, widget = inputs[field.name]
        assert widget["default"] == field.default, field.name
        assert widget["tooltip"] == field.metadata["help"], field.name
        assert widget.get("min") == field.metadata["low"], field.name
        assert widget.get("max") == field.metadata["high"], field.name
        if field.metadata["choices"]:
            assert tuple(widget["options"]) == field.metadata["choices"], field.name
        if kind == "FLOAT":
            assert widget["round"] is False, f"{field.name} would be rounded by the page"


# Widgets of earlier versions, in the order in which graphs saved with them hold their values.
SAVED = {
    "FluxDuelTrainDiffusionStage": "steps learning_rate batch_size gradient_accumulation seed preview_every "
    "timestep_sampling timestep_mean timestep_std guidance caption_dropout lr_schedule lr_warmup_steps weight_decay "
    "max_grad_norm ema_decay gradient_checkpointing preview_steps validate_every",
    "FluxDuelTrainAdversarialStage": "steps learning_rate objective adversarial_weight diffusion_weight "
    "adversarial_schedule discriminator_updates discriminator_warmup renoise batch_size gradient_accumulation seed "
    "preview_every timestep_sampling timestep_mean timestep_std guidance caption_dropout lr_schedule lr_warmup_steps "
    "weight_decay max_grad_norm ema_decay gradient_checkpointing preview_steps validate_every adversarial_weight_end "
    "diffusion_weight_end diffusion_schedule renoise_mean renoise_std beta1 beta2 target_steps target "
    "few_step_guidance jump_steps balance gradient_ratio adversarial_ramp discriminator_ratio watch watch_pictures "
    "jump_renoise_mean step_share checkpoint_every keep_last keep_every preview_sampler watch_sampler anchor "
    "practice_share",
    "FluxDuelLatentDiscriminator": "architecture loss width learning_rate seed depth spectral_norm gradient_penalty "
    "beta1 beta2 weight_decay max_grad_norm",
    "FluxDuelEncodeRealLatents": "resolution flip held_out_share seed bucket_step",
}


@pytest.mark.parametrize("name", SAVED)
def test_new_options_come_after_those_that_saved_graphs_hold(comfy_host: ComfyHost, name: str) -> None:
    inputs = declared_inputs(comfy_host.object_info(name))
    widgets = [slot for slot, (kind, options) in inputs.items() if "default" in options]
    saved, fields = SAVED[name].split(), [field.name for field in dataclasses.fields(CONFIGURED[name])]
    assert widgets[: len(saved)] == saved
    # Whether an option is advanced does not move it.
    assert [slot for slot in widgets if slot in fields] == saved + [field for field in fields if field not in saved]
    assert set(widgets) - set(fields) == ({"continue_from"} if name == "FluxDuelLatentDiscriminator" else set())


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        (LORA, "rank", 0),
        (STAGE_1, "learning_rate", 2.0),
        (STAGE_1, "batch_size", 0),
        (STAGE_2, "discriminator_updates", 101),
        (SAMPLE, "width", 8),
        (SAMPLE, "steps", "1, many"),
        (SAMPLE, "steps", "0"),
        (SAVE, "prefix", "../x"),
        (SAVE, "prefix", "/etc/x"),
        (SAVE, "prefix", "loras/"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    comfy_host: ComfyHost, pictures: str, node: str, name: str, value: Any
) -> None:
    graph = two_stage_graph(pictures)
    # The host runs whatever other outputs are valid, so only the one that needs this node stays.
    for output in {SAVE, SHOW_PLOT, SHOW_SAMPLES} - {SHOW_SAMPLES if node == SAMPLE else SAVE}:
        del graph[output]
    graph[node]["inputs"][name] = value
    with pytest.raises(HostError, match="refused the graph") as refusal:
        comfy_host.queue(graph)
    assert graph[node]["class_type"] in str(refusal.value)
    assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        (LORA, "checkpoint", "../../secret.safetensors"),
        (LORA, "precision", "fp8"),
        (LORA, "lora", "../../secret.safetensors"),
        (DISCRIMINATOR, "continue_from", "../../secret/discriminator.safetensors"),
        (IMAGES, "folder", "../.."),
        (IMAGES, "caption_rule", "guess"),
        (SAVE, "dtype", "int4"),
        (SAVE, "format", "onnx"),
    ],
)
def test_a_choice_that_is_not_offered_is_an_error_by_name(
    comfy_host: ComfyHost, pictures: str, node: str, name: str, value: str
) -> None:
    """Newer hosts refuse such a graph; older ones run it, and the node has to refuse."""
    whole = two_stage_graph(pictures)
    loads = {LORA: whole[LORA], SAVE: save_node([LORA, 0], "loras/choices")}
    shown = {"class_type": "PreviewAny", "inputs": {"source": [node, 0]}}
    graph = {node: whole[node], "show": shown} if node in (DISCRIMINATOR, IMAGES) else loads
    graph[node]["inputs"][name] = value
    with pytest.raises(HostError) as refusal:
        comfy_host.run(graph)
    assert graph[node]["class_type"] in str(refusal.value)
    assert name in str(refusal.value) and repr(value) in str(refusal.value)


def test_a_node_without_a_run_has_no_history(comfy_host: ComfyHost) -> None:
    with urlopen(f"{comfy_host.url}/fluxduel/history?node=no-such-node") as answer:
        assert answer.status == 204 and answer.read() == b""
