"""Pictures from LoRAs on their own bases: for several prompts, numbers of steps, samplers and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.base_model import BaseLoader, BaseReference
from ..base.families import flux1
from ..base.sampler import sample
from ..base.solvers import evaluations
from ..lora import adapter as adapters
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from .sampling_base import load_for_sampling

# As many pictures go through the base at once as fill one picture of 1024 x 1024: more gains no speed there.
TOKENS_AT_ONCE = 4096

Prompt = tuple[Tensor, Tensor]


def latent_side(pixels: int, where: str) -> int:
    """A side of pictures, in latent pixels. Raises ``ValueError``, beginning with ``where``, for one that is odd."""
    if pixels % flux1.PIXELS_PER_TOKEN:
        raise ValueError(f"{where} must be a multiple of {flux1.PIXELS_PER_TOKEN}, got {pixels}.")
    return pixels // flux1.VAE_FACTOR


def pictures_at_once(height: int, width: int) -> int:
    """How many pictures of ``height`` x ``width`` in latent pixels go through the base together."""
    return max(1, TOKENS_AT_ONCE // flux1.num_tokens(height, width))


def batches(count: int, height: int, width: int) -> int:
    """In how many batches of ``pictures_at_once`` ``count`` pictures go through the base."""
    return math.ceil(count / pictures_at_once(height, width))


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
    load: BaseLoader | None = None,
) -> list[Tensor]:
    """For each LoRA latents (prompts, step counts, solvers, seeds, C, height, width) in model space, on the CPU.

    ``height`` and ``width`` in latent pixels. A seed's noise is the same for every LoRA, prompt, solver and number of
    steps. ``solvers``: of ``solvers.SOLVERS``. LoRAs may have different bases: each base is loaded once, one at a time.
    ``after_step`` is called with the number of evaluations of the model so far and in all; what it raises ends the
    sampling. ``load``: where bases come from, ``load_base`` by default.
    """
    at_once = min(len(seeds), pictures_at_once(height, width))
    evaluated = sum(evaluations(solver, steps) for steps in step_counts for solver in solvers)
    total = sum(len(each.prompts) for each in asked) * evaluated * batches(len(seeds), height, width)
    done = 0

    def count_step() -> None:
        nonlocal done
        done += 1
        after_step(done, total)

    def on_base(reference: BaseReference) -> dict[int, Tensor]:
        own = {place: each for place, each in enumerate(asked) if each.lora.base == reference}
        tokens = max(len(embeds) for each in own.values() for embeds, _ in (*each.prompts, *each.few_step_prompts))
        first = next(iter(own.values()))
        base = load_for_sampling(
            first.lora, device, load, height=height, width=width, tokens=tokens, batch_size=at_once
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
                    batch_size=pictures_at_once(height, width),
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
        load=load,
    )
    return pictures.squeeze(2)
