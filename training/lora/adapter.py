"""The adapter: made new, attached to a base, read back from it; and its files (``files``, ``importing``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from ..base.base_model import BaseReference, FluxBase
from ..config import LoRAConfig
from .files import file_tensors, save
from .importing import load_file
from .value import (
    DOWN,
    UP,
    FluxLoRA,
    LoRAError,
    base_family,
    base_layers,
    check_fit,
    fresh_down,
    linear_shapes,
    module_names,
    target_layers,
)

__all__ = [
    "FluxLoRA",
    "LoRAError",
    "attach",
    "create",
    "file_tensors",
    "load_file",
    "parameters",
    "restore",
    "save",
    "snapshot",
]

ADAPTER = "default"


def create(reference: BaseReference, config: LoRAConfig) -> FluxLoRA:
    """A new adapter that changes nothing yet: A is Kaiming-uniform with a = sqrt(5), B is zero (as in PEFT).

    Each layer's A depends on ``config.seed`` and the layer's name alone, so adapters with more or fewer targets
    agree on what they share. Reads the base's headers, not its weights.

    Raises ``LoRAError`` where no layer matches, ``BaseModelError`` where the base is missing or of no family.
    """
    layers = base_layers(reference)
    tensors = {}
    for name in target_layers(layers, config, base_family(reference)):
        size_out, size_in = layers[name]
        tensors[name + DOWN] = fresh_down(name, config.seed, config.rank, size_in)
        tensors[name + UP] = torch.zeros(size_out, config.rank)
    return FluxLoRA(reference, config, tensors)


def attach(base: FluxBase, lora: FluxLoRA) -> None:
    """Put ``lora`` on ``base``, trainable, in place of an adapter that may be there.

    The weights are kept, and their gradients collected, in fp32; each layer computes in the type of the base's
    activations, so that a base in bf16 keeps none of them in fp32.

    The value is copied: training the base leaves ``lora`` as it is. Draws nothing from the global random state.

    Raises ``LoRAError``, and leaves the base as it was, where the adapter does not fit it.
    """
    check_fit(lora.tensors, linear_shapes(base.transformer), base.reference.name)
    names = module_names(lora.tensors)
    if not names:
        raise LoRAError("The LoRA adapts no layer. Make it anew with targets that the base has.")
    base.remove_adapter()
    config = LoraConfig(
        r=lora.config.rank,
        lora_alpha=lora.config.alpha,
        # As an expression, for PEFT matches a list of names by their ends too.
        target_modules="|".join(re.escape(name) for name in names),
        lora_dropout=0.0,
        bias="none",
    )
    # On the meta device: the weights come from the value, and initial ones would be drawn from the global generator.
    inject_adapter_in_model(config, base.transformer, ADAPTER, low_cpu_mem_usage=True)
    for name, layer in _lora_layers(base):
        # PEFT would copy each layer's input to the factors' fp32, once for each of q, k and v.
        layer.cast_input_dtype_enabled = False
        device = layer.get_base_layer().weight.device
        for part, suffix in ((layer.lora_A, DOWN), (layer.lora_B, UP)):
            weight = lora.tensors[name + suffix].detach().to(device=device, dtype=torch.float32, copy=True)
            part[ADAPTER] = _Factor(weight)
    base.transformer.eval()
    base.find_adapter()


class _Factor(nn.Linear):
    """One of a layer's two matrices: kept in fp32, multiplied in the type of its input."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))


def snapshot(base: FluxBase) -> dict[str, Tensor]:
    """The attached adapter's tensors, copied to the CPU; names and shapes as in ``FluxLoRA.tensors``."""
    return {key: weight.detach().to("cpu", copy=True) for key, weight in _weights(base).items()}


def restore(base: FluxBase, tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors``, as ``snapshot`` gave them, into the attached adapter. The parameters stay the same objects.

    Raises ``LoRAError``, before anything is written, where names or shapes differ from the attached adapter's.
    """
    weights = _weights(base)
    differing = sorted(weights.keys() ^ tensors.keys())
    if differing:
        raise LoRAError(f"The tensors are not of the attached LoRA: {differing[0]} is only on one side.")
    for key, weight in weights.items():
        if weight.shape != tensors[key].shape:
            raise LoRAError(f"{key} is {tuple(tensors[key].shape)}, the attached LoRA has {tuple(weight.shape)}.")
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(tensors[key])


def beside(base: FluxBase, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, named as ``snapshot`` names them, where the attached adapter's weights are: for ``replaced``."""
    return {key: tensors[key].detach().to(weight) for key, weight in _weights(base).items()}


@contextmanager
def replaced(base: FluxBase, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The base computes with ``tensors``, which ``beside`` gave, in the place of the attached adapter's weights.

    For passes without a gradient. What an earlier pass has kept for its backward pass stays as it is.
    """
    weights = _weights(base)
    before = {key: weight.data for key, weight in weights.items()}
    for key, weight in weights.items():
        weight.data = tensors[key]
    try:
        yield
    finally:
        for key, weight in weights.items():
            weight.data = before[key]


def parameters(base: FluxBase) -> list[nn.Parameter]:
    """The attached adapter's parameters, all of which are trainable, in the order of ``snapshot``."""
    return list(_weights(base).values())


def _weights(base: FluxBase) -> dict[str, nn.Parameter]:
    weights = {}
    for name, layer in _lora_layers(base):
        weights[name + DOWN] = layer.lora_A[ADAPTER].weight
        weights[name + UP] = layer.lora_B[ADAPTER].weight
    if not weights:
        raise LoRAError("No LoRA is attached to the base.")
    return weights


def _lora_layers(base: FluxBase) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in base.transformer.named_modules() if isinstance(module, LoraLayer)]
