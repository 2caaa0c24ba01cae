"""Sampling with a LoRA: each argument reaches the sampler, the LoRA is on, and progress counts every evaluation."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.training.base import sampler
from fluxduel.training.base.base_model import load_base
from fluxduel.training.base.families.flux1 import Flux1
from fluxduel.training.evidence import sample_lora as module
from fluxduel.training.evidence.sample_lora import Asked, sample_lora, sample_loras
from fluxduel.training.lora import adapter
from fluxduel.training.lora.sampling_advice import FEW_STEPS

GIVEN: dict[str, Any] = {
    "height": 4, "width": 6, "step_counts": (1, 3), "seeds": (5, 6, 7), "guidance": 3.0, "device": DEVICE,
}  # fmt: skip


def sampled(start, data, calls: list[tuple[int, int]] | None = None, **changes: Any) -> Tensor:
    prompts = [(prompt.prompt_embeds, prompt.pooled_prompt_embeds) for prompt in data.prompts[:2]]
    told = calls if calls is not None else []
    return sample_lora(start, prompts, after_step=lambda *counts: told.append(counts), **{**GIVEN, **changes})


def test_each_picture_is_that_of_the_sampler_with_the_lora_on(start, data) -> None:
    base = load_base(start.base, DEVICE)
    adapter.attach(base, start)
    pictures = sampled(start, data)
    assert pictures.shape == (2, 2, 3, 16, 4, 6)
    for prompt in range(2):
        for place, steps in enumerate((1, 3)):
            for number, seed in enumerate((5, 6, 7)):
                expected = sampler.sample(
                    base, data.prompts[prompt].prompt_embeds, data.prompts[prompt].pooled_prompt_embeds,
                    height=4, width=6, steps=steps, seeds=[seed], guidance=3.0,
                )  # fmt: skip
                torch.testing.assert_close(pictures[prompt, place, number], expected[0].cpu(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(sampled(start, data, guidance=1.0), pictures, rtol=1e-2)
    without = load_base(start.base, DEVICE)
    plain = sampler.sample(
        without, data.prompts[0].prompt_embeds, data.prompts[0].pooled_prompt_embeds, height=4, width=6, steps=1,
        seeds=[5], guidance=3.0,
    )  # fmt: skip
    assert not torch.allclose(plain[0].cpu(), pictures[0, 0, 0], rtol=1e-2), "the LoRA does nothing"


def test_the_solver_reaches_the_sampler_and_heuns_evaluations_are_counted(start, data) -> None:
    calls: list[tuple[int, int]] = []
    by_heun = sampled(start, data, calls, solver="heun")
    # Two prompts: 1 evaluation for one step, 5 for three.
    assert calls == [(done, 12) for done in range(1, 13)]
    base = load_base(start.base, DEVICE)
    adapter.attach(base, start)
    prompt = data.prompts[1]
    expected = sampler.sample(
        base, prompt.prompt_embeds, prompt.pooled_prompt_embeds, height=4, width=6, steps=3, seeds=[6], guidance=3.0,
        solver="heun",
    )  # fmt: skip
    torch.testing.assert_close(by_heun[1, 1, 1], expected[0].cpu(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(by_heun, sampled(start, data), rtol=1e-2)


@pytest.mark.parametrize(("at_once", "passes"), [(3, 1), (2, 2), (1, 3)])
def test_progress_counts_each_evaluation_of_the_model(start, data, monkeypatch, at_once: int, passes: int) -> None:
    """Two prompts, 1 and 3 steps, each for every batch of pictures of 2 x 3 tokens."""
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 6 * at_once + 5)
    calls: list[tuple[int, int]] = []
    sampled(start, data, calls)
    total = 2 * 4 * passes
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_what_is_raised_after_a_step_ends_the_sampling(start, data) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prompt = data.prompts[0]
        sample_lora(start, [(prompt.prompt_embeds, prompt.pooled_prompt_embeds)], after_step=stop, **GIVEN)


def prompts_of(data, numbers: range) -> list[tuple[Tensor, Tensor]]:
    return [(data.prompts[i].prompt_embeds, data.prompts[i].pooled_prompt_embeds) for i in numbers]


def test_several_loras_and_solvers_give_what_each_gives_by_itself(start, data) -> None:
    other = dataclasses.replace(start, tensors={key: 2 * tensor for key, tensor in start.tensors.items()})
    calls: list[tuple[int, int]] = []
    found = sample_loras(
        [Asked(lora=lora, prompts=prompts_of(data, range(2))) for lora in (start, other)],
        solvers=("euler", "heun"), after_step=lambda *counts: calls.append(counts), **GIVEN,
    )  # fmt: skip
    for lora, pictures in zip((start, other), found, strict=True):
        assert pictures.shape == (2, 2, 2, 3, 16, 4, 6)
        for place, solver in enumerate(("euler", "heun")):
            torch.testing.assert_close(pictures[:, :, place], sampled(lora, data, solver=solver), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[0], found[1], rtol=1e-2)
    # Two LoRAs, two prompts: 1 and 3 evaluations of euler, 1 and 5 of heun.
    assert calls == [(done, 40) for done in range(1, 41)]


def test_each_base_is_loaded_once(start, data, tmp_path) -> None:
    loaded = []

    def load(reference, device, home=None):
        loaded.append(reference.path)
        return load_base(reference, device, home)

    elsewhere = tmp_path / "copy"
    shutil.copytree(start.base.path, elsewhere)
    moved = dataclasses.replace(start, base=dataclasses.replace(start.base, path=str(elsewhere)))
    asked = [Asked(lora=lora, prompts=prompts_of(data, range(1))) for lora in (start, moved, start)]
    found = sample_loras(asked, solvers=("euler",), after_step=lambda *_: None, load=load, **GIVEN)
    assert loaded == [start.base.path, str(elsewhere)]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_a_lora_for_two_samplers_is_asked_otherwise_at_few_steps(start, data) -> None:
    plain, few = prompts_of(data, range(2)), prompts_of(data, range(2, 4))
    options = {**GIVEN, "step_counts": (FEW_STEPS, FEW_STEPS + 1), "seeds": (5,), "after_step": lambda *_: None}

    def own(steps: int, prompts: list[tuple[Tensor, Tensor]], guidance: float) -> Tensor:
        changed = {**options, "step_counts": (steps,), "guidance": guidance}
        return sample_lora(start, prompts, **changed)[:, 0]

    (found,) = sample_loras(
        [Asked(lora=start, prompts=plain, few_step_prompts=few, few_step_guidance=8.0)], solvers=("euler",), **options
    )
    torch.testing.assert_close(found[:, 0, 0], own(FEW_STEPS, few, 8.0))
    torch.testing.assert_close(found[:, 1, 0], own(FEW_STEPS + 1, plain, 3.0))
    (by_guidance,) = sample_loras(
        [Asked(lora=start, prompts=plain, few_step_guidance=8.0)], solvers=("euler",), **options
    )
    torch.testing.assert_close(by_guidance[:, 0, 0], own(FEW_STEPS, plain, 8.0))


def test_cfg_is_as_asked_or_as_the_base_needs_and_not_at_the_few_steps_of_stage_2(start, data, monkeypatch) -> None:
    (negative,) = prompts_of(data, range(2, 3))
    base = load_base(start.base, DEVICE)
    adapter.attach(base, start)

    def by_hand(cfg: float, steps: int) -> Tensor:
        return sampler.sample(
            base, data.prompts[0].prompt_embeds, data.prompts[0].pooled_prompt_embeds, height=4, width=6, steps=steps,
            seeds=(5, 6, 7), guidance=3.0, cfg=cfg, negative=negative,
        ).cpu()  # fmt: skip

    def found(lora: adapter.FluxLoRA, **changes: Any) -> list[Tensor]:
        return [*sampled(lora, data, step_counts=(3, 9), **changes)[0]]

    def same(pictures: list[Tensor], *cfgs: float) -> bool:
        expected = [by_hand(cfg, steps) for cfg, steps in zip(cfgs, (3, 9), strict=True)]
        return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(pictures, expected, strict=True))

    assert same(found(start), 1, 1) and same(found(start, negative=negative), 1, 1)
    assert same(found(start, cfg=2.0, negative=negative), 2, 2)
    monkeypatch.setattr(Flux1, "usual_cfg", lambda self, variant: 4.0)
    assert same(found(start, negative=negative), 4, 4) and same(found(start, cfg=1.0), 1, 1)
    config = {"target_steps": 4, "target": "target_steps", "few_step_guidance": 0.0}
    few = dataclasses.replace(start, provenance=({"stage": "adversarial", "config": config},))
    many = dataclasses.replace(start, provenance=({"stage": "adversarial", "config": config | {"target_steps": 12}},))
    assert same(found(few, negative=negative), 1, 4) and same(found(many, negative=negative), 4, 4)
    with pytest.raises(ValueError, match="cfg is 4, which takes a negative prompt"):
        found(start)


def test_room_is_counted_for_both_prompts(start, data, monkeypatch) -> None:
    asked = []

    def load(lora, *given, batch_size: int, tokens: int, **options):
        asked.append((batch_size, tokens))
        return load_base(lora.base, DEVICE)

    monkeypatch.setattr(module, "load_for_sampling", load)
    embeds, pooled = prompts_of(data, range(1))[0]
    length = len(embeds)
    longer = (torch.cat([embeds, embeds]), pooled)
    sampled(start, data)
    sampled(start, data, cfg=1.0, negative=longer)
    sampled(start, data, cfg=2.0, negative=longer)
    assert asked == [(3, length), (3, length), (6, 2 * length)]
