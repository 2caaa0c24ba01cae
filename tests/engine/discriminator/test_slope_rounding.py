"""How much of the approximate slope is rounding: why its step has a smallest value.

Measured over 8 pictures of 16x16 latents, relative to float64 with the same weights. The last columns are the slope's
own change over the step.

| step | bf16, random base | bf16, tiny base | fp32, either | change, random | change, tiny |
|------|-------------------|-----------------|--------------|----------------|--------------|
| 0.01 | +234 %            | +23 %           | 3e-6         | -0.7 %         | -1.3 %       |
| 0.02 | +60 %             | +4.5 %          | 3e-6         | -0.7 %         | -1.7 %       |
| 0.05 | +9 %              | +1.4 %          | 4e-6         | -1.8 %         | -1.4 %       |
| 0.1  | +4 %              | +0.6 %          | 1e-6         | -2.6 %         | -2.6 %       |
| 0.5  | +0.8 %            | 0.1 %           | 1e-7         | -18 %          | -29 %        |
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fluxduel.discriminator.interface import Conditioning
from fluxduel.discriminator.regularisers import approximate_slope
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.config import TINY_BASE, DiscriminatorConfig
from fluxduel.training.flow import seen_sigma
from fluxduel.training.stages.judges import build

FIELDS = {field.name: field for field in dataclasses.fields(DiscriminatorConfig)}
SMALLEST = FIELDS["penalty_sigma"].metadata["low"]
DEFAULT = FIELDS["penalty_sigma"].default
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "exact": torch.float64}


class Slopes:
    """The slope of one judge at the same latents in three precisions of the same (bf16) weights."""

    def __init__(self, path: str) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.judges = {}
        for name, dtype in TYPES.items():
            base = load_base(BaseReference(path, "bf16"), "cpu")
            base.transformer.type(dtype)
            base.dtype = dtype
            judge = build(DiscriminatorConfig(), base, 1.0)
            weights = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for weight in judge.parameters():
                    weight += 0.1 * torch.randn(weight.shape, generator=weights)
            self.judges[name] = judge.double() if name == "exact" else judge
        # A level that all three see as the same.
        self.level = seen_sigma(torch.linspace(0.1, 0.9, 8), torch.bfloat16)
        s = self.level[:, None, None, None]
        clean, noise = draw(8, base.latent_channels, 16, 16), draw(8, base.latent_channels, 16, 16)
        self.latents, self.step_noise = (1 - s) * clean + s * noise, draw(*clean.shape)
        self.prompts = Conditioning(draw(8, 6, base.context_dim), draw(8, base.pooled_dim))

    @torch.no_grad()
    def at(self, step: float, name: str) -> float:
        judge, dtype = self.judges[name], torch.float64 if name == "exact" else torch.float32
        prompts = Conditioning(*(part.to(dtype) for part in self.prompts))
        x, moved = self.latents.to(dtype), self.latents.to(dtype) + step * self.step_noise.to(dtype)
        sides = [judge(side, self.level.to(dtype), prompts) for side in (x, moved)]
        return approximate_slope(*sides, step).item()


@pytest.fixture(scope="module", params=["random", "tiny"])
def slopes(request, random_transformer) -> Slopes:
    return Slopes(TINY_BASE if request.param == "tiny" else str(random_transformer))


@pytest.mark.parametrize("step", sorted({SMALLEST, DEFAULT}))
def test_every_step_allowed_measures_the_slope(slopes, step):
    exact = slopes.at(step, "exact")
    assert slopes.at(step, "bf16") == pytest.approx(exact, rel=0.15)
    assert slopes.at(step, "fp32") == pytest.approx(exact, rel=1e-4)
    assert exact == pytest.approx(slopes.at(1e-4, "exact"), rel=0.05)


def test_a_shorter_one_measures_rounding(slopes):
    for step, least in ((SMALLEST / 5, 0.1), (SMALLEST / 50, 10)):
        assert slopes.at(step, "bf16") > (1 + least) * slopes.at(step, "exact")


def test_a_shorter_one_is_refused():
    with pytest.raises(ValueError, match="penalty_sigma must be at least 0.05"):
        DiscriminatorConfig(penalty_sigma=0.01)
