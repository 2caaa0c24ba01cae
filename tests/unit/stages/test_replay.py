"""Fakes of earlier updates: which replace which, how many are kept, and what a draw decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fluxduel.training.stages import replay
from fluxduel.training.stages.replay import CAPACITY, Replay

SHAPE = (2, 4, 6)


def marked(*marks: float, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """(n, C, h, w) estimates, each of one number throughout."""
    return torch.stack([torch.full(shape, float(mark)) for mark in marks])


def marks(latents: Tensor) -> list[float]:
    assert bool((latents == latents[:, :1, :1, :1]).all()), "estimates were mixed within a sample"
    return latents[:, 0, 0, 0].tolist()


def filled(count: int, seed: int = 0) -> Replay:
    kept = Replay(seed)
    for start in range(0, count, 4):
        kept.add(marked(*range(start, min(start + 4, count))))
    return kept


def mixed(kept: Replay, draw: int, share: float, positions=range(4), replaceable=None) -> list[float]:
    positions = list(positions)
    chosen = torch.tensor(replaceable if replaceable is not None else [True] * len(positions))
    return marks(kept.mix(marked(*(-1.0 - p for p in positions)), chosen, share, draw, positions))


def test_nothing_kept_nothing_replaced():
    fresh = marked(1, 2)
    assert Replay(0).mix(fresh, torch.tensor([True, True]), 1.0, 0, [0, 1]) is fresh
    kept = filled(4)
    other = marked(7, shape=(2, 6, 4))
    assert torch.equal(kept.mix(other, torch.tensor([True]), 1.0, 0, [0]), other), "of another size"


def test_a_draw_decides():
    kept = filled(40)
    for draw in range(20):
        whole = mixed(kept, draw, 0.5, range(6))
        assert whole == mixed(kept, draw, 0.5, range(6)) == mixed(filled(40), draw, 0.5, range(6))
        parts = [mixed(kept, draw, 0.5, positions) for positions in ((0, 1), (2,), (3, 4, 5))]
        assert sum(parts, []) == whole, "depends on how the batch is cut"
    several = {tuple(mixed(kept, draw, 0.5)) for draw in range(20)}
    assert len(several) > 15
    assert mixed(filled(40, seed=1), 0, 1.0, range(20)) != mixed(kept, 0, 1.0, range(20))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_the_share_is_replaced(share):
    kept = filled(40)
    draws, count = 250, 4
    replaced = sum(mark >= 0 for draw in range(draws) for mark in mixed(kept, draw, share)) / (draws * count)
    assert replaced == pytest.approx(share, abs=4 * (share * (1 - share) / (draws * count)) ** 0.5)


def test_only_replaceable_samples_are_replaced():
    kept = filled(40)
    for draw in range(50):
        got = mixed(kept, draw, 1.0, replaceable=[True, False, True, False])
        assert got[0] >= 0 and got[2] >= 0 and got[1] == -2.0 and got[3] == -4.0


def test_the_last_ones_are_kept_and_all_are_used(monkeypatch):
    monkeypatch.setattr(replay, "CAPACITY", 16)
    kept = filled(40)
    seen = {mark for draw in range(60) for mark in mixed(kept, draw, 1.0)}
    assert seen == set(range(24, 40))


def test_capacity_counts_samples_and_each_size_has_its_own():
    kept = Replay(0)
    for start in range(CAPACITY + 44):
        kept.add(marked(start))
    kept.add(marked(1000, shape=(2, 2, 2)))
    used = torch.cat([torch.tensor(mixed(kept, draw, 1.0, range(100))) for draw in range(12)])
    assert used.min() >= 44 and used.max() < 1000 and len(used.unique()) > 0.95 * CAPACITY
    small = kept.mix(marked(-1, shape=(2, 2, 2)), torch.tensor([True]), 1.0, 0, [0])
    assert marks(small) == [1000.0]


def test_what_is_kept_is_a_copy_without_a_graph():
    kept = Replay(0)
    source = marked(5).requires_grad_()
    estimate = source * 1
    kept.add(estimate)
    with torch.no_grad():
        estimate.fill_(9)
    fresh = marked(-1).bfloat16()
    got = kept.mix(fresh, torch.tensor([True]), 1.0, 0, [0])
    assert marks(got) == [5.0] and got.dtype == torch.bfloat16 and not got.requires_grad
    kept.add(torch.empty(0, *SHAPE))
    assert marks(kept.mix(fresh, torch.tensor([True]), 1.0, 0, [0])) == [5.0]
