"""How the LoRA does as a sampler, between updates: the numbers by which stage 2 is watched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base import sampler
from ..base.base_model import FluxBase
from ..base.classifier_free import passes
from ..base.solvers import evaluations
from ..config import AdversarialStageConfig
from ..data.real_latents import LatentSample, Prompt, RealLatents, drawn
from ..data.stored_latents import StoredSample
from ..evidence import latent_metrics
from ..evidence.random_features import SMALLEST_SIDE, FeatureSpace
from ..lora.sampling_advice import FEW_STEPS, ORDINARY_STEPS
from .endpoints import judged_endpoints
from .watch import Health

# A distance to fewer pictures than these says little; training pictures then take the place of held-out ones.
FEWEST_HELD_OUT = 8
MOST_REALS = 256
_FIRST_SEED = 1 << 32


@dataclass(frozen=True)
class _Sampler:
    steps: int
    guidance: float
    cfg: float
    prompts: tuple[Prompt, ...]


class Examiner:
    """Samples with the LoRA for the data's own captions, from fixed noise, and compares with real latents.

    Pictures of one size are compared, the one that most pictures have. The reals are the held-out pictures, or the
    training pictures where fewer than ``FEWEST_HELD_OUT`` are held out; of more than ``MOST_REALS`` that many, drawn.
    The captions are drawn from those of the held-out pictures, then from the others'. At most ``batch_size`` pictures
    go through the base at once.

    Where pictures have masks only the places within them are compared: beyond its mask a real is filled with the
    channels' means, and so is a sample beyond the mask of the picture whose caption it was made for.
    """

    def __init__(self, data: RealLatents, config: AdversarialStageConfig) -> None:
        shape = Counter(sample.shape for sample in data.samples).most_common(1)[0][0]

        def of_shape(indices: tuple[int, ...]) -> list[int]:
            return [i for i in indices if data.samples[i].shape == shape]

        def latents(indices: list[int]) -> tuple[Tensor, Tensor | None]:
            chosen = [data.samples[i] for i in drawn(indices, MOST_REALS, "watch/reals")]
            return torch.stack([sample.mean for sample in chosen]), _masks(chosen)

        training, held_out = of_shape(data.training), of_shape(data.held_out)
        # All that a later examination takes from an earlier one; empty before the first.
        self.first_scores: list[float] = []
        self.possible = len(training) >= 2 and min(shape[1:]) >= SMALLEST_SIDE
        if not self.possible:
            return
        self._batch_size, self._solver = config.batch_size, config.watch_sampler
        self._negative = data.negative
        seen, masks = latents(training)
        self._fill = _means(seen, masks)
        self._space = FeatureSpace.fit(_within(seen, masks, self._fill))
        self._reals = _within(*latents(held_out if len(held_out) >= FEWEST_HELD_OUT else training), self._fill)
        self._real_spectrum = latent_metrics.radial_spectrum(self._reals)
        self._real_patches = self._patches(self._reals)
        self.diversity_real = latent_metrics.diversity(self._space(self._reals))
        shown = drawn(held_out, config.watch_pictures, "watch/captions")
        shown += drawn(training, config.watch_pictures - len(shown), "watch/captions")
        pictures = [data.samples[shown[i % len(shown)]] for i in range(config.watch_pictures)]
        self._masks = _masks(pictures)
        self.masked = sum(data.samples[i].masked for i in training + held_out)
        plain = tuple(data.prompts[sample.prompt] for sample in pictures)
        few = tuple((data.few_step_prompts or data.prompts)[sample.prompt] for sample in pictures)
        self._samplers = [_Sampler(config.target_steps, config.guidance, config.watch_cfg, plain)]
        if len(judged_endpoints(config)) > 1:
            self._samplers = [
                _Sampler(min(config.target_steps, FEW_STEPS), config.few_step_guidance or config.guidance, 1.0, few),
                _Sampler(ORDINARY_STEPS, config.guidance, config.watch_cfg, plain),
            ]

    @property
    def evaluations(self) -> int:
        """For how many pictures an examination evaluates the base, each time it is asked counted."""
        return sum(
            passes(wanted.cfg) * evaluations(self._solver, wanted.steps) * len(wanted.prompts)
            for wanted in self._samplers
        )

    def examine(self, base: FluxBase, held_out_loss: float | None, after_step: Callable[[], None]) -> Health:
        """The health of the LoRA on ``base``. Of two samplers the worse counts, and the mean score.

        A score is relative to that of the first call, so that neither sampler outweighs the other. It adds up the
        distance of 3x3 patches and that of spectra: both say something from a dozen pictures on.
        """
        scores, diversities, ratios = [], [], []
        for wanted in self._samplers:
            fake = _within(self._sample(base, wanted, after_step), self._masks, self._fill)
            if not bool(torch.isfinite(fake).all()):
                return Health(
                    held_out_loss=held_out_loss, diversity=math.nan, high_frequency=math.nan, score=math.nan
                )
            scores.append(self._distance(fake))
            diversities.append(latent_metrics.diversity(self._space(fake)))
            ratios.append(latent_metrics.high_frequency_ratio(fake, self._real_spectrum).log().mean().item())
        self.first_scores = self.first_scores or scores
        relative = [score / max(first, 1e-6) for score, first in zip(scores, self.first_scores, strict=True)]
        return Health(
            held_out_loss=held_out_loss,
            diversity=min(diversities),
            high_frequency=math.exp(max(ratios, key=abs)),
            score=sum(relative) / len(relative),
        )

    def _distance(self, fake: Tensor) -> float:
        patches = latent_metrics.sliced_wasserstein(self._patches(fake), self._real_patches)
        return patches + latent_metrics.spectrum_distance(fake, self._real_spectrum)

    def _patches(self, latents: Tensor) -> Tensor:
        return latent_metrics.patches(self._space.standardised(latents), centred=True)

    def _sample(self, base: FluxBase, wanted: _Sampler, after_step: Callable[[], None]) -> Tensor:
        height, width = self._reals.shape[-2:]
        seeds: dict[int, list[int]] = {}
        by_id = {id(prompt): prompt for prompt in wanted.prompts}
        for number, prompt in enumerate(wanted.prompts):
            seeds.setdefault(id(prompt), []).append(_FIRST_SEED + number)
        made = torch.cat(
            [
                sampler.sample(
                    base,
                    by_id[key].prompt_embeds,
                    by_id[key].pooled_prompt_embeds,
                    height=height,
                    width=width,
                    steps=wanted.steps,
                    seeds=chosen,
                    guidance=wanted.guidance,
                    cfg=wanted.cfg,
                    negative=self._negative,
                    batch_size=self._batch_size,
                    solver=self._solver,
                    after_step=after_step,
                ).cpu()
                for key, chosen in seeds.items()
            ]
        )
        # In the pictures' order again, which is that of the masks.
        order = torch.tensor([seed for chosen in seeds.values() for seed in chosen]).argsort()
        return made[order]


def _masks(samples: Sequence[LatentSample | StoredSample]) -> Tensor | None:
    """(n, 1, h, w), ones for a picture without one; ``None`` where none has one."""
    if not any(sample.masked for sample in samples):
        return None
    found = [(sample.mask, sample.shape) for sample in samples]
    return torch.stack([torch.ones(1, *shape[1:]) if mask is None else mask for mask, shape in found])


def _means(latents: Tensor, masks: Tensor | None) -> Tensor:
    """(C, 1, 1): each channel's mean over all places, each weighing what its mask says."""
    if masks is None:
        return latents.mean((0, 2, 3))[:, None, None]
    return ((latents * masks).sum((0, 2, 3)) / masks.sum())[:, None, None]


def _within(latents: Tensor, masks: Tensor | None, fill: Tensor) -> Tensor:
    """``latents`` (n, C, h, w) where the masks are 1, ``fill`` (C, 1, 1) where they are 0."""
    return latents if masks is None else masks * latents + (1 - masks) * fill
