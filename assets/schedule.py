"""How long to train and how fast, for the scripts that make the built-in bases."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Schedule:
    """Linear warm-up, then half a cosine down to 1 %.

    Attributes:
        steps: at most this many optimiser steps.
        learning_rate: the peak.
        warmup: steps of the linear rise.
        seconds: stop earlier once this much time has passed; the cosine then follows the clock.
        spent: seconds that runs before this one have taken.
    """

    steps: int
    learning_rate: float
    warmup: int
    seconds: float = math.inf
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self.started

    def done(self, step: int) -> float:
        """The share of the training that is over before ``step``, 1 at the end."""
        return max(step / self.steps, self.elapsed() / self.seconds)

    def apply(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate for ``step``."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.done(step))))
        for group in optimiser.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (step + 1) / self.warmup) * (0.01 + 0.99 * cosine)


def descend(loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Take one clipped optimiser step. A gradient that is not finite ends the run at the next loss that is shown."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
