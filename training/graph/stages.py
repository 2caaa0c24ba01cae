"""The training nodes of a graph with the option nodes before them, and the discriminator of stage 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..base.base_model import BaseReference, read_transformer_config
from ..base.families import family_of
from ..config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, StageConfig
from ..stages import discriminator_files
from ..stages.discriminator_files import DiscriminatorFileError
from ..stages.target_checks import DataFacts, target_faults
from .datasets import ENCODE, data_settings
from .known import Known, absent
from .prompt_graph import UNKNOWN, Node, PromptGraph, Settings, settings
from .starts import STAGES, Identity, identity

CONFIGS: dict[str, type[StageConfig]] = dict(zip(STAGES, (DiffusionStageConfig, AdversarialStageConfig), strict=True))
DISCRIMINATOR, NEW = "FluxDuelLatentDiscriminator", "new"
# Option nodes that can show a problem, and those that have none of their own.
OPTION_NODES = tuple(
    f"FluxDuel{theme}Options"
    for theme in ("Optimiser", "Noise", "Adversarial", "JudgedSample", "Watch", "Preview", "Memory", "Saving")
)
# (node to show it at, text)
Problem = tuple[str, str]


def stage_settings(graph: PromptGraph, stage: Node) -> Settings[StageConfig]:
    """A stage's settings, with those of the option nodes that it is wired to."""
    nodes, seen, complete = [stage], {stage.key}, True
    while nodes[-1].has("options"):
        before = graph.source(nodes[-1], "options")
        if before is None or before.kind not in OPTION_NODES or before.key in seen:
            complete = False
            break
        nodes.append(before)
        seen.add(before.key)
    return settings(CONFIGS[stage.kind], nodes, complete=complete)


def judge_settings(node: Node) -> Settings[DiscriminatorConfig]:
    """The settings of a Latent Discriminator node."""
    return settings(DiscriminatorConfig, [node], complete=True)


def check_stage(graph: PromptGraph, stage: Node, *, done: bool) -> Iterator[Problem]:
    """What is wrong with a stage's own settings. ``done``: a run of it may be finished, whose result needs no more."""
    own = stage_settings(graph, stage)
    for option, text in own.faults.items():
        yield _place(own, (option,), stage), text
    if not done and own.knows("streamed_share", "gradient_checkpointing"):
        try:
            own.config.check_streaming()
        except ValueError as error:
            yield _place(own, ("streamed_share", "gradient_checkpointing"), stage), str(error)


def check_target(graph: PromptGraph, stage: Node, base: BaseReference | None) -> Iterator[Problem]:
    """What does not go together in stage 2, with its discriminator and its data."""
    own, judging, data = stage_settings(graph, stage), graph.source(stage, "discriminator"), None
    encoding = graph.source(stage, "real_latents")
    judge = judge_settings(judging) if judging is not None and judging.kind == DISCRIMINATOR else None
    if encoding is not None and encoding.kind == ENCODE:
        data = data_settings(encoding)
    assert isinstance(own.config, AdversarialStageConfig)
    unknown = own.unknown | (judge.unknown if judge else _names(DiscriminatorConfig)) | _unknown_of(data)
    facts = DataFacts(
        data is not None and bool(data.config.practice_prompts.strip()),
        data is None or bool(data.config.few_step_phrase.strip()),
    )
    config = own.config
    if base is None and config.few_step_guidance:
        # What the base has to do with it is not known.
        config = dataclasses.replace(config, few_step_guidance=0.0)
        facts = facts._replace(few_step_prompts=True)
    places = own.places if judge is None else {**judge.places, **own.places}
    for fault in target_faults(base or BaseReference(""), facts, judge.config if judge else _JUDGE, config):
        if unknown.isdisjoint(fault.options):
            first = fault.options[0]
            owner = judging if judging is not None and first not in own.places and first in places else stage
            yield _place(own, fault.options, owner) if owner is stage else owner.key, str(fault.error)


_JUDGE = DiscriminatorConfig()


def _names(config: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(config))


def _unknown_of(data: Settings | None) -> frozenset[str]:
    names = {"practice_prompts", "few_step_phrase"}
    return frozenset(names if data is None else names & data.unknown)


def _place(own: Settings[StageConfig], options: tuple[str, ...], stage: Node) -> str:
    """Where the first of ``options`` that anybody has set is set."""
    return next((own.places[option] for option in options if option in own.places), stage.key)


def check_discriminator(node: Node, bases: list[BaseReference], known: Known) -> Iterator[str]:
    """What is wrong with a Latent Discriminator node. ``bases``: those of the stages that it judges."""
    judge = judge_settings(node)
    yield from judge.faults.values()
    if judge.knows("architecture", "taps") and judge.config.architecture == "flux_features":
        for base in bases:
            config = read_transformer_config(base.path)
            try:
                family_of(config).tap_blocks(judge.config.taps, *family_of(config).depth(config))
            except ValueError as error:
                yield str(error)
    label = node.value("continue_from", NEW)
    if label in (UNKNOWN, NEW):
        return
    where = "Latent Discriminator: continue_from"
    problem = absent(known.discriminators(), label, where)
    if problem:
        yield problem
    elif judge.knows(*discriminator_files.SHAPE_FIELDS):
        try:
            fault = _file_fault(identity(known.discriminators()[label]), judge.config)
        except OSError:  # said when it is read
            return
        if fault:
            yield f"{where} {label}: {fault}"


@lru_cache(maxsize=32)
def _file_fault(file: Identity, config: DiscriminatorConfig) -> str:
    try:
        discriminator_files.load(Path(file[0][0]), config)
    except DiscriminatorFileError as error:
        return str(error)
    return ""
