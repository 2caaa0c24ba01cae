"""What is drawn now and then while a stage trains: fixed prompts, sampled as its LoRA is going to be sampled with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..base import sampler, variants
from ..base.classifier_free import passes
from ..base.solvers import evaluations
from ..config import AdversarialStageConfig, StageConfig
from ..data.real_latents import Prompt, RealLatents
from ..data.stored_latents import StoredPrompt
from ..evidence.preview_sheet import Row
from ..lora.sampling_advice import FEW_STEPS, TRAINED_SAMPLER, sampled_guidance
from .endpoints import judged_endpoints
from .examined import examined
from .stage import Stage

# ``preview_every`` of the stage's own choice: the share of the training's time, and the number of previews at most.
AUTOMATIC = -1
SHARE, MOST = 0.02, 10
# Of a model that is not distilled for fewer.
ORDINARY_STEPS = 8
# So many pictures where the user has given no prompts.
PICTURES = 2


class Sampling(NamedTuple):
    """One sampler that the LoRA is for. ``few``: told by the few-step phrase, where there is one."""

    steps: int
    solver: str
    guidance: float
    few: bool = False
    cfg: float = 1.0

    @property
    def passes(self) -> int:
        """How often the base is evaluated for a picture."""
        return passes(self.cfg) * evaluations(self.solver, self.steps)


class Drawing(NamedTuple):
    """One picture of a preview."""

    prompt: Prompt | StoredPrompt
    seed: int
    sampling: Sampling


def samplings(config: StageConfig, base_cfg: float = 1.0, base_steps: int = 0) -> list[Sampling]:
    """How a LoRA of this stage is to be sampled with: in stage 2 as it is trained, which for two samplers is two ways.

    Stage 1 leaves the sampler open; ``preview_steps`` and ``preview_sampler`` choose one. ``base_cfg``: what the base
    is sampled at where ``preview_cfg`` leaves that open; a sampler of few steps that stage 2 trains for takes none.
    ``base_steps``: what the base was distilled for, which counts where ``preview_steps`` leaves it open; 0: it was not.
    """
    guidance = config.preview_guidance or sampled_guidance(config.guidance)
    ordinary = Sampling(
        config.preview_steps or base_steps or ORDINARY_STEPS,
        config.preview_sampler,
        guidance,
        cfg=config.preview_cfg or base_cfg,
    )
    if not isinstance(config, AdversarialStageConfig):
        return [ordinary]
    if len(judged_endpoints(config)) > 1:
        few = min(config.target_steps, FEW_STEPS)
        return [Sampling(few, TRAINED_SAMPLER, config.few_step_guidance or guidance, few=True), ordinary]
    usual = 1.0 if config.target_steps <= FEW_STEPS else base_cfg
    return [Sampling(config.target_steps, TRAINED_SAMPLER, guidance, cfg=config.preview_cfg or usual)]


def drawings(
    data: RealLatents, config: StageConfig, base_cfg: float = 1.0, base_steps: int = 0
) -> list[Drawing]:
    """The pictures of a preview, from the top of a sheet down. The same at each step.

    Of each of ``preview_prompts`` one; without any, of two captions, held-out pictures' first, or of one caption from
    two noises. ``base_cfg``, ``base_steps``: see ``samplings``.
    """
    plain, few = list(data.preview_prompts), list(data.few_step_preview_prompts)
    count = len(plain)
    if not plain:
        indices = dict.fromkeys(data.samples[index].prompt for index in (*data.held_out, *data.training))
        shown = list(indices)[:PICTURES]
        plain = [data.prompts[index] for index in shown]
        few = [data.few_step_prompts[index] for index in shown] if data.few_step_prompts else []
        count = PICTURES
    return [
        Drawing((few if sampling.few and few else plain)[place % len(plain)], seed, sampling)
        for place in range(count)
        for seed in [config.preview_seed + place // len(plain)]
        for sampling in samplings(config, base_cfg, base_steps)
    ]


def _of(stage: Stage) -> list[Drawing]:
    path = (stage.sampling_base or stage.start.base).path
    return drawings(stage.data, stage.config, variants.usual_cfg(path), variants.usual_steps(path))


def rows_of(stage: Stage) -> tuple[Row, ...]:
    """The drawings in words."""
    guided = stage.base.guidance_embeds
    rows = []
    for prompt, seed, sampling in _of(stage):
        guidance = f", guidance {sampling.guidance:g}" if guided else ""
        if sampling.cfg != 1:
            guidance += f", cfg {sampling.cfg:g}"
        steps = f"{sampling.steps} {'step' if sampling.steps == 1 else 'steps'}"
        rows.append(Row(prompt.caption, f"{steps}, {sampling.solver}{guidance}, seed {seed}"))
    return tuple(rows)


def draw(stage: Stage, after_step: Callable[[], None]) -> Tensor:
    """Latents (n, C, h, w) in model space on the CPU: the ``drawings`` with the weights that would be delivered.

    All have the size of the first picture whose caption is shown. ``after_step`` is called after each evaluation of the
    base; what it raises ends the drawing. The training's own draws are left as they are.
    """
    data = stage.data
    height, width = data.samples[(data.held_out or data.training)[0]].shape[-2:]
    with examined(stage) as base:
        drawn = [
            sampler.sample(
                base,
                prompt.prompt_embeds,
                prompt.pooled_prompt_embeds,
                height=height,
                width=width,
                steps=sampling.steps,
                seeds=[seed],
                guidance=sampling.guidance,
                cfg=sampling.cfg,
                negative=data.negative,
                solver=sampling.solver,
                after_step=after_step,
            ).cpu()
            for prompt, seed, sampling in _of(stage)
        ]
    return torch.cat(drawn)


def interval(stage: Stage) -> int:
    """Steps between two previews, beside those of start and end; 0 for none. As asked, or as ``SHARE`` of the
    training's time allows.

    Counted in evaluations of the base. A start without anything to compare it with would say nothing.
    """
    config = stage.config
    if config.preview_every != AUTOMATIC:
        return config.preview_every
    training = stage.training_evaluations(0) * config.batch_size * config.gradient_accumulation
    one = sum(each.sampling.passes for each in _of(stage))
    affordable = min(MOST, int(SHARE * training / one))
    return math.ceil(stage.total / (affordable - 1)) if affordable > 1 else 0
