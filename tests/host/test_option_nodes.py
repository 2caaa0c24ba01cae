"""Options on nodes of their own, and graphs for the API from before there were any."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    LATENTS,
    LORA,
    SAVE,
    STAGE_2,
    Graph,
    node,
    save_node,
    training_graph,
    write_pictures,
)
from fluxduel.training.config import AdversarialStageConfig

# Of each theme one option that is not at its default, with steps so that the runs of this file are short.
UNUSUAL = {
    "gradient_accumulation": 2, "guidance": 2.0, "diffusion_weight": 0.5, "step_share": 0.5, "validate_every": 0,
    "preview_steps": 3, "streamed_share": 0.0, "keep_last": 5,
}  # fmt: skip
SHORT = {"steps": 1, "discriminator_warmup": 0, "batch_size": 2}
CHAIN = {
    "FluxDuelOptimiserOptions": ["gradient_accumulation"],
    "FluxDuelNoiseOptions": ["guidance"],
    "FluxDuelAdversarialOptions": ["diffusion_weight", "discriminator_warmup"],
    "FluxDuelJudgedSampleOptions": ["step_share"],
    "FluxDuelWatchOptions": ["validate_every"],
    "FluxDuelPreviewOptions": ["preview_steps"],
    "FluxDuelMemoryOptions": ["streamed_share"],
    "FluxDuelSavingOptions": ["keep_last"],
}


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> str:
    write_pictures(comfy_host.base / "input" / "option-nodes")
    return "option-nodes"


def graph_of(folder: str, stage: dict[str, Any]) -> Graph:
    """Stage 2 alone, saved. ``stage``: what it has besides its wires."""
    first = training_graph(folder)
    return {key: first[key] for key in first if key not in ("5", SAVE)} | {
        DISCRIMINATOR: node("FluxDuelLatentDiscriminator", {"architecture": "cnn", "width": 8}),
        STAGE_2: node(
            "FluxDuelTrainAdversarialStage",
            {"flux_lora": [LORA, 0], "real_latents": [LATENTS, 0], "discriminator": [DISCRIMINATOR, 0]} | stage,
        ),
        SAVE: save_node([STAGE_2, 0], "loras/option-nodes"),
    }


def chained(values: dict[str, Any], own: dict[str, Any], folder: str) -> Graph:
    """The graph with ``values`` on a chain of option nodes, and ``own`` on the training node."""
    graph = graph_of(folder, own)
    before: dict[str, Any] = {}
    for place, (kind, names) in enumerate(CHAIN.items()):
        graph[f"options{place}"] = node(kind, {name: values[name] for name in names} | before)
        before = {"options": [f"options{place}", 0]}
    graph[STAGE_2]["inputs"] |= before
    return graph


def recorded(host: ComfyHost, graph: Graph) -> dict[str, Any]:
    """The options of the stage that ``graph`` has run, as its run folder has them."""
    host.run(graph)
    manifests = (host.base / "output" / "fluxduel").glob("adversarial-*/run.json")
    newest = max(manifests, key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())["settings"]["adversarial"]


def test_a_chain_of_option_nodes_reaches_the_stage(comfy_host: ComfyHost, folder: str) -> None:
    values = {**UNUSUAL, "discriminator_warmup": 0}
    config = recorded(comfy_host, chained(values, {"steps": 1, "batch_size": 2, "seed": 71}, folder))
    expected = dataclasses.asdict(AdversarialStageConfig(**UNUSUAL, **SHORT, seed=71))
    assert config == expected


def test_the_node_next_to_the_stage_wins(comfy_host: ComfyHost, folder: str) -> None:
    graph = graph_of(folder, {"steps": 1, "batch_size": 2, "seed": 72, "options": ["near", 0]})
    graph["near"] = node("FluxDuelWatchOptions", {"validate_every": 0, "options": ["far", 0]})
    graph["far"] = node("FluxDuelWatchOptions", {"validate_every": 7, "watch_pictures": 5, "options": ["judge", 0]})
    graph["judge"] = node("FluxDuelAdversarialOptions", {"discriminator_warmup": 0})
    config = recorded(comfy_host, graph)
    assert (config["validate_every"], config["watch_pictures"], config["discriminator_warmup"]) == (0, 5, 0)


def test_a_graph_of_the_first_version_trains_the_same(comfy_host: ComfyHost, folder: str) -> None:
    """Its options stand at the training node itself, which has no inputs for them any more."""
    old = graph_of(folder, {**UNUSUAL, **SHORT, "seed": 73})
    assert recorded(comfy_host, old) == dataclasses.asdict(AdversarialStageConfig(**UNUSUAL, **SHORT, seed=73))


def test_an_old_value_out_of_range_is_refused_by_name(comfy_host: ComfyHost, folder: str) -> None:
    with pytest.raises(Exception, match="FluxDuelOptimiserOptions .*ema_decay"):
        comfy_host.queue(graph_of(folder, {**SHORT, "ema_decay": 2.0}))
