"""Pictures from a LoRA on its own base: for several prompts, numbers of steps and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..base.base_model import BaseLoader
from ..base.families import flux1
from ..base.sampler import sample
from ..base.solvers import evaluations
from ..lora import adapter as adapters
from ..lora.adapter import FluxLoRA
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
    """Latents (prompts, step counts, seeds, C, height, width) in model space, on the CPU.

    ``prompts``: embeddings (L, D) and pooled ones (P,) of each. ``height`` and ``width`` in latent pixels. A seed's
    noise is the same for every prompt and number of steps. ``solver``: one of ``solvers.SOLVERS``. ``after_step`` is
    called with the number of evaluations of the model so far and in all; what it raises ends the sampling.
    ``load``: where the base comes from, ``load_base`` by default.
    """
    at_once = min(len(seeds), pictures_at_once(height, width))
    tokens = max(len(embeds) for embeds, _ in prompts)
    base = load_for_sampling(lora, device, load, height=height, width=width, tokens=tokens, batch_size=at_once)
    adapters.attach(base, lora)
    asked = sum(evaluations(solver, steps) for steps in step_counts)
    total, done = len(prompts) * asked * batches(len(seeds), height, width), 0

    def count_step() -> None:
        nonlocal done
        done += 1
        after_step(done, total)

    rows = [
        sample(
            base,
            embeds,
            pooled,
            height=height,
            width=width,
            steps=steps,
            seeds=seeds,
            guidance=guidance,
            batch_size=pictures_at_once(height, width),
            solver=solver,
            after_step=count_step,
        ).cpu()
        for embeds, pooled in prompts
        for steps in step_counts
    ]
    return torch.stack(rows).unflatten(0, (len(prompts), len(step_counts)))
