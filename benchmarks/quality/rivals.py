"""What stage 2 could be without a discriminator: the same steps, noise levels and watch, another lesson."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fluxduel.training import flow
from fluxduel.training.data.batches import Batch
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage, Prediction

SUB_STEPS = 6
# Rows of features that are compared at once: pairwise distances of more are slow.
_MOST_ROWS = 512
# Says neither that the discriminator lags nor that it dominates: there is none.
_NO_VERDICT = 0.75


class _Rival(AdversarialStage):
    """An update of the LoRA with another loss in the adversarial one's place."""

    @abstractmethod
    def loss(self, batch: Batch, prediction: Prediction, draw: int, update: int) -> Tensor:
        """What the update lowers, a scalar with a gradient."""

    def update_both(self, draw: int, update: int, teach: bool) -> dict[str, float]:
        (batch,) = self.micro_batches(draw)
        prediction = self.predict(batch, draw)
        loss = self.loss(batch, prediction, draw, update)
        loss.backward()
        norm = self.apply(self.optimiser, self.monitor.lora)
        return {"total_loss": loss.item(), "grad_norm": norm, "pair_accuracy": _NO_VERDICT}


class DistilStage(_Rival):
    """The LoRA learns to take in one step of the target sampler what it took in several when the stage began.

    Progressive distillation (Salimans and Ho 2022, arXiv:2202.00512, algorithm 2) of an Euler step.
    """

    def __init__(self, start: FluxLoRA, *args: Any, **kwargs: Any) -> None:
        super().__init__(start, *args, **kwargs)
        self.teacher = adapter.beside(self.base, start.tensors)

    def loss(self, batch: Batch, prediction: Prediction, draw: int, update: int) -> Tensor:
        sigma, end = prediction.levels.sigma, prediction.levels.end
        x = prediction.x_t.detach()
        with torch.no_grad(), adapter.replaced(self.base, self.teacher):
            for number in range(SUB_STEPS):
                here, there = (sigma + (end - sigma) * k / SUB_STEPS for k in (number, number + 1))
                x = flow.jump(x, self.velocity(x, here, batch), here, there)
        target = (prediction.x_t - x) / (sigma - end).view(-1, 1, 1, 1)
        return flow.velocity_error(prediction.velocity, target, batch.mask).mean()


class MmdStage(_Rival):
    """The fakes' features are brought to the reals' by their maximum mean discrepancy (Gretton et al. 2012).

    The features are those that the discriminator would judge, place by place; the kernel is a mixture of Gaussians.
    """

    def loss(self, batch: Batch, prediction: Prediction, draw: int, update: int) -> Tensor:
        weights = self.weights(update)
        shown = self.shown(batch, prediction.levels, self.endpoint(prediction, prediction.velocity), draw)
        with torch.no_grad():
            real = self.judges.look(shown.real, shown.level, shown.conditioning)
        fake = self.judges.look(shown.fake, shown.level, shown.conditioning)
        distances = [discrepancy(_rows(a), _rows(b)) for a, b in zip(fake.features, real.features, strict=True)]
        error = flow.velocity_error(prediction.velocity, self.anchored(batch, prediction), batch.mask).mean()
        return weights["diffusion_weight"] * error + weights["adversarial_weight"] * torch.stack(distances).mean()


def discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of rows (n, d) and (m, d), the biased estimate, differentiable."""
    with torch.no_grad():
        unit = torch.cdist(b, b).square().mean()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        distance = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0) / unit
        return torch.stack([torch.exp(-distance / width) for width in (0.1, 0.3, 1.0)]).mean()

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def _rows(features: Tensor) -> Tensor:
    """(B, width, h, w) to rows of places, the same number of each, normalised as the discriminator's heads do."""
    rows = features.flatten(2).movedim(1, 2).flatten(0, 1).float()
    rows = rows[:: max(1, len(rows) // _MOST_ROWS)]
    return F.layer_norm(rows, rows.shape[1:])

