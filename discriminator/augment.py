"""Augmentation of what a discriminator is shown, in latents, the same for real and fake, and how often to apply it.

Shown few pictures many times, a discriminator learns them by heart. Augmented ones it has to judge by what they have in
common (arXiv:2006.06676; arXiv:2006.10738). As the generator's samples are augmented alike, the transforms do not leak
into what it makes, as long as they are left out often enough (arXiv:2006.06676, sec. 2.2).

In latents only transforms will do that the VAE's encoder, a stack of convolutions, turns into themselves: a shift by
whole latents is a shift by 8 pixels each, a rectangle cut out of the latents is one cut out of the picture. Mirroring
is close to one, and is done to the pictures before they are encoded. Rotation, scale and colour are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Uniform numbers that one sample's draw uses: whether and which shift; whether, how large and where a cutout.
UNIFORMS = 7


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to each of some samples, in latents.

    ``shifts``: (down, right) a sample, both even, (0, 0) for none; ``rectangles``: (top, left, height, width) a sample,
    inside the picture, of height and width 0 for none.
    """

    shifts: tuple[tuple[int, int], ...]
    rectangles: tuple[tuple[int, int, int, int], ...]


def _furthest(side: int) -> int:
    """The largest shift along a side: an eighth of it, down to an even number, but at least 2; 0 below a side of 4."""
    return max(2, side // 16 * 2) if side >= 4 else 0


def _shift(height: int, width: int, uniform: float) -> tuple[int, int]:
    """One of all even shifts within reach but the empty one, each as likely."""
    down, right = _furthest(height), _furthest(width)
    columns = right + 1
    others = (down + 1) * columns - 1
    if not others:
        return 0, 0
    choice = int(uniform * others)
    # The empty shift lies in the middle of the grid.
    choice += choice >= others // 2
    return choice // columns * 2 - down, choice % columns * 2 - right


def _cutout(side: int, size: float, place: float) -> tuple[int, int]:
    """Start and length of a stretch between a quarter and a half of a side, wholly inside, each one as likely."""
    shortest, longest = math.ceil(side / 4), max(1, side // 2)
    length = shortest + int(size * (longest - shortest + 1))
    return int(place * (side - length + 1)), length


def draw(count: int, height: int, width: int, probability: float, uniforms: Tensor) -> Augmentation:
    """A shift and a cutout for each of ``count`` samples, either with ``probability``, independent of each other.

    Shifts are even, so that FLUX's tokens, 2x2 patches of latents, move as a whole, and at most an eighth of a side,
    but at least 2; a cutout's sides are a quarter to a half of the picture's (arXiv:2006.10738, sec. 3.2, has an eighth
    and a half).

    ``height``, ``width``: of the latents; ``probability``: in [0, 1]; ``uniforms``: (count, ``UNIFORMS``) draws in
    [0, 1). Each sample depends on its own row alone, and a higher probability adds to what a row does at a lower one.

    Raises ``ValueError`` for a probability or a shape that does not fit.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"A probability of augmentation must lie between 0 and 1, got {probability}.")
    if uniforms.shape != (count, UNIFORMS):
        raise ValueError(f"Expected uniforms of shape {(count, UNIFORMS)}, got {tuple(uniforms.shape)}.")
    shifts, rectangles = [], []
    for moved, which, cut, tall, top, wide, left in uniforms.tolist():
        shifts.append(_shift(height, width, which) if moved < probability else (0, 0))
        rows, columns = _cutout(height, tall, top), _cutout(width, wide, left)
        rectangles.append((rows[0], columns[0], rows[1], columns[1]) if cut < probability else (0, 0, 0, 0))
    return Augmentation(tuple(shifts), tuple(rectangles))


def apply(latents: Tensor, augmentation: Augmentation) -> Tensor:
    """``latents`` (B, C, h, w), shifted, then cut out, with zeros in all vacated places; differentiable.

    Zero is the mean of scaled latents. Where nothing is done, the sample passes unchanged.

    Raises ``ValueError`` for an augmentation of another number of samples.
    """
    if latents.shape[0] != len(augmentation.shifts):
        raise ValueError(
            f"This augmentation was drawn for {len(augmentation.shifts)} samples, got {latents.shape[0]} latents."
        )
    samples = []
    for sample, (down, right), (top, left, height, width) in zip(
        latents, augmentation.shifts, augmentation.rectangles, strict=True
    ):
        # Negative padding crops: what leaves on one side makes room for zeros on the other.
        shifted = F.pad(sample, (right, -right, down, -down)) if down or right else sample
        if height and width:
            hole = torch.zeros(sample.shape[1:], dtype=torch.bool, device=sample.device)
            hole[top : top + height, left : left + width] = True
            shifted = shifted.masked_fill(hole, 0)
        samples.append(shifted)
    return torch.stack(samples) if samples else latents


def follow(mask: Tensor, augmentation: Augmentation) -> Tensor:
    """``mask`` (B, 1, h, w), shifted as ``apply`` shifts the latents; what moves in continues the edge.

    So a mask of ones stays one. Cut out places keep their weight: they are empty on both sides of a pair.
    """
    samples = []
    for sample, (down, right) in zip(mask, augmentation.shifts, strict=True):
        rows = (torch.arange(sample.shape[1], device=mask.device) - down).clamp(0, sample.shape[1] - 1)
        columns = (torch.arange(sample.shape[2], device=mask.device) - right).clamp(0, sample.shape[2] - 1)
        samples.append(sample[:, rows[:, None], columns])
    return torch.stack(samples)


class AdaptiveProbability:
    """Sets the probability of augmentation by how far a discriminator overfits (arXiv:2006.06676, sec. 3).

    The measure is the paper's r_v, the one that looks at pictures which are never trained on: the share of the way from
    training reals to fakes at which held-out reals are judged. 0: the two kinds of reals are judged alike, nothing is
    learned by heart. 1: a held-out real looks as fake as a fake. The paper's other measure, the sign of the logits of
    training reals (with a target of 0.6), needs a loss with a natural zero, which the relativistic one is not.

    ``probability``: the first one. ``target``: of r_v; 0.5 is that of the paper's code for this measure, where held-out
    reals are halfway. ``rate``: how far the probability moves at each update; the paper's own takes 500 000 pictures
    from 0 to 1. ``ceiling``: the highest probability; above 0.8 the paper sees augmentations leak into the samples.
    ``least_gap``: where training reals are judged less than this above fakes, in logits, r_v is a ratio of noise, and
    nothing moves. Raises ``ValueError`` for values outside [0, 1], or a ``least_gap`` not above 0.
    """

    def __init__(
        self,
        probability: float = 0.0,
        *,
        target: float = 0.5,
        rate: float = 0.01,
        ceiling: float = 0.8,
        least_gap: float = 0.05,
    ) -> None:
        for name, value in (("probability", probability), ("target", target), ("rate", rate), ("ceiling", ceiling)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} of the adaptive augmentation must lie between 0 and 1, got {value}.")
        if not least_gap > 0:
            raise ValueError(f"least_gap of the adaptive augmentation must be above 0, got {least_gap}.")
        self.probability = min(probability, ceiling)
        self.target, self.rate, self.ceiling, self.least_gap = target, rate, ceiling, least_gap

    def overfitting(self, train: float, held_out: float, fake: float) -> float | None:
        """r_v of three mean verdicts; None where one is not finite or training reals are not told from fakes."""
        gap = train - fake
        if not (math.isfinite(gap) and math.isfinite(held_out)) or gap < self.least_gap:
            return None
        return (train - held_out) / gap

    def update(self, train: float, held_out: float, fake: float) -> float | None:
        """Moves ``probability`` up where r_v lies above its target, down where below. Returns r_v.

        ``train``, ``held_out``, ``fake``: mean verdicts of training reals, held-out reals and fakes, augmented alike.
        Where r_v cannot be told, the probability stays, and None is returned.
        """
        overfitting = self.overfitting(train, held_out, fake)
        if overfitting is not None and overfitting != self.target:
            moved = self.probability + math.copysign(self.rate, overfitting - self.target)
            self.probability = min(max(moved, 0.0), self.ceiling)
        return overfitting

    def state_dict(self) -> dict[str, float]:
        """All that a checkpoint needs, in plain numbers."""
        return {"probability": self.probability}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continues from what ``state_dict`` gave. Raises ``KeyError`` where a number is missing."""
        self.probability = float(state["probability"])
