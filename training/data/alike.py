"""Pictures that are nearly the same, such as one photo in two formats or sizes, found without comparing all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SIDE = 16
# Steps of a look: of the standard deviation of the small picture's greys.
_STEPS = 24
# A small picture that varies less, in [0, 1], has no look: what rounding and compression leave of it is chance.
_FLAT = 1 / 255
# Of the standard deviation. What saving and scaling change is far below, other pictures lie far above.
MOST_DIFFERENT = 0.08
_MOST_STRETCHED = 0.03
# Waves over the small picture by which pictures are sorted: (down, across), in half periods.
_WAVES = ((0, 1), (1, 0), (0, 2))
_PAIRS_AT_ONCE = 1 << 22


def look(image: Tensor) -> bytes:
    """What a picture (H, W, 3) looks like from afar: 16 x 16 greys, in steps of their deviation from their mean.

    Empty for a picture without any contrast from afar.
    """
    grey = image.detach().to("cpu", torch.float32).mean(-1)
    # Weighted by place: a mean over whole pixels would differ between sizes that 16 does not divide.
    small = F.interpolate(grey[None, None], size=(_SIDE, _SIDE), mode="bilinear", antialias=True)[0, 0]
    small = small - small.mean()
    deviation = small.square().mean().sqrt()
    if not deviation >= _FLAT:
        return b""
    return (small * (_STEPS / deviation)).round().clamp(-127, 127).to(torch.int8).numpy().tobytes()


def alike(looks: Sequence[bytes], aspects: Sequence[float]) -> list[list[int]]:
    """Groups (indices) of two or more pictures that are nearly the same, from their ``look`` and width / height.

    Two pictures are where their looks differ by at most ``MOST_DIFFERENT`` in root mean square and their aspect ratios
    by 3 %; a picture that is like one of a group is in it. Exact: every such pair is found. Nearly all others are never
    compared, because pictures are sorted by three waves first.
    """
    places = [index for index, each in enumerate(looks) if each]
    if len(places) < 2:
        return []
    vectors = np.frombuffer(b"".join(looks[index] for index in places), np.int8).reshape(len(places), -1)
    ratios = np.log(np.array([aspects[index] for index in places]))
    leaders = list(range(len(places)))
    for one, other in _near(vectors):
        if abs(ratios[one] - ratios[other]) <= _MOST_STRETCHED:
            leaders[_leader(leaders, one)] = _leader(leaders, other)
    groups: dict[int, list[int]] = {}
    for number, index in enumerate(places):
        groups.setdefault(_leader(leaders, number), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _leader(leaders: list[int], index: int) -> int:
    while leaders[index] != index:
        leaders[index] = leaders[leaders[index]]
        index = leaders[index]
    return index


def _near(vectors: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows that differ by at most ``MOST_DIFFERENT``."""
    most = MOST_DIFFERENT * _STEPS * _SIDE
    # Along a wave of length 1 two pictures are no farther apart than they are: so near ones lie in cells side by side.
    cells = np.floor(vectors.astype(np.float32) @ _waves().T / most).astype(np.int64)
    order = np.lexsort(cells.T)
    ends = np.flatnonzero(np.any(np.diff(cells[order], axis=0), axis=1)) + 1
    members = {tuple(cells[rows[0]].tolist()): rows for rows in np.split(order, ends)}
    # Of each two neighbours one looks at the other.
    aside = [step for step in itertools.product((-1, 0, 1), repeat=len(_WAVES)) if step > (0,) * len(_WAVES)]
    for cell, rows in members.items():
        near = [members.get(tuple(map(sum, zip(cell, step, strict=True)))) for step in aside]
        others = np.concatenate([rows, *(each for each in near if each is not None)])
        if len(others) < 2:
            continue
        many = vectors[others].astype(np.float32)
        squares = np.square(many).sum(1)
        at_once = max(1, _PAIRS_AT_ONCE // len(others))
        for start in range(0, len(rows), at_once):
            few = slice(start, min(start + at_once, len(rows)))
            distances = squares[few, None] + squares[None] - 2 * many[few] @ many.T
            for one, other in zip(*np.nonzero(distances <= most**2), strict=True):
                if start + one < other:
                    yield int(others[start + one]), int(others[other])


def _waves() -> np.ndarray:
    """Orthonormal waves (len(_WAVES), 256): the cosines of low frequency of a type-2 DCT."""
    places = (np.arange(_SIDE) + 0.5) * np.pi / _SIDE
    waves = np.stack([np.outer(np.cos(down * places), np.cos(across * places)).ravel() for down, across in _WAVES])
    return (waves / np.linalg.norm(waves, axis=1, keepdims=True)).astype(np.float32)
