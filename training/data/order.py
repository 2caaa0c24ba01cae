"""Which samples a step trains on, a function of (seed, step): each equally often, in whatever group it is."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import draws


def global_batch(groups: Sequence[Sequence[int]], *, seed: int, step: int, size: int) -> tuple[int, ...]:
    """The ``size`` samples of one step, all of one group. ``groups`` are those that can be stacked, each not empty.

    A group's samples come in a stream of permutations, of which each of its batches takes the next ``size``. An epoch
    gives a group of g samples g / size batches on average, in whole numbers, and the batches of all groups in a random
    order. ``size`` epochs are a round: of as many steps as there are samples in all, in which each comes ``size``
    times exactly. So a lone picture of its bucket is not drawn more often than one of many.
    """
    lengths = tuple(len(group) for group in groups)
    # The epochs of a round are short of a batch in turn. Where each group is would be a rhythm, which a stage that
    # uses every other step could fall in with, were it the same in all rounds.
    turn, place = divmod(step, sum(lengths))
    phases = _phases(seed, turn, len(groups), size)
    epoch = bisect_right(range(size), place, key=lambda epoch: sum(_batches(lengths, phases, epoch, size))) - 1
    before = _batches(lengths, phases, epoch, size)
    order = _epoch_order(before, _batches(lengths, phases, epoch + 1, size), seed, turn * size + epoch)
    number, batch = order[place - sum(before)]
    group, first = groups[number], (turn * lengths[number] + batch) * size
    return tuple(
        group[int(_permutation(seed, number, position // len(group), len(group))[position % len(group)])]
        for position in range(first, first + size)
    )


def _batches(lengths: Sequence[int], phases: Sequence[int], epochs: int, size: int) -> tuple[int, ...]:
    """How many batches each group has had after so many epochs of a round."""
    return tuple((epochs * length + phase) // size for length, phase in zip(lengths, phases, strict=True))


@functools.lru_cache(maxsize=4)
def _phases(seed: int, turn: int, groups: int, size: int) -> tuple[int, ...]:
    return tuple(
        int(torch.randint(size, (), generator=draws.generator(seed, turn, number, "data/phase")))
        for number in range(groups)
    )


@functools.lru_cache(maxsize=4)
def _epoch_order(before: tuple[int, ...], after: tuple[int, ...], seed: int, epoch: int) -> list[tuple[int, int]]:
    """(group, number of its batch in the round) of each step of an epoch."""
    batches = [(group, batch) for group, ends in enumerate(zip(before, after, strict=True)) for batch in range(*ends)]
    order = torch.randperm(len(batches), generator=draws.generator(seed, epoch, 0, "data/batches")).tolist()
    return [batches[k] for k in order]


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, group: int, cycle: int, length: int) -> Tensor:
    return torch.randperm(length, generator=draws.generator(seed, cycle, group, "data/samples"))
