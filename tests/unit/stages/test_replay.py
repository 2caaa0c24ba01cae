"""Fakes of earlier updates: which replace which, what comes with them, how many are kept, and what a draw decides."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
import torch
from torch import Tensor

from fluxduel.tests.engine.conftest import make_data, with_phrase
from fluxduel.training.data.batches import Batch
from fluxduel.training.stages import replay
from fluxduel.training.stages.replay import CAPACITY, Recalled, Replay

SHAPE = (2, 4, 6)
DATA = with_phrase(make_data())


def batch_of(count: int, positions=None, shape=SHAPE, captions=None, length: int = 5, **changes) -> Batch:
    """Samples whose picture is 500 throughout, for the data's own captions in turn."""
    positions = tuple(range(count)) if positions is None else tuple(positions)
    captions = captions or tuple(position % len(DATA.prompts) for position in positions)
    embeds = torch.stack([DATA.prompts[number].prompt_embeds for number in captions])
    batch = Batch(
        x0=torch.full((count, *shape), 500.0),
        prompt_embeds=embeds if length == 5 else torch.zeros(count, length, embeds.shape[2]),
        pooled_prompt_embeds=torch.stack([DATA.prompts[number].pooled_prompt_embeds for number in captions]),
        mask=None,
        names=("picture",) * count,
        positions=positions,
        captions=captions,
        dropped=(False,) * count,
    )
    return changed(batch, **changes)


