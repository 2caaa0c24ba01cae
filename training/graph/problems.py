"""All that is wrong with a graph and can be known before it runs, by node.

A false alarm is worse than a miss: what a wire brings is not guessed at, nodes of others are passed over, and where the
check itself fails the graph runs.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..base.base_model import BaseReference
from ..base.families import PIXELS_PER_TOKEN
from ..config import DiscriminatorConfig
from ..lora.sibling import sibling_fault
from ..runs.run_directory import settings_of_runs
from ..step_counts import sampler_names, seeds, step_counts
from .datasets import ENCODE, IMAGES, check_encoding, check_images, data_settings, prompt_fault, vae_fault
from .disk import least_on_disk
from .known import Known
from .memory import check_room
from .outputs import check_save, folder_faults, in_bytes
from .prompt_graph import UNKNOWN, Node, PromptGraph, Settings
from .stages import (
    CONFIGS,
    DISCRIMINATOR,
    Problem,
    check_discriminator,
    check_stage,
    check_target,
    judge_settings,
    stage_settings,
)
from .starts import LOAD, STAGES, Start, check_start, start, start_of

SAVE, SAMPLE, EVALUATE = "FluxDuelSaveLoRA", "FluxDuelSampleFluxLoRA", "FluxDuelEvaluateFluxLoRA"
# Class -> its name, and what it takes lists of: how they are read, and what is read where nothing is given.
SAMPLING: dict[str, tuple[str, dict[str, tuple[Callable[[str, str], Any], str]]]] = {
    SAMPLE: ("Sample FLUX LoRA", {"steps": (step_counts, "25")}),
    EVALUATE: ("Evaluate FLUX LoRA", {"step_counts": (step_counts, "25")}),
    "FluxDuelCompareFluxLoRAs": (
        "Compare FLUX LoRAs",
        {"step_counts": (step_counts, "25"), "samplers": (sampler_names, "euler"), "seeds": (seeds, "0")},
    ),
}
STAGE_NAMES = dict(zip(STAGES, ("diffusion", "adversarial"), strict=True))
COMPARED = ("flux_lora", "flux_lora_2", "flux_lora_3")
OURS = "FluxDuel"
UNTOLD = Start(None, None, False)

log = logging.getLogger(__name__)


def problems(graph: Mapping[str, Mapping[str, Any]], known: Known) -> dict[str, list[str]]:
    """Node id -> what is wrong there, each in words that say what to change. Nothing large is loaded.

    ``graph`` in the API's format. Every node that is named here would fail when it runs.
    """
    checking = Checking(graph, known)
    checking.run()
    return checking.found


class Part(NamedTuple):
    """Of the check of a graph. ``what``: of the node it is about, for people."""

    node: Node
    what: str
    told: Iterator[Problem]


class Checking:
    """The check of a graph, part by part, what takes longest last: what is ``found``, and what is ``left``.

    Both may be read while another thread is at ``run``.
    """

    def __init__(self, graph: Mapping[str, Mapping[str, Any]], known: Known) -> None:
        self.found: dict[str, list[str]] = {}
        self.left: tuple[Part, ...] = _Check(PromptGraph(graph), known).parts()

    def run(self) -> None:
        while self.left:
            for place, text in _guarded(self.left[0].told):
                texts = self.found.get(place, [])
                if text not in texts:
                    self.found = {**self.found, place: [*texts, text]}
            self.left = self.left[1:]


def named_input(text: str, inputs: Iterable[str]) -> str | None:
    """Which of a node's ``inputs`` a problem is about: the first that its text names, if any."""
    options = {name: re.search(rf"(?<![\w./\\-])(?:\w+Config\.)?{name}(?![\w/\\-])", text) for name in inputs}
    places = {name: found.start() for name, found in options.items() if found}
    return min(places, key=lambda name: places[name], default=None)


def _guarded(told: Iterator[Problem]) -> Iterator[Problem]:
    try:
        yield from told
    except Exception:
        log.warning("A part of the check before the run failed, and is left out.", exc_info=True)


