"""Pictures from LoRAs on their own bases: for several prompts, numbers of steps, samplers and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.base_model import BaseLoader, BaseReference
from ..base.classifier_free import Prompt
from ..base.families import PIXELS_PER_TOKEN
from ..base.families.latent_space import LatentSpace
from ..base.sampler import sample
from ..base.solvers import evaluations
from ..lora import adapter as adapters
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from ..lora.usual_cfg import AS_USUAL, cfg_at, guided
from ..lora.value import base_family
from .sampling_base import load_for_sampling

# As many pictures go through the base at once as fill one picture of 1024 x 1024: more gains no speed there.
TOKENS_AT_ONCE = 4096


def latent_side(pixels: int, space: LatentSpace, where: str) -> int:
    """A side of pictures, in latent pixels of ``space``.

    Raises ``ValueError``, beginning with ``where``, for one that is no whole number of tokens.
    """
    if pixels % PIXELS_PER_TOKEN:
        raise ValueError(f"{where} must be a multiple of {PIXELS_PER_TOKEN}, got {pixels}.")
    return pixels // space.factor


def pictures_at_once(space: LatentSpace, height: int, width: int) -> int:
    """How many pictures of ``height`` x ``width`` in latent pixels of ``space`` go through the base together."""
    return max(1, TOKENS_AT_ONCE // space.num_tokens(height, width))


def batches(count: int, space: LatentSpace, height: int, width: int) -> int:
    """In how many batches of ``pictures_at_once`` ``count`` pictures go through the base."""
    return math.ceil(count / pictures_at_once(space, height, width))


def shared_space(loras: Sequence[FluxLoRA]) -> LatentSpace:
    """The latent space of all their bases. Raises ``ValueError`` where they have several."""
    spaces = {base_family(lora.base).space: lora.base.name for lora in loras}
    if len(spaces) > 1:
        (one, first), (other, second) = list(spaces.items())[:2]
        raise ValueError(
            f"The LoRAs are for models with different VAEs: {first} has latents as {one.name}, {second} as "
            f"{other.name}. Pictures from the same noise cannot be compared there. Take LoRAs of one kind at a time."
        )
    return next(iter(spaces))


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A LoRA, and the prompts that it is asked for: embeddings (L, D) and pooled ones (P,) of each.

    One that serves two samplers may be asked otherwise at up to ``FEW_STEPS`` steps: with ``few_step_prompts`` (as
    many as ``prompts``, or none), at ``few_step_guidance``.
    """

    lora: FluxLoRA
    prompts: Sequence[Prompt]
    few_step_prompts: Sequence[Prompt] = ()
    few_step_guidance: float | None = None

    def at(self, steps: int, guidance: float) -> tuple[Sequence[Prompt], float]:
        """The prompts and the guidance for so many steps."""
        if steps > FEW_STEPS:
            return self.prompts, guidance
        few = guidance if self.few_step_guidance is None else self.few_step_guidance
        return self.few_step_prompts or self.prompts, few


def sample_loras(
    asked: Sequence[Asked],
    *,
    height: int,
    width: int,
    step_counts: Sequence[int],
    solvers: Sequence[str],
    seeds: Sequence[int],
    guidance: float,
    device: torch.device | str,
    after_step: Callable[[int, int], None],
    cfg: float = AS_USUAL,
    negative: Prompt | None = None,
    load: BaseLoader | None = None,
) -> list[Tensor]:
    """For each LoRA latents (prompts, step counts, solvers, seeds, C, height, width) in model space, on the CPU.

    ``height`` and ``width`` in latent pixels. A seed's noise is the same for every LoRA, prompt, solver and number of
    steps. ``solvers``: of ``solvers.SOLVERS``. ``cfg``: see ``cfg_at``; where that is not 1, pictures are led away from
    the prompt ``negative``. LoRAs may have different bases: each base is loaded once, one at a time. ``after_step`` is
    called with the number of evaluations of the model so far and in all; what it raises ends the sampling. ``load``:
    where bases come from, ``load_base`` by default. Raises ``ValueError`` for LoRAs of different latent spaces, and as
    ``sample``.
    """
    space = shared_space([each.lora for each in asked])
    at_once = min(len(seeds), pictures_at_once(space, height, width))
    evaluated = sum(evaluations(solver, steps) for steps in step_counts for solver in solvers)
    total = sum(len(each.prompts) for each in asked) * evaluated * batches(len(seeds), space, height, width)
    done = 0

    def count_step() -> None:
        nonlocal done
        done += 1
        after_step(done, total)

    def on_base(reference: BaseReference) -> dict[int, Tensor]:
        own = {place: each for place, each in enumerate(asked) if each.lora.base == reference}
        asked_for = [prompt for each in own.values() for prompt in (*each.prompts, *each.few_step_prompts)]
        first = next(iter(own.values()))
        led = any(guided(each.lora, step_counts, cfg) for each in own.values())
        tokens = max(len(embeds) for embeds, _ in (*asked_for, *([negative] if led and negative else [])))
        base = load_for_sampling(
            first.lora, device, load, height=height, width=width, tokens=tokens, batch_size=(1 + led) * at_once
        )
        found = {}
        for place, each in own.items():
            adapters.attach(base, each.lora)
            ways = [(*each.at(steps, guidance), steps, solver) for steps in step_counts for solver in solvers]
            rows = [
                sample(
                    base,
                    *prompts[number],
                    height=height,
                    width=width,
                    steps=steps,
                    seeds=seeds,
                    guidance=own_guidance,
                    cfg=cfg_at(each.lora, steps, cfg),
                    negative=negative,
                    batch_size=at_once,
                    solver=solver,
                    after_step=count_step,
                ).cpu()
                for number in range(len(each.prompts))
                for prompts, own_guidance, steps, solver in ways
            ]
            found[place] = torch.stack(rows).unflatten(0, (len(each.prompts), len(step_counts), len(solvers)))
        return found

    pictures: dict[int, Tensor] = {}
    for reference in dict.fromkeys(each.lora.base for each in asked):
        pictures |= on_base(reference)
    return [pictures[place] for place in range(len(asked))]


def sample_lora(
    lora: FluxLoRA,
    prompts: Sequence[Prompt],
    *,
    height: int,
    width: int,
    step_counts: Sequence[int],
    seeds: Sequence[int],
    guidance: float,
    device: torch.device | str,
    after_step: Callable[[int, int], None],
    cfg: float = AS_USUAL,
    negative: Prompt | None = None,
    solver: str = "euler",
    load: BaseLoader | None = None,
) -> Tensor:
    """Latents (prompts, step counts, seeds, C, height, width) in model space of one LoRA; see ``sample_loras``."""
    (pictures,) = sample_loras(
        [Asked(lora=lora, prompts=prompts)],
        height=height,
        width=width,
        step_counts=step_counts,
        solvers=(solver,),
        seeds=seeds,
        guidance=guidance,
        device=device,
        after_step=after_step,
        cfg=cfg,
        negative=negative,
        load=load,
    )
    return pictures.squeeze(2)
