"""One network's update: clipped AdamW with a learning rate schedule, and the running average of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR

from .schedules import annealed


class NonFiniteError(ArithmeticError):
    """A loss or a gradient that is NaN or infinite. Nothing was updated with it."""


class Optimiser:
    """AdamW (arXiv:1711.05101) over ``parameters``.

    ``schedule``: ``constant``, ``linear`` or ``cosine``, after ``warmup_steps`` of rise, over ``total_steps``. The
    first of n updates of rise has 1/n of the rate, the last of them all of it.
    ``max_grad_norm`` 0 leaves gradients as they are.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
        total_steps: int,
        schedule: str = "constant",
        warmup_steps: int = 0,
    ) -> None:
        self.parameters = list(parameters)
        self._max_grad_norm = max_grad_norm or math.inf
        # Fused, where there are kernels for it: otherwise CUDA's updates hold one more fp32 copy of all weights.
        self._adamw = torch.optim.AdamW(
            self.parameters,
            lr=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            fused=True if all(parameter.is_cuda for parameter in self.parameters) else None,
        )

        def factor(update: int) -> float:
            if update < warmup_steps:
                return (update + 1) / warmup_steps
            return annealed(schedule, 1.0, 0.0, min(1.0, (update - warmup_steps) / max(1, total_steps - warmup_steps)))

        self._schedule = LambdaLR(self._adamw, factor)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self._schedule.get_last_lr()[0])

    def step(self) -> float:
        """Clip, update, advance the schedule, clear the gradients. Returns the gradient's norm before clipping.

        Raises ``NonFiniteError``, and updates nothing, where the norm is NaN or infinite.
        """
        norm = self.clip()
        if not math.isfinite(norm):
            self.clear()
            raise NonFiniteError(f"the gradient's norm is {norm}")
        self.apply()
        return norm

    def clip(self) -> float:
        """Scale the gradients down to the largest norm allowed. Returns the norm before that."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self._max_grad_norm))

    def apply(self) -> None:
        """Update, advance the schedule, clear the gradients."""
        self._adamw.step()
        self._schedule.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that later updates depend on, the weights apart: moments, on the CPU, and numbers as JSON."""
        moments = self._adamw.state_dict()["state"]
        tensors = {
            f"{index}.{name}": value.detach().to("cpu", copy=True)
            for index, values in moments.items()
            for name, value in values.items()
        }
        return tensors, {"updates": self._schedule.last_epoch}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave. The schedule is this object's own, which may be planned for more updates.

        Raises ``ValueError`` for moments of other parameters.
        """
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        for index, values in moments.items():
            if index >= len(self.parameters) or values["exp_avg"].shape != self.parameters[index].shape:
                raise ValueError(f"The optimiser's moments {index} are of another network.")
        self._adamw.load_state_dict({**self._adamw.state_dict(), "state": moments})
        self._schedule.last_epoch = int(numbers["updates"])
        rates = [
            rate * factor(self._schedule.last_epoch)
            for rate, factor in zip(self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self._adamw.param_groups, rates, strict=True):
            group["lr"] = rate
        self._schedule._last_lr = rates

    def forget(self) -> None:
        """Drop the moments of earlier gradients, which belong to weights that have been replaced."""
        self._adamw.state.clear()


class RunningAverage:
    """Exponential moving average of ``parameters``, in fp32.

    The decay rises as (1 + n) / (10 + n) up to ``decay``, so that a short run is not dominated by its start.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._updates = 0
        self._average = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights into the average."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew with the current weights."""
        for parameter, average in zip(self._parameters, self._average, strict=True):
            average.copy_(parameter)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights with their average; called twice, all is as before."""
        for parameter, average in zip(self._parameters, self._average, strict=True):
            current: Tensor = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(current)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that later averages depend on: the average itself, on the CPU, and numbers as JSON."""
        average = {str(index): tensor.to("cpu", copy=True) for index, tensor in enumerate(self._average)}
        return average, {"updates": self._updates}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from what ``state()`` gave."""
        for index, average in enumerate(self._average):
            average.copy_(tensors[str(index)])
        self._updates = int(numbers["updates"])
