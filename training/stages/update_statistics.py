"""What is told of one update of stage 2: the gradients of both losses, and the discriminator's verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...discriminator import losses as gan
from .judges import Logits
from .ranks import Ranks


def gradient_statistics(gradients: Sequence[tuple[Tensor, Tensor]], ranks: Ranks) -> dict[str, float]:
    """Norms of both losses' gradients at the velocity, over the whole batch, and the cosine between them.

    ``gradients``: of each micro-batch, that of the flow loss and that of the adversarial loss, (B, C, h, w) each.
    """
    products = [torch.stack([(a * a).sum(), (b * b).sum(), (a * b).sum()]) for a, b in gradients]
    everywhere = ranks.gather(torch.cat(products)).view(-1, 3)
    diffusion, adversarial, inner = everywhere.sum(0)
    norms = [(value.sqrt() / len(everywhere)).item() for value in (diffusion, adversarial)]
    cosine = inner / (diffusion * adversarial).sqrt().clamp_min(1e-30)
    return {
        "diffusion_velocity_grad": norms[0],
        "adversarial_velocity_grad": norms[1],
        "velocity_grad_cosine": cosine.item(),
    }


def verdict_statistics(loss: str, real: Tensor, fake: Tensor) -> dict[str, float]:
    """Mean logits and accuracy on real and on fake; ``real``, ``fake``: each sample's mean logit, (n,)."""
    maps = [[side.reshape(-1, 1, 1, 1)] for side in (real, fake)]
    real_accuracy, fake_accuracy = gan.accuracy(loss, *maps)
    return {
        "real_logits": real.mean().item(),
        "fake_logits": fake.mean().item(),
        "real_accuracy": real_accuracy,
        "fake_accuracy": fake_accuracy,
        "pair_accuracy": gan.pair_accuracy(*maps),
    }


def sample_verdicts(verdicts: Sequence[tuple[Logits, Logits]], ranks: Ranks) -> list[Tensor]:
    """Each sample's mean logit (n,), for real and for fake, over the micro-batches of one update and all ranks."""
    sides = zip(*verdicts, strict=True)
    return ranks.gather_many(
        *(torch.cat([logits for batch in side for logits in batch.values()]) for side in sides)
    )
