"""The nodes as a real ComfyUI sees them: complete, explained, and bounded as the configuration says."""

from __future__ import annotations

import dataclasses
from collections import Counter
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
    "FluxDuelCompareFluxLoRAs",
}
OPTION_NODES = {
    "FluxDuelOptimiserOptions",
    "FluxDuelNoiseOptions",
    "FluxDuelAdversarialOptions",
    "FluxDuelJudgedSampleOptions",
    "FluxDuelWatchOptions",
    "FluxDuelPreviewOptions",
    "FluxDuelMemoryOptions",
    "FluxDuelSavingOptions",
}
STAGES = {
    "FluxDuelTrainDiffusionStage": DiffusionStageConfig,
    "FluxDuelTrainAdversarialStage": AdversarialStageConfig,
}
CONFIGURED = {
    "FluxDuelLoadFluxLoRA": LoRAConfig,
    "FluxDuelLatentDiscriminator": DiscriminatorConfig,
    "FluxDuelEncodeRealLatents": DataConfig,
    **STAGES,
    **dict.fromkeys(sorted(OPTION_NODES), AdversarialStageConfig),
}
MOST_WIDGETS = 8


@pytest.fixture(scope="session")
def pictures(comfy_host: ComfyHost) -> str:
    """The name of a folder of pictures in the host's input folder."""
    write_pictures(comfy_host.base / "input" / "nodes-test")
    return "nodes-test"


def declared_inputs(info: dict[str, Any]) -> dict[str, Any]:
    return info["input"].get("required", {}) | info["input"].get("optional", {})


def test_the_host_has_all_nodes(comfy_host: ComfyHost) -> None:
    info = comfy_host.object_info()
    assert {name for name in info if name.startswith("FluxDuel")} == NODES | OPTION_NODES
    assert {info[name]["category"] for name in NODES} == {"FluxDuel"}
    assert {info[name]["category"] for name in OPTION_NODES} == {"FluxDuel/options"}
    assert all(info[name]["description"] for name in NODES | OPTION_NODES)


def test_every_input_and_output_is_explained(comfy_host: ComfyHost) -> None:
    info = comfy_host.object_info()
    unexplained = [
        f"{name}.{slot}"
        for name in NODES | OPTION_NODES
        for slot, (_, options) in declared_inputs(info[name]).items()
        if not options.get("tooltip")
    ]
    unexplained += [
        f"{name} -> {output}"
        for name in NODES | OPTION_NODES
        for output, tooltip in zip(info[name]["output_name"], info[name]["output_tooltips"], strict=True)
        if not tooltip
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", CONFIGURED)
def test_widgets_are_the_configurations_options(comfy_host: ComfyHost, name: str) -> None:
    inputs = declared_inputs(comfy_host.object_info(name))
    fields = {field.name: field for field in dataclasses.fields(CONFIGURED[name])}
    if name in STAGES or name in OPTION_NODES:
        fields = {slot: fields[slot] for slot, (_, options) in inputs.items() if "default" in options}
    assert fields
    for field in fields.values():
        kind, widget = inputs[field.name]
        assert widget["default"] == field.default, field.name
        assert widget["tooltip"] == field.metadata["help"], field.name
        assert widget.get("min") == field.metadata["low"], field.name
        assert widget.get("max") == field.metadata["high"], field.name
        if field.metadata["choices"]:
            assert tuple(widget["options"]) == field.metadata["choices"], field.name
        if kind == "FLOAT":
            assert widget["round"] is False, f"{field.name} would be rounded by the page"


@pytest.mark.parametrize("name", STAGES)
def test_every_option_of_a_stage_has_one_place(comfy_host: ComfyHost, name: str) -> None:
    """On the training node or on one option node."""
    info = comfy_host.object_info()
    places = Counter(
        slot for node in (name, *OPTION_NODES) for slot, (_, options) in declared_inputs(info[node]).items()
        if "default" in options
    )  # fmt: skip
    assert {field.name: places[field.name] for field in dataclasses.fields(STAGES[name])} == {
        field.name: 1 for field in dataclasses.fields(STAGES[name])
    }


def test_no_node_shows_more_than_a_few_widgets(comfy_host: ComfyHost) -> None:
    info = comfy_host.object_info()
    shown = {
        name: [
            slot
            for slot, (_, options) in declared_inputs(info[name]).items()
            if "default" in options and not options.get("advanced")
        ]
        for name in NODES | OPTION_NODES
    }
    assert {name: slots for name, slots in shown.items() if len(slots) > MOST_WIDGETS} == {}
    assert shown["FluxDuelTrainAdversarialStage"][:4] == ["target", "target_steps", "steps", "adversarial_weight"]


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        (LORA, "rank", 0),
        (STAGE_1, "learning_rate", 2.0),
        (STAGE_1, "batch_size", 0),
        (STAGE_2, "target_steps", 0),
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
