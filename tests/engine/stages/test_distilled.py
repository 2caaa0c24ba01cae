"""Stage 2 on a distilled base: drawn from noise in its own steps, and held to it outside of what the LoRA is for.

Losses and gradients are derived a second time in ``test_reference``.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fluxduel.tests.engine.conftest import make_data, practice_prompts, with_phrase
from fluxduel.tests.engine.small import each_family
from fluxduel.tests.engine.stages.test_adversarial_stage import make
from fluxduel.training import draws, flow
from fluxduel.training.data.data_error import DataError
from fluxduel.training.lora import adapter


@pytest.fixture
def data(family):
    outside = practice_prompts(seed=6, small=family)
    return dataclasses.replace(make_data(small=family), outside_prompts=outside, outside_fingerprint="outside")


@each_family
def test_every_sample_begins_as_noise_in_the_models_own_steps(start, data):
    """At the sampler's levels, and at the first of them as the seed's noise, whatever the picture."""
    stage = make(start, data, target="distilled", target_steps=3, batch_size=4)
    first = stage.base.seen_sigma(flow.sampling_sigmas(3, stage.base.shift(4, 4).mu(3)).float())[:-1].tolist()
    seen = set()
    for draw in range(30):
        (batch,) = stage.micro_batches(draw)
        prediction = stage.predict(batch, draw)
        noise = draws.normals(stage.config.seed, draw, batch.positions, "noise", batch.x0.shape[1:])
        for row, sigma in enumerate(prediction.levels.sigma.tolist()):
            seen.add(sigma)
            assert torch.equal(prediction.x_t[row], noise[row]) == (sigma == first[0])
    assert seen == set(first)


@each_family
def test_outside_it_is_held_to_the_base_alone(start, data):
    """A LoRA that changes nothing has no loss there; one that does is drawn back, and by its updates comes nearer."""
    stage = make(
        start, data, {"learning_rate": 1e-8}, target="distilled", target_steps=2, outside_share=1.0, batch_size=2,
        objective="pure", adversarial_weight=0.0, learning_rate=2e-3, beta1=0.9, discriminator_warmup=0,
    )  # fmt: skip
    (batches,) = [stage.outside.batches(stage.micro_batches(0), 0)]
    bare = adapter.beside(stage.base, {name: torch.zeros_like(t) for name, t in start.tensors.items()})
    with adapter.replaced(stage.base, bare):
        assert stage.hold_outside(batches, 0) == {"outside_loss": 0.0}
    losses = [stage.step(step)["outside_loss"] for step in range(30)]
    assert losses[0] > 0 and sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_without_outside_prompts_nothing_is_held(start, data):
    for changes in ({"outside_share": 0.0}, {}):
        given = data if changes else dataclasses.replace(data, outside_prompts=())
        stage = make(start, given, target="distilled", discriminator_warmup=0, **changes)
        assert "outside_loss" not in stage.step(0) and stage.nothing is None


def test_the_share_of_updates_looks_outside(start, data):
    """Binomial, 5 deviations."""
    stage = make(start, data, target="distilled", outside_share=0.3)
    due = sum(stage.outside.due(draw) for draw in range(2000))
    assert abs(due - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_four_batches_of_one_are_one_batch_of_four(start, data):
    gradients = []
    for size, parts in ((4, 1), (1, 4)):
        stage = make(
            start, data, target="distilled", target_steps=2, outside_share=1.0, batch_size=size,
            gradient_accumulation=parts, learning_rate=1e-8, discriminator_warmup=0,
        )  # fmt: skip
        stage.apply = lambda *_: 0.0
        stage.update_both(0, 0, teach=False)
        gradients.append([weight.grad.clone() for weight in stage.optimiser.parameters])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("target", "measured"), [("distilled", False), ("x0", True)])
def test_a_distilled_base_has_no_flow_to_be_held_by(start, data, target, measured):
    """Its answers to noised pictures do not tell how it draws: the watch does not count them."""
    data = dataclasses.replace(data, held_out=(0, 1, 2, 3))
    stage = make(start, data, target=target, target_steps=2, watch=True, watch_pictures=4, validate_every=1)
    assert ("flow loss on training pictures" in stage.evaluations(stage.total)) == measured
    values = stage.validate(lambda: None)
    drift = stage.watch._flow_drift(values, lambda: None)
    assert (drift is not None) == measured and values["held_out_loss"] > 0


def test_what_does_not_go_together_is_named(start, data):
    masked = dataclasses.replace(data.samples[3], mask=torch.ones(1, 4, 4))
    some_masked = dataclasses.replace(data, samples=(*data.samples[:3], masked, *data.samples[4:]))
    with pytest.raises(DataError, match="'picture 3' has a mask, and target is distilled"):
        make(start, some_masked, target="distilled")
    with pytest.raises(ValueError, match="target_steps is 25.*8 steps at most"):
        make(start, data, target="distilled", target_steps=25)
    with pytest.raises(ValueError, match="balance is gradient_ratio and target is distilled.*fixed"):
        make(start, data, target="distilled", balance="gradient_ratio")
    # Held to the base, masks or not.
    make(start, dataclasses.replace(with_phrase(some_masked)), target="two_samplers")
