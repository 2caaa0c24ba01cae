"""What frozen layers gave in one call of a block, handed out where the backward pass computes that call anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class KeptOutputs:
    """Of one call of a block: the outputs of ``layers``, frozen ones that the block calls once each.

    ``complete``: all are there. An output that needs a gradient is not kept: it would be that of another graph.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._outputs: dict[nn.Module, Tensor] = {}
        self._calls = 0

    @property
    def complete(self) -> bool:
        return self._calls == len(self._layers) == len(self._outputs)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Within it the call is made."""
        hooks = [layer.register_forward_hook(self._note) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def handing_out(self) -> Iterator[None]:
        """Within it the layers give what they gave, and compute nothing. Only where that is ``complete``."""
        for layer in self._layers:
            layer.forward = lambda _, kept=self._outputs[layer]: kept
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.forward

    def _note(self, layer: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        self._calls += 1
        if not output.requires_grad:
            self._outputs[layer] = output
