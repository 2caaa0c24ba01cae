"""No false alarm: of a seeded corpus of graphs, each one that the check refuses fails when it runs all the same."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    IMAGES,
    LATENTS,
    LORA,
    SAMPLE,
    SAVE,
    STAGE_1,
    STAGE_2,
    Graph,
    node,
    two_stage_graph,
    write_pictures,
)
from fluxduel.tests.unit.graph.machine import Machine, changed
from fluxduel.training.config import (
    AdversarialStageConfig,
    Config,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)

GRAPHS, RUNS = 600, 40
# A node that gives any value, of which the check knows nothing.
NODE = """
import json
class Any(str):
    def __ne__(self, other):
        return False
class CheckCorpusValue:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING", {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = (Any("*"),), "give", "tests"
    def give(self, text):
        return (json.loads(text),)
NODE_CLASS_MAPPINGS = {"CheckCorpusValue": CheckCorpusValue}
"""
CONFIGS: dict[str, type[Config]] = {
    LORA: LoRAConfig,
    LATENTS: DataConfig,
    STAGE_1: DiffusionStageConfig,
    DISCRIMINATOR: DiscriminatorConfig,
    STAGE_2: AdversarialStageConfig,
}
# What takes longer where it is large is left alone.
LEFT = {
    "steps", "batch_size", "gradient_accumulation", "resolution", "rank", "width", "depth", "discriminator_updates",
    "discriminator_warmup", "target_steps", "watch_pictures", "preview_every", "preview_steps", "validate_every",
    "jump_steps", "compile_blocks", "keep_last",
}  # fmt: skip
TEXTS = {
    "target_regex": ["", "(", "nothing", r"transformer_blocks\.0\..*to_q"],
    "few_step_phrase": ["", "quick"],
    "practice_prompts": ["", "a cat\na dog"],
    "outside_prompts": ["", "a cat\na dog"],
    "negative_prompt": ["", "blurred"],
    "preview_prompts": ["", "a cat", "\n".join(map(str, range(17)))],
    "taps": ["", "d0", "d99", "s0, d1", "x"],
}
OTHERS: dict[str, dict[str, list[Any]]] = {
    LORA: {"lora": ["none", "gone.safetensors"]},
    IMAGES: {
        "folder": ["corpus-test", "corpus-empty", "gone"],
        "caption_rule": ["text file", "file name", "trigger word only", "other"],
        "trigger_word": ["", "sks"],
        "mask_rule": ["none", "other"],
    },
    DISCRIMINATOR: {"continue_from": ["new", "gone"]},
    SAVE: {"prefix": ["loras/corpus", "", "../outside", "blocked/lora"], "dtype": ["fp32", "bf16", "other"]},
    SAMPLE: {"width": [64, 72], "height": [48, 100], "steps": ["1", "1, 2", "few", "0"]},
}


def values(field: dataclasses.Field, draw: random.Random) -> Any:
    """One that the host would take of this option, or that some hosts take."""
    if field.name in TEXTS:
        return draw.choice(TEXTS[field.name])
    if field.metadata["choices"] is not None:
        return draw.choice([*field.metadata["choices"], "other"])
    if isinstance(field.default, bool):
        return draw.random() < 0.5
    low, high = field.metadata["low"], field.metadata["high"]
    drawn = draw.choice([low, high, field.default, draw.uniform(low, min(high, low + 2))])
    return type(field.default)(drawn)


def corpus() -> Iterator[dict[tuple[str, str], Any]]:
    """(node, input) -> value, of one to four inputs."""
    draw = random.Random(12)
    places = [
        (key, field)
        for key, config in CONFIGS.items()
        for field in dataclasses.fields(config)
        if field.name not in LEFT
    ]
    # Those that something depends on come often enough to meet.
    often = {"target", "renoise", "streamed_share", "gradient_checkpointing", "balance", "anchor", "practice_share"}
    often |= {"loss", "architecture", "mismatched_share", "targets", "memory_limit_gb", "few_step_guidance", *TEXTS}
    weights = [5 if field.name in often else 1 for _, field in places]
    for _ in range(GRAPHS):
        chosen = {}
        for key, field in draw.choices(places, weights, k=draw.randint(1, 4)):
            chosen[key, field.name] = values(field, draw)
        if draw.random() < 0.3:
            key = draw.choice([*OTHERS])
            name = draw.choice([*OTHERS[key]])
            chosen[key, name] = draw.choice(OTHERS[key][name])
        yield chosen


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    base = tmp_path_factory.mktemp("corpus")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "check_corpus.py").write_text(NODE)
    write_pictures(base / "input" / "corpus-test", count=2)
    (base / "input" / "corpus-empty").mkdir()
    with ComfyHost(base) as host:
        (base / "output" / "blocked").write_text("a file where a folder is meant")
        yield host


def plain_graph() -> Graph:
    graph = two_stage_graph("corpus-test")
    for key in ("9", "10"):
        del graph[key]
    return changed(graph, STAGE_2, watch=False)


def given(chosen: dict[tuple[str, str], Any]) -> Graph:
    """The graph, with what was chosen at its widgets."""
    graph = plain_graph()
    for (key, name), value in chosen.items():
        graph = changed(graph, key, **{name: value})
    return graph


def wired(graph: Graph, chosen: dict[tuple[str, str], Any]) -> Graph:
    """The same graph, with what was chosen brought by wires."""
    for number, ((key, name), value) in enumerate(chosen.items(), 100):
        graph = changed(graph, key, **{name: [str(number), 0]})
        graph[str(number)] = node("CheckCorpusValue", {"text": json.dumps(value)})
    return graph


def test_what_is_refused_fails(host: ComfyHost) -> None:
    machine = Machine(Path(host.base))
    refused: dict[str, tuple[dict[tuple[str, str], Any], dict[str, list[str]]]] = {}
    count = 0
    for chosen in corpus():
        told = machine.check(given(chosen))
        count += bool(told)
        # Of graphs with the same first words one is run.
        for text in (text for texts in told.values() for text in texts):
            refused.setdefault(text[:25], (chosen, told))
    assert machine.check(plain_graph()) == {}
    ran: Counter[str] = Counter()
    false_alarms = []
    for chosen, told in list(refused.values())[:RUNS]:
        if not machine.check(given(chosen)):
            # By now a run of it is finished, whose result is used whatever it would take to train.
            ran["are finished"] += 1
            continue
        entry = host.wait(host.queue(wired(plain_graph(), chosen)))
        problem = failure(entry)
        ran["failed" if problem else "went through"] += 1
        if problem is None:
            false_alarms.append((chosen, told))
    print(f"{count} of {GRAPHS} graphs refused, for {len(refused)} reasons; {dict(ran)}")
    assert false_alarms == []
    assert ran["failed"] >= 15
