"""Classifier-free guidance in the sampler: diffusers' formula, in one pass or two, and nothing at 1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fluxduel.tests.engine.base.test_flux2 import CONTEXT, HEIGHT, LENGTH, WIDTH, base, by_pipeline
from fluxduel.training import draws, flow
from fluxduel.training.base.base_model import FluxBase, load_base
from fluxduel.training.base.classifier_free import Prompt
from fluxduel.training.base.sampler import sample
from fluxduel.training.base.solvers import SOLVERS, evaluations, solve

STEPS, SEEDS, CFG = 3, (5, 6), 4.5
SIZE = {"height": HEIGHT, "width": WIDTH, "steps": STEPS, "guidance": 1.0}


def prompt(seed: int, length: int = LENGTH) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, CONTEXT, generator=generator, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 2], ids=["one length", "two lengths"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_pictures_are_those_of_the_pipelines_formula(solver: str, length: int) -> None:
    """In float64, with the velocities that diffusers' FLUX.2 klein pipeline asks for, prompt by prompt."""
    ours, wanted, unwanted = base(), prompt(1), prompt(2, length)

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        asked = [
            by_pipeline(
                ours.transformer,
                {"x_t": x.double(), "sigma": sigma.expand(2), "prompt_embeds": each[0].expand(2, -1, -1)},
            )
            for each in (unwanted, wanted)
        ]
        return asked[0] + CFG * (asked[1] - asked[0])

    noise = torch.cat([draws.normals(seed, 0, [0], "sample", (128, HEIGHT, WIDTH)) for seed in SEEDS])
    sigmas = flow.sampling_sigmas(STEPS, ours.shift(HEIGHT, WIDTH).mu(STEPS)).float()
    with torch.no_grad():
        expected = solve(solver, guided, noise, sigmas)
    found = sample(ours, *wanted, **SIZE, seeds=SEEDS, cfg=CFG, negative=unwanted, solver=solver)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    plain = sample(ours, *wanted, **SIZE, seeds=SEEDS, solver=solver)
    assert not torch.allclose(found, plain, rtol=1e-2)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures each pass through a base had."""
    seen: list[int] = []
    velocity = FluxBase.velocity

    def counting(self: FluxBase, x_t: Tensor, *given: object) -> Tensor:
        seen.append(len(x_t))
        return velocity(self, x_t, *given)

    monkeypatch.setattr(FluxBase, "velocity", counting)
    yield seen


def test_prompts_of_one_length_share_a_pass_and_progress_counts_velocities(batches: list[int]) -> None:
    ours, wanted, told = base(), prompt(1), []

    def draw(cfg: float, negative: Prompt | None) -> list[int]:
        batches.clear()
        told.clear()
        given = {"solver": "heun", "after_step": lambda: told.append(1), "batch_size": 2}
        sample(ours, *wanted, **SIZE, seeds=(5, 6, 7), cfg=cfg, negative=negative, **given)
        assert len(told) == 2 * evaluations("heun", STEPS)
        return [*batches]

    once = evaluations("heun", STEPS)
    assert draw(CFG, prompt(2)) == [4] * once + [2] * once
    assert draw(CFG, prompt(2, LENGTH + 1)) == [2] * (2 * once) + [1] * (2 * once)
    assert draw(1.0, prompt(2)) == draw(1.0, None) == [2] * once + [1] * once


def test_at_1_the_negative_prompt_changes_no_bit(start, data) -> None:
    """On FLUX.1, whose pictures without it are what they were."""
    flux_1 = load_base(start.base, "cpu")
    one, other = data.prompts[0], data.prompts[1]
    given = {"height": 4, "width": 6, "steps": 2, "seeds": SEEDS, "guidance": 3.5}
    plain = sample(flux_1, one.prompt_embeds, one.pooled_prompt_embeds, **given)
    negative = (other.prompt_embeds, other.pooled_prompt_embeds)
    same = sample(flux_1, one.prompt_embeds, one.pooled_prompt_embeds, **given, cfg=1.0, negative=negative)
    assert torch.equal(plain, same)
    led = sample(flux_1, one.prompt_embeds, one.pooled_prompt_embeds, **given, cfg=2.0, negative=negative)
    assert not torch.allclose(plain, led, rtol=1e-2)


def test_the_pooled_prompt_of_the_negative_counts_too(start, data) -> None:
    flux_1 = load_base(start.base, "cpu")
    one, other = data.prompts[0], data.prompts[1]
    given = {"height": 4, "width": 6, "steps": 1, "seeds": SEEDS, "guidance": 3.5, "cfg": 2.0}

    def led(pooled: Tensor) -> Tensor:
        negative = (other.prompt_embeds, pooled)
        return sample(flux_1, one.prompt_embeds, one.pooled_prompt_embeds, **given, negative=negative)

    assert not torch.equal(led(other.pooled_prompt_embeds), led(one.pooled_prompt_embeds))


def test_a_cfg_without_a_negative_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="cfg is 4.5, which takes a negative prompt"):
        sample(base(), *prompt(1), **SIZE, seeds=SEEDS, cfg=CFG)