def marked(*marks: float, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """(n, C, h, w) estimates, each of one number throughout."""
    return torch.stack([torch.full(shape, float(mark)) for mark in marks])


def marks(latents: Tensor) -> list[float]:
    assert bool((latents == latents[:, :1, :1, :1]).all()), "estimates were mixed within a sample"
    return latents[:, 0, 0, 0].tolist()


def add(kept: Replay, *numbers: float, shape=SHAPE, **changes) -> None:
    batch = batch_of(len(numbers), shape=shape, **changes)
    kept.recall(batch, marked(*numbers, shape=shape), [True] * len(numbers), 0)
    kept.keep()


def filled(count: int, seed: int = 0, share: float = 1.0) -> Replay:
    kept = Replay(DATA, share, seed)
    for start in range(0, count, 4):
        add(kept, *range(start, min(start + 4, count)))
    return kept


def recalled(kept: Replay, draw: int, positions=range(4), estimates=None, **changes) -> Recalled:
    """Of fresh estimates -1, -2 … by their positions; what they leave behind is not kept."""
    positions = list(positions)
    batch = batch_of(len(positions), positions, **changes)
    fresh = marked(*(-1.0 - position for position in positions), shape=tuple(batch.x0.shape[1:]))
    result = kept.recall(batch, fresh, estimates or [True] * len(positions), draw)
    kept._made.clear()
    return result


def mixed(kept: Replay, draw: int, positions=range(4), **given) -> list[float]:
    result = recalled(kept, draw, positions, **given)
    latents = marks(result.endpoint)
    assert result.kept.tolist() == [mark >= 0 for mark in latents]
    return latents


def test_nothing_kept_nothing_replaced():
    assert mixed(Replay(DATA, 1.0, 0), 0) == [-1, -2, -3, -4]
    kept = filled(4)
    assert mixed(kept, 0, shape=(2, 6, 4)) == [-1, -2, -3, -4], "of another size"
    assert mixed(kept, 0, length=7) == [-1, -2, -3, -4], "of another length of prompt"


def test_a_draw_decides():
    kept = filled(40, share=0.5)
    for draw in range(20):
        whole = mixed(kept, draw, range(6))
        assert whole == mixed(kept, draw, range(6)) == mixed(filled(40, share=0.5), draw, range(6))
        parts = [mixed(kept, draw, positions) for positions in ((0, 1), (2,), (3, 4, 5))]
        assert sum(parts, []) == whole, "depends on how the batch is cut"
    several = {tuple(mixed(kept, draw)) for draw in range(20)}
    assert len(several) > 15
    assert mixed(filled(40, seed=1), 0, range(20)) != mixed(filled(40), 0, range(20))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_the_share_is_replaced(share):
    kept = filled(40, share=share)
    draws, count = 250, 4
    replaced = sum(mark >= 0 for draw in range(draws) for mark in mixed(kept, draw)) / (draws * count)
    assert replaced == pytest.approx(share, abs=4 * (share * (1 - share) / (draws * count)) ** 0.5)


def test_only_estimates_are_replaced_and_kept():
    kept = filled(40)
    for draw in range(50):
        got = mixed(kept, draw, estimates=[True, False, True, False])
        assert got[0] >= 0 and got[2] >= 0 and got[1] == -2.0 and got[3] == -4.0
    some = Replay(DATA, 1.0, 0)
    some.recall(batch_of(4), marked(5, 6, 7, 8), [False, True, False, True], 0)
    assert mixed(some, 1) == [-1, -2, -3, -4], "used within the update that made it"
    some.recall(batch_of(4), marked(5, 6, 7, 8), [False, True, False, True], 0)
    some.keep()
    assert {mark for draw in range(20) for mark in mixed(some, draw)} == {6, 8}


def test_the_last_ones_are_kept_and_all_are_used(monkeypatch):
    monkeypatch.setattr(replay, "CAPACITY", 16)
    kept = filled(40)
    seen = {mark for draw in range(60) for mark in mixed(kept, draw)}
    assert seen == set(range(24, 40))


def test_capacity_counts_samples_and_each_size_has_its_own():
    kept = Replay(DATA, 1.0, 0)
    for start in range(CAPACITY + 44):
        add(kept, start)
    add(kept, 1000, shape=(2, 2, 2))
    used = torch.cat([torch.tensor(mixed(kept, draw, range(100))) for draw in range(12)])
    assert used.min() >= 44 and used.max() < 1000 and len(used.unique()) > 0.95 * CAPACITY
    assert mixed(kept, 0, [0], shape=(2, 2, 2)) == [1000.0]


def test_what_is_kept_is_a_copy_without_a_graph():
    kept = Replay(DATA, 1.0, 0)
    source = marked(5).requires_grad_()
    estimate = source * 1
    kept.recall(batch_of(1), estimate, [True], 0)
    kept.keep()
    with torch.no_grad():
        estimate.fill_(9)
    got = kept.recall(batch_of(1), marked(-1).double(), [False], 0)
    assert marks(got.endpoint) == [-1.0]
    got = kept.recall(batch_of(1), marked(-1).double(), [True], 0)
    assert marks(got.endpoint) == [5.0] and got.endpoint.dtype == torch.float64 and not got.endpoint.requires_grad


@pytest.mark.parametrize("few_step", [(), (True, True, True, True)])
def test_a_kept_estimate_brings_its_caption(few_step):
    """As its own sampler was given it; the dropped one's is the empty prompt. All others keep theirs."""
    kept = Replay(DATA, 0.5, 0)
    add(kept, 0, 1, 2, 3, captions=(5, 3, 0, 6), dropped=(False, False, True, False))
    prompts, empty = (
        (DATA.few_step_prompts, DATA.few_step_empty_prompt) if few_step else (DATA.prompts, DATA.empty_prompt)
    )
    expected = [prompts[5], prompts[3], empty, prompts[6]]
    seen = set()
    for draw in range(30):
        got = recalled(kept, draw, captions=(7, 7, 7, 7), few_step=few_step)
        for row, mark in enumerate(got.endpoint[:, 0, 0, 0].tolist()):
            right = DATA.prompts[7] if mark < 0 else expected[int(mark)]
            assert torch.equal(got.conditioning.prompt_embeds[row], right.prompt_embeds)
            assert torch.equal(got.conditioning.pooled_prompt_embeds[row], right.pooled_prompt_embeds)
            seen.add(mark if mark >= 0 else -1)
    assert seen == {-1, 0, 1, 2, 3}


def test_a_kept_estimate_brings_its_mask():
    """Where it is masked out it is its own picture, and a pair counts where both of its sides do."""
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., :2] = 0.5
    mask[..., 2:4] = 1.0
    kept = Replay(DATA, 1.0, 0)
    add(kept, 7, mask=mask)
    plain = recalled(kept, 0, [0])
    assert bool((plain.endpoint[..., :4] == 7).all()) and bool((plain.endpoint[..., 4:] == 500).all())
    assert torch.equal(plain.mask, mask)
    other = torch.ones(1, 1, 4, 6)
    other[..., 0] = 0.25
    other[..., 3] = 0.0
    both = recalled(kept, 0, [0], mask=other)
    assert torch.equal(both.endpoint, plain.endpoint) and torch.equal(both.mask, torch.minimum(mask, other))
    fresh = recalled(Replay(DATA, 1.0, 0), 0, [0], mask=other)
    assert torch.equal(fresh.mask, other) and bool((fresh.endpoint[..., 3] == 500).all())
    unmasked = Replay(DATA, 1.0, 0)
    add(unmasked, 7)
    assert recalled(unmasked, 0, [0]).mask is None


def test_a_restored_one_goes_on_the_same():
    kept = Replay(DATA, 0.6, 0)
    add(kept, 0, 1, captions=(4, 2), dropped=(False, True))
    add(kept, 2, 3, mask=torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0)))
    add(kept, 4, shape=(2, 2, 2))
    restored = Replay(DATA, 0.6, 0)
    restored.restore({name: tensor.clone() for name, tensor in kept.state().items()})
    for draw in range(30):
        for shape in (SHAPE, (2, 2, 2)):
            ours, theirs = (recalled(each, draw, shape=shape) for each in (kept, restored))
            assert torch.equal(ours.endpoint, theirs.endpoint) and torch.equal(ours.kept, theirs.kept)
            assert all(torch.equal(a, b) for a, b in zip(ours.conditioning, theirs.conditioning, strict=True))
            assert (ours.mask is None) == (theirs.mask is None)
            assert ours.mask is None or torch.equal(ours.mask, theirs.mask)
