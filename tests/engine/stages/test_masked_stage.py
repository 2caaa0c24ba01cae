"""Stage 2 with masks: beyond them nothing is judged, nothing is trained, and both sides of a pair are the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fluxduel.tests.engine.conftest import make_data, with_phrase
from fluxduel.tests.engine.stages.test_adversarial_stage import (
    COVER,
    PENALISED,
    keep_gradients,
    levels_and_endpoint,
    make,
    opinionated,
)
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.data.real_latents import RealLatents

SIDE = 8
# The small networks judge in fp32 whatever the base's precision.
COVERED = [
    (architecture, loss, target, precision)
    for architecture, loss, _, target in COVER
    for precision in ("fp32", "bf16")
    if precision == "fp32" or architecture in ("flux_features", "patch_cnn")
]


def half() -> Tensor:
    """Masked out on the right; the left column next to it counts half."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1.0
    mask[..., SIDE // 2 - 1] = 0.5
    return mask


def masked(mask: Tensor | None, every: int = 1) -> RealLatents:
    """Data of which every ``every``-th picture has this mask."""
    data = with_phrase(make_data(side=SIDE))
    samples = tuple(
        dataclasses.replace(sample, mask=mask if number % every == 0 else None)
        for number, sample in enumerate(data.samples)
    )
    return dataclasses.replace(data, samples=samples)


def at_velocity(stage, draw: int) -> tuple[Tensor, object]:
    """The gradient at the predicted velocity in one update of the LoRA, and the batch."""
    found: list[Tensor] = []
    predict = stage.predict

    def spy(batch, draw):
        prediction = predict(batch, draw)
        prediction.velocity.register_hook(found.append)
        return prediction

    stage.predict = spy
    stage.update_both(draw, 0, teach=True)
    (batch,) = stage.micro_batches(draw)
    return found[0], batch


@pytest.mark.parametrize(("architecture", "loss", "target", "precision"), COVERED)
def test_no_gradient_flows_beyond_the_mask(start, architecture, loss, target, precision):
    """Exactly none, for either loss; within it there is one, which a half counts half at most."""
    start = dataclasses.replace(start, base=BaseReference(start.base.path, precision))
    judge = {"architecture": architecture, "loss": loss, **PENALISED}
    stage = opinionated(make(start, masked(half()), judge, target=target, objective="pure", batch_size=2))
    gradient, batch = at_velocity(stage, 3)
    assert bool((gradient[..., SIDE // 2 :] == 0).all())
    inside = gradient[..., : SIDE // 2].abs().amax((1, 2))
    assert bool((inside > 0).all()), "nothing within the mask either"
    hybrid = opinionated(make(start, masked(half()), judge, target=target, batch_size=2))
    gradient, _ = at_velocity(hybrid, 3)
    assert bool((gradient[..., SIDE // 2 :] == 0).all()) and bool((gradient[..., : SIDE // 2] != 0).any())


def test_without_a_mask_the_gradient_is_everywhere(start):
    stage = opinionated(make(start, masked(None), target="x0", objective="pure", batch_size=2))
    gradient, _ = at_velocity(stage, 3)
    assert bool((gradient != 0).flatten(2).any(2).all()) and bool((gradient[..., SIDE // 2 :] != 0).any())


@pytest.mark.parametrize(
    ("judge", "changes"),
    [
        ({"loss": "relativistic", "mismatched_share": 0.5, "replay_share": 0.5}, {"target": "two_samplers"}),
        ({"loss": "bce", "lecam": 0.3}, {"target": "jump"}),
        ({"architecture": "patch_cnn", "loss": "wgan-gp", "replay_share": 0.5}, {"target": "x0"}),
        ({"architecture": "cnn", "loss": "relativistic", "lecam": 0.3}, {"target": "two_samplers"}),
        ({"architecture": "mlp", "loss": "hinge"}, {"target": "x0", "renoise": False}),
    ],
    ids=lambda value: "-".join(str(v) for k, v in value.items() if k in ("architecture", "loss", "target")),
)
def test_masks_of_ones_change_no_bit(start, judge, changes):
    seen = []
    for mask in (None, torch.ones(1, SIDE, SIDE)):
        stage = opinionated(make(start, masked(mask), {**PENALISED, **judge}, batch_size=4, **changes))
        stage.step(0)
        seen.append({})
        for name, optimiser in (("discriminator", stage.discriminator_optimiser), ("lora", stage.optimiser)):
            keep_gradients(optimiser, name, seen[-1])
        values = stage.step(1)
        seen[-1] |= {name: torch.tensor(value) for name, value in values.items() if "diffusion" not in name}
    assert seen[0].keys() == seen[1].keys() and len(seen[0]) > 30
    different = {
        name: (seen[0][name] - seen[1][name]).abs().max().item() / seen[0][name].abs().max().clamp_min(1e-9).item()
        for name in seen[0]
        if not torch.equal(seen[0][name], seen[1][name])
    }
    # The flow loss weighs by the area, and rounds otherwise than a plain mean; the LoRA's gradient has a part of it.
    loose = {name: off for name, off in different.items() if name.startswith("lora/") or name in LOOSE}
    assert different.keys() == loose.keys() and all(off < 1e-4 for off in loose.values())


LOOSE = ("grad_norm", "total_loss", "velocity_grad_cosine")


@pytest.mark.parametrize("every", [1, 2])
def test_beyond_the_mask_a_fake_is_its_real(start, every):
    """With augmentation too; pictures without a mask count everywhere beside those that have one."""
    judge = {"augmentation": "fixed", "augmentation_probability": 0.6}
    stage = make(start, masked(half(), every), judge, target="two_samplers", batch_size=4)
    whole = set()
    for draw in range(12):
        (batch,) = stage.micro_batches(draw)
        levels, _ = levels_and_endpoint(stage, batch, draw)
        shown = stage.shown(batch, levels, batch.x0 + 3.0, draw)
        beyond = (shown.mask == 0).expand_as(shown.real)
        assert torch.equal(shown.fake[beyond], shown.real[beyond])
        within = ~beyond & (shown.real != 0)
        assert bool((shown.fake[within] != shown.real[within]).float().mean() > 0.99)
        whole |= {bool((mask == 1).all()) for mask in shown.mask}
    assert whole == ({False} if every == 1 else {False, True})


def test_a_replayed_fake_keeps_its_own_surroundings(start):
    """The picture that it was made for; the pair counts where both masks do."""
    data = masked(half())
    turned = half().flip(1).transpose(1, 2).contiguous()
    samples = (dataclasses.replace(s, mask=turned) if i % 2 else s for i, s in enumerate(data.samples))
    data = dataclasses.replace(data, samples=tuple(samples))
    stage = make(start, data, {"replay_share": 1.0}, target="x0", step_share=0.0, batch_size=2)
    (batch,), (old,) = stage.micro_batches(3), stage.micro_batches(0)
    stage.replay.recall(old, torch.full_like(old.x0, 7.0), [True, True], 0)
    stage.replay.keep()
    levels, endpoint = levels_and_endpoint(stage, batch, 3)
    recalled = stage.replay.recall(batch, endpoint, [True, True], 3)
    shown = stage.shown(batch, levels, recalled.endpoint, 3, recalled)
    for row in range(2):
        kept = recalled.endpoint[row]
        (source,) = [i for i in range(2) if torch.equal(kept, torch.where(old.mask[i] > 0, 7.0, old.x0[i]))]
        assert torch.equal(recalled.mask[row], torch.minimum(batch.mask[row], old.mask[source]))
    plain = stage.shown(dataclasses.replace(batch, mask=None), levels, recalled.endpoint, 3)
    assert torch.equal(shown.fake, plain.fake), "a part of the present picture in a kept fake"
    assert torch.equal(shown.mask, recalled.mask) and bool(recalled.kept.all())


def test_held_out_verdicts_are_those_within_the_mask(start):
    """A judge that calls the masked out half real and the rest fake is seen to call held-out reals fake."""
    stage = make(start, masked(half()), {"architecture": "cnn", "augmentation": "adaptive"}, target="x0", batch_size=2)

    class Sided(torch.nn.Module):
        def look(self, latents, sigma, conditioning):
            return stage_look(latents, sigma, conditioning)

        def judge(self, seen):
            logits = torch.full((len(seen.sigma), 1, 4, 4), 5.0, device=seen.sigma.device)
            logits[..., :2] = -5.0
            return [logits]

    stage_look = stage.judges.networks["x0"].look
    stage.judges.networks["x0"] = Sided()
    stage.taught = 1
    assert stage.steer_augmentation([torch.zeros(2), torch.zeros(2)], 0)["held_out_logits"] == pytest.approx(-5.0)


def test_statistics_are_those_within_the_mask(start):
    """Verdicts and their means, as the adaptive ratio and the notes see them, have no part of what is masked out."""
    stage = opinionated(make(start, masked(half()), {"architecture": "cnn", "loss": "bce"}, target="x0", batch_size=2))
    (batch,) = stage.micro_batches(0)
    levels, endpoint = levels_and_endpoint(stage, batch, 0)
    shown = stage.shown(batch, levels, endpoint, 0)
    with torch.no_grad():
        logits = [stage.judges.networks["x0"](side, shown.level)[0] for side in (shown.real, shown.fake)]
    # Of 2x2 places: all of the left ones' area counts, though half of a quarter of it counts half.
    expected = [side[..., 0].mean((1, 2)).mean().item() for side in logits]
    values = stage.update_both(0, 0, teach=False)
    assert [values["real_logits"], values["fake_logits"]] == pytest.approx(expected, rel=1e-4)
    outside = [side[..., 1].mean().item() for side in logits]
    assert outside != pytest.approx(expected, rel=1e-2)
