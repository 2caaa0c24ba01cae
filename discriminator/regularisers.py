"""Penalties on a discriminator's verdicts, none of them weighted: their slope, their drift, their distance.

As in ``losses``, each is the mean over maps of the mean over samples and places, so equal micro-batches average to the
whole batch; a ``mask`` (B, 1, h, w) weighs the places, and half precision is widened to fp32. ``wgan-gp``'s own penalty
stands beside its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .losses import check_matched, mean_over_maps, wide
from .masks import inside, place_weights


def random_signs(maps: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A fair draw of -1 or 1 for every logit of ``maps``: what ``exact_slope`` wants.

    Drawn where ``generator`` lives, then moved to each map's device and precision (fp32 for half precision).
    """
    return [
        torch.randint(0, 2, m.shape, generator=generator, device=generator.device).mul(2).sub(1).to(wide(m))
        for m in maps
    ]


def exact_slope(
    judge_of: Callable[[Tensor], Sequence[Tensor]],
    latents: Tensor,
    signs: Sequence[Tensor] | Callable[[Sequence[Tensor]], Sequence[Tensor]],
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over maps, samples and places of ``|grad_x logit|^2``, a scalar: R1 at real latents, R2 at fake ones.

    arXiv:1801.04406, eqs. 9 and 10, and arXiv:2501.05441, sec. 3, without their factor 1/2, and for each place of a map
    rather than for one logit a sample.

    ``judge_of``: maps latents (B, C, h, w) to logit maps (B, 1, h', w'), samples independent of each other; noise
    levels and prompts are inside. ``signs``: for every logit -1 or 1, independent fair draws in the maps' shapes, or a
    function that makes them of the maps. One backward pass cannot give the norm of each logit's gradient, but with
    random signs ``u`` the cross terms of ``|grad sum(u logit)|^2`` cancel in expectation (Hutchinson): the estimate is
    unbiased, and exact where no two logits of a sample depend on the same latent. With a ``mask`` the slope is that by
    the latents within it: what lies beyond is no part of what is judged.

    Differentiable by the discriminator's weights; ``latents`` gets no gradient. Raises ``ValueError`` for signs that do
    not match the maps.
    """
    # Without gradients, as when it is only logged, the slope still needs its own.
    with torch.enable_grad():
        x = wide(latents.detach()).requires_grad_(True)
        maps = judge_of(x)
        drawn = signs(maps) if callable(signs) else signs
        if [s.shape for s in drawn] != [m.shape for m in maps]:
            raise ValueError(
                f"Expected one sign a logit, shapes {[tuple(m.shape) for m in maps]}, "
                f"got {[tuple(s.shape) for s in drawn]}."
            )
        values = [sign.to(wide(logits)) * wide(logits) for sign, logits in zip(drawn, maps, strict=True)]
        if mask is not None:
            # The gradient is squared below, and with it these weights.
            weights = place_weights(mask, maps)
            values = [each * weight.to(each).sqrt() for each, weight in zip(values, weights, strict=True)]
        # A map's weight is the root of its share of the mean. The cross terms between maps cancel as well.
        signed = [each.sum() / math.sqrt(len(maps) * each[0].numel()) for each in values]
        (gradient,) = torch.autograd.grad(torch.stack(signed).sum(), x, create_graph=True)
        if mask is not None:
            gradient = gradient * inside(mask)
        # Samples are independent, so a sample's part of the gradient is that of its own logits.
        return gradient.square().flatten(1).sum(1).mean()


def approximate_slope(
    logits: Sequence[Tensor], perturbed_logits: Sequence[Tensor], step: float, mask: Tensor | None = None
) -> Tensor:
    """Mean over maps, samples and places of ``((D(x + step n) - D(x)) / step)^2``, a scalar (arXiv:2501.08316, aR1).

    ``logits`` and ``perturbed_logits``: maps of ``D(x)`` and ``D(x + step n)``, each (B, 1, h', w'), with ``n``
    standard normal in the latents' shape, both with a graph to the weights. ``step``: above 0, in units of the latents,
    whose deviation is about 1. The paper's penalty is ``step^2`` times this one; divided, its weight means the same for
    every step, and in expectation it tends to ``exact_slope`` as the step goes to 0. Needs no second derivative.

    Raises ``ValueError`` for maps that do not match, or a step not above 0.
    """
    check_matched(logits, perturbed_logits, paired=True)
    if not step > 0:
        raise ValueError(f"The step of the approximate slope must be above 0, got {step}.")
    return mean_over_maps(lambda at, beside: ((beside - at) / step).square(), logits, perturbed_logits, mask=mask)


def centring(real: Sequence[Tensor], fake: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """``(D(r) + D(f))^2`` of each pair, a scalar: real and fake logits lie around 0 (arXiv:2511.22475).

    Losses that see differences alone leave the logits' common level free, and it drifts. ``real``, ``fake``: logit
    maps, each (B, 1, h', w'), paired by sample and place. The difference of a pair costs nothing.

    Raises ``ValueError`` for maps that do not match.
    """
    check_matched(real, fake, paired=True)
    return mean_over_maps(lambda r, f: (r + f).square(), real, fake, mask=mask)


def lecam(
    real: Sequence[Tensor], fake: Sequence[Tensor], mean_real: float, mean_fake: float, mask: Tensor | None = None
) -> Tensor:
    """``relu(D(r) - mean_fake)^2 + relu(mean_real - D(f))^2``, a scalar (arXiv:2104.03310, eq. 5).

    ``real``, ``fake``: logit maps, each (B, 1, h', w'); ``mean_real``, ``mean_fake``: running means of earlier ones.
    The paper's equation squares the plain differences. Its published code, followed here, takes their positive parts:
    a real costs nothing below the fakes' mean, a fake nothing above the reals'.

    Raises ``ValueError`` for unlike numbers of maps.
    """
    check_matched(real, fake, paired=False)
    above = mean_over_maps(lambda r: F.relu(r - mean_fake).square(), real, mask=mask)
    below = mean_over_maps(lambda f: F.relu(mean_real - f).square(), fake, mask=mask)
    return above + below


class LeCam:
    """The running means that ``lecam`` needs, in plain floats.

    ``decay``: share of a mean that is kept at each update, in [0, 1). The means start at 0 and are divided by
    ``1 - decay^updates``, so the first is the first value itself, and no value counts twice.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"LeCam's decay must be at least 0 and below 1, got {decay}.")
        self.decay = decay
        self._real, self._fake, self._updates = 0.0, 0.0, 0

    def update(self, real: float, fake: float) -> None:
        """Takes in the mean logits of one update's real and fake samples. Values that are not finite are left out."""
        if not (math.isfinite(real) and math.isfinite(fake)):
            return
        self._real += (1 - self.decay) * (real - self._real)
        self._fake += (1 - self.decay) * (fake - self._fake)
        self._updates += 1

    @property
    def means(self) -> tuple[float, float]:
        """Running means of the real and of the fake logits; 0 before the first update."""
        if not self._updates:
            return 0.0, 0.0
        seen = 1 - self.decay**self._updates
        return self._real / seen, self._fake / seen

    def penalty(self, real: Sequence[Tensor], fake: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """``lecam`` with the running means: a scalar, and 0 before the first update, as there is nothing to hold to."""
        value = lecam(real, fake, *self.means, mask)
        return value if self._updates else torch.zeros_like(value)

    def state_dict(self) -> dict[str, float | int]:
        """All that a checkpoint needs, in plain numbers."""
        return {"real": self._real, "fake": self._fake, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        """Continues from what ``state_dict`` gave. Raises ``KeyError`` where a number is missing."""
        self._real, self._fake = float(state["real"]), float(state["fake"])
        self._updates = int(state["updates"])