class _Check:
    def __init__(self, graph: PromptGraph, known: Known) -> None:
        self.graph, self.known = graph, known
        self._starts: dict[str, Start] = {}

    def parts(self) -> tuple[Part, ...]:
        nodes = self.graph.nodes.values()
        stages = [node for node in nodes if node.kind in CONFIGS]
        return (
            *(Part(node, "settings", self.of(node)) for node in nodes if node.kind.startswith(OURS)),
            *(Part(stage, "memory", self.of_memory(stage)) for stage in stages),
        )

    def of(self, node: Node) -> Iterator[Problem]:
        """What is wrong with a node, or found by way of it with others."""
        if node.kind == LOAD:
            yield from _at(node, check_start(node, self.known))
        elif node.kind == IMAGES:
            yield from _at(node, check_images(node, self.known))
        elif node.kind == ENCODE:
            yield from _at(node, check_encoding(self.graph, node, self.known))
        elif node.kind == DISCRIMINATOR:
            yield from _at(node, check_discriminator(node, self._judged(node), self.known))
        elif node.kind in CONFIGS:
            yield from self._of_stage(node)
        elif node.kind == SAVE:
            yield from _at(node, check_save(node, self._start(node).lora, self.known))
        elif node.kind in SAMPLING:
            yield from _at(node, _of_samples(node))
            if node.kind == SAMPLE:
                yield from _at(node, self._of_prompt(node))
            if node.kind == EVALUATE:
                for name in COMPARED:
                    yield from self._of_prompts(node, self._start(node, name).base)
                    yield from _at(node, self._of_sibling(node, name))

    def _start(self, node: Node, name: str = "flux_lora") -> Start:
        """What the LoRA at an input began with."""
        loading = start_of(self.graph, node, name)
        if loading is None:
            return UNTOLD
        if loading.key not in self._starts:
            self._starts[loading.key] = start(loading, self.known)
        return self._starts[loading.key]

    def _judged(self, node: Node) -> list[BaseReference]:
        stages = [each for each in self.graph.of(STAGES[1]) if self.graph.source(each, "discriminator") == node]
        return list(dict.fromkeys(base for stage in stages if (base := self._start(stage).base) is not None))

    def _of_stage(self, stage: Node) -> Iterator[Problem]:
        begun = self._start(stage)
        done = self._may_be_done(stage, begun)
        yield from check_stage(self.graph, stage, done=done)
        if stage.kind == STAGES[1]:
            yield from check_target(self.graph, stage, begun.base)
        yield from self._of_prompts(stage, begun.base)
        yield from _at(stage, self._of_sibling(stage))
        if not done:
            yield from _at(stage, self._of_disk(stage))

    def _of_disk(self, stage: Node) -> Iterator[str]:
        own, before = self._on_disk(stage), 0
        earlier = self.graph.source(stage, "flux_lora")
        if earlier is not None and earlier.kind in CONFIGS and earlier != stage:
            before = 0 if self._may_be_done(earlier, self._start(earlier)) else self._on_disk(earlier)
        taken = f"the checkpoints and the LoRA that this stage keeps take {in_bytes(own)} at least"
        if before:
            taken += f", beside {in_bytes(before)} of the stage before it"
        cure = "or lower keep_last in Saving Options, or rank in Load FLUX LoRA"
        faults = folder_faults(self.known.runs, own + before, taken, cure)
        return (f"The runs of stages: {fault}" for fault in faults)

    def _on_disk(self, stage: Node) -> int:
        return least_on_disk(self._start(stage), stage_settings(self.graph, stage), self._judge(stage))

    def _judge(self, stage: Node) -> Settings[DiscriminatorConfig] | None:
        """The settings of the discriminator at a stage; ``None`` where there is none, or it is not told."""
        judging = self.graph.source(stage, "discriminator")
        return judge_settings(judging) if judging is not None and judging.kind == DISCRIMINATOR else None

    def of_memory(self, stage: Node) -> Iterator[Problem]:
        """Whether a stage fits its card."""
        begun = self._start(stage)
        if not self._may_be_done(stage, begun):
            yield from _at(stage, self._of_room(stage, begun))

    def _of_room(self, stage: Node, begun: Start) -> Iterator[str]:
        encoding, judge = self.graph.source(stage, "real_latents"), self._judge(stage)
        if stage.kind == STAGES[1] and judge is None:
            return
        data = data_settings(encoding) if encoding is not None and encoding.kind == ENCODE else None
        yield from check_room(begun, stage_settings(self.graph, stage), data, judge, self.known.memory())

    def _may_be_done(self, stage: Node, begun: Start) -> bool:
        """Whether a run of these settings is there: of one that is finished nothing is asked that training takes."""
        if begun.base is None or begun.lora is None:
            return True
        name, judge = STAGE_NAMES[stage.kind], self._judge(stage)
        parts: list[tuple[str, Settings]] = [(name, stage_settings(self.graph, stage))]
        if judge is not None:
            parts.append(("discriminator", judge))
        # More than one choice of targets, or name of a base, comes to the same run.
        size = begun.lora.config.rank, begun.lora.config.alpha
        return any(
            (told["lora"]["rank"], told["lora"]["alpha"]) == size
            and all(_may_be(told.get(key, {}), part) for key, part in parts)
            for told in settings_of_runs(self.known.runs, name)
        )

    def _of_sibling(self, node: Node, name: str = "flux_lora") -> Iterator[str]:
        """Whether the LoRA at an input can be sampled on the base that a node samples with."""
        base, sibling = self._start(node, name).base, self._start(node, "sampling_base").base
        fault = sibling_fault(base, sibling) if base is not None and sibling is not None else ""
        if fault:
            yield f"sampling_base: {fault}"

    def _of_prompts(self, node: Node, base: BaseReference | None) -> Iterator[Problem]:
        """Whether the latents and prompts that a node trains on, or compares with, are its base's."""
        encoding = self.graph.source(node, "real_latents")
        if base is None or encoding is None or encoding.kind != ENCODE:
            return
        faults = [vae_fault(self.graph, encoding, base, self.known)]
        if not encoding.has("conditioning"):
            faults.append(prompt_fault(self.graph, encoding, "clip", base, "Encode Real Latents"))
        yield from ((encoding.key, fault) for fault in faults if fault)

    def _of_prompt(self, node: Node) -> Iterator[str]:
        prompt, base = self.graph.source(node, "conditioning"), self._start(node).base
        if prompt is not None and prompt.kind == "CLIPTextEncode" and base is not None:
            fault = prompt_fault(self.graph, prompt, "clip", base, "Sample FLUX LoRA: conditioning")
            if fault:
                yield fault


def _at(node: Node, texts: Iterable[str]) -> Iterator[Problem]:
    return ((node.key, text) for text in texts)


def _of_samples(node: Node) -> Iterator[str]:
    """What is wrong with the numbers of a node that samples."""
    title, lists = SAMPLING[node.kind]
    for name, (read, default) in lists.items():
        text = node.value(name, default)
        if text is UNKNOWN:
            continue
        try:
            read(text, f"{title}: {name}")
        except ValueError as error:
            yield str(error)
    for name in ("width", "height"):
        side = node.value(name, 0)
        if side is not UNKNOWN and side % PIXELS_PER_TOKEN:
            yield f"{title}: {name} must be a multiple of {PIXELS_PER_TOKEN}, got {side}."


def _may_be(told: Mapping[str, Any], own: Settings) -> bool:
    """Whether a run's settings may be these, as far as both are known and shape the result."""
    return all(
        told.get(field.name, value) == value
        for field in dataclasses.fields(own.config)
        if field.metadata["shapes_result"] and own.knows(field.name)
        for value in [getattr(own.config, field.name)]
    )
