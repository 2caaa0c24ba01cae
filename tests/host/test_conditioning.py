"""Prompts that the host's own nodes have put something beside: refused, or said to be ignored, never silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ComfyHost, HostError
from fluxduel.tests.host.test_errors import SHOW, sample_graph
from fluxduel.tests.host.two_stage_graph import (
    ENCODERS,
    LATENTS,
    PROMPT,
    SAMPLE,
    Graph,
    node,
    training_graph,
    write_pictures,
)

ADDED = "50"
MASK = {"51": node("SolidMask", {"value": 1.0, "width": 64, "height": 64})}
LATENT = {"52": node("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1})}
PROMPT_IN = {"conditioning": [PROMPT, 0]}
AREA = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 0.5}
MASKED = {"mask": ["51", 0], "strength": 1.0, "set_cond_area": "default"}
# (what is put beside the prompt, by which nodes, what is said of it)
IGNORED: list[tuple[Graph, list[str]]] = [
    ({ADDED: node("FluxGuidance", PROMPT_IN | {"guidance": 7.5})}, ["guidance 7.5"]),
    ({ADDED: node("ConditioningSetArea", PROMPT_IN | AREA)}, ["an area", "strength 0.5"]),
    (MASK | {ADDED: node("ConditioningSetMask", PROMPT_IN | MASKED)}, ["a mask"]),
    (
        {ADDED: node("ConditioningSetTimestepRange", PROMPT_IN | {"start": 0.25, "end": 0.75})},
        ["a start at 0.25", "an end at 0.75"],
    ),
]
REFERENCE = LATENT | {ADDED: node("ReferenceLatent", PROMPT_IN | {"latent": ["52", 0]})}


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    return write_pictures(comfy_host.base / "input" / "conditioning-test", count=2)


def encode_graph(folder: Path, added: Graph) -> Graph:
    graph = {key: value for key, value in training_graph(folder.name).items() if key <= LATENTS}
    inputs = graph[LATENTS]["inputs"]
    del inputs["captions"], inputs["clip"]
    inputs["conditioning"] = [ADDED if added else PROMPT, 0]
    prompt = node("CLIPTextEncode", {"clip": [ENCODERS, 0], "text": "one prompt for all"})
    return graph | {PROMPT: prompt, SHOW: node("PreviewAny", {"source": [LATENTS, 1]})} | added


def sampling(added: Graph) -> Graph:
    graph = sample_graph()
    graph[SAMPLE]["inputs"]["conditioning"] = [ADDED if added else PROMPT, 0]
    return graph | added


def warnings(host: ComfyHost, graph: Graph, place: str) -> str:
    outputs: dict[str, Any] = host.run(graph).get(place, {"text": [""]})
    return "\n".join(line for line in outputs["text"][0].splitlines() if line.startswith("Warning: beside the prompt"))


@pytest.mark.parametrize(("added", "named"), IGNORED, ids=[named[0] for _, named in IGNORED])
def test_what_is_ignored_is_named(comfy_host: ComfyHost, folder: Path, added: Graph, named: list[str]) -> None:
    for found in (
        warnings(comfy_host, encode_graph(folder, added), LATENTS),
        warnings(comfy_host, sampling(added), SAMPLE),
    ):
        assert all(words in found for words in named), found
        assert "is ignored" in found


def test_a_plain_prompt_is_not_warned_of(comfy_host: ComfyHost, folder: Path) -> None:
    assert warnings(comfy_host, encode_graph(folder, {}), LATENTS) == ""
    assert warnings(comfy_host, sampling({}), SAMPLE) == ""
    # A strength of 1 over the whole schedule is nothing.
    whole = {ADDED: node("ConditioningSetTimestepRange", PROMPT_IN | {"start": 0.0, "end": 1.0})}
    assert warnings(comfy_host, sampling(whole), SAMPLE) == ""


def test_a_prompt_that_needs_what_stands_beside_it_is_refused(comfy_host: ComfyHost, folder: Path) -> None:
    for graph in (encode_graph(folder, REFERENCE), sampling(REFERENCE)):
        with pytest.raises(HostError, match="conditioning.*holds reference pictures beside the prompt"):
            comfy_host.run(graph)
