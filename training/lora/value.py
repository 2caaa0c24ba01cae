"""The value on the FLUX_LORA wire: an adapter's tensors, its shape, its base and how it came to be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..base.base_model import BaseReference, empty_transformer
from ..base.families import Family, family_of
from ..config import LoRAConfig

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class LoRAError(ValueError):
    """An adapter that cannot be made, read, attached or saved. The message says where and what to do."""


@dataclass(frozen=True, eq=False)
class FluxLoRA:
    """A LoRA as a value: never mutated, so that a stage's result depends on its inputs alone.

    ``tensors``: on the CPU, fp32, ``<module>.lora_A.weight`` (rank, in) and ``<module>.lora_B.weight`` (out, rank),
    where ``<module>`` is the name in diffusers' transformer. The layer's weight changes by
    ``lora_B @ lora_A * alpha / rank``. ``provenance``: one JSON-able dict for each stage, oldest first. ``file``: the
    name, without folders and suffix, of the file that it was read from; empty where it was trained since or made new.

    Raises ``LoRAError`` for a tensor without its partner and for one whose rank is not the configuration's.
    """

    base: BaseReference
    config: LoRAConfig
    tensors: Mapping[str, Tensor]
    provenance: tuple[dict[str, Any], ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        rank = self.config.rank
        for module in module_names(self.tensors):
            for suffix, axis in ((DOWN, 0), (UP, 1)):
                tensor = self.tensors.get(module + suffix)
                if tensor is None:
                    raise LoRAError(f"The LoRA has no {module + suffix}. A layer needs both of its tensors.")
                if tensor.ndim != 2 or tensor.shape[axis] != rank:
                    raise LoRAError(f"{module + suffix} is {tuple(tensor.shape)}, which is not of rank {rank}.")
                if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                    raise LoRAError(f"{module + suffix} is {tensor.dtype} on {tensor.device}, not fp32 on the CPU.")


def at_strength(tensors: Mapping[str, Tensor], strength: float) -> Mapping[str, Tensor]:
    """The tensors of a LoRA that changes each weight by ``strength`` times as much."""
    if strength == 1:
        return tensors
    return {key: tensor * strength if key.endswith(UP) else tensor for key, tensor in tensors.items()}


def module_names(keys: Iterable[str]) -> list[str]:
    """The adapted modules, in order of first appearance. Raises ``LoRAError`` for a key that names no LoRA tensor."""
    names = {}
    for key in keys:
        module, mark, part = key.rpartition(".lora_")
        if not mark or f".lora_{part}" not in (DOWN, UP):
            raise LoRAError(f"{key} is no LoRA tensor: it ends neither in {DOWN} nor in {UP}.")
        names[module] = None
    return list(names)


def fresh_down(module: str, seed: int, rank: int, size_in: int) -> Tensor:
    """A new adapter's A for a layer, (rank, size_in): Kaiming-uniform with a = sqrt(5), as in PEFT.

    It depends on ``seed`` and the layer's name alone.
    """
    digest = hashlib.blake2b(f"{seed}/{module}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    down = torch.empty(rank, size_in)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
    return down


def base_family(reference: BaseReference) -> Family:
    """Of the base's transformer, by its headers. Raises ``BaseModelError`` where the base is missing or of none."""
    return family_of(reference.config)


def base_layers(reference: BaseReference) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear layer of the base, by name; reads headers, not weights.

    Raises ``BaseModelError`` where the base is missing or of no family.
    """
    return linear_shapes(empty_transformer(reference.config))


def linear_shapes(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear layer of a transformer, by name; an adapted layer counts as what lies beneath."""
    adapted = {name: m.get_base_layer() for name, m in transformer.named_modules() if isinstance(m, BaseTunerLayer)}
    inside = tuple(f"{name}." for name in adapted)
    plain = {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    }
    return {name: (layer.out_features, layer.in_features) for name, layer in (plain | adapted).items()}


def target_layers(layers: Iterable[str], config: LoRAConfig, family: Family) -> list[str]:
    """Those of ``layers`` that the configuration's targets name. Raises ``LoRAError`` where there are none."""
    layers = list(layers)
    pattern = family.target_pattern(config.targets, config.target_regex)
    names = [name for name in layers if pattern.fullmatch(name)]
    if not names:
        examples = [name for name in layers if "transformer_blocks" in name]
        raise LoRAError(
            f"No linear layer of the base has a name that matches {pattern.pattern!r} entirely. The names are such as "
            f"{', '.join(examples[:1] + examples[-2:])}."
        )
    return names


def check_fit(tensors: Mapping[str, Tensor], layers: Mapping[str, tuple[int, int]], base: str) -> None:
    """Raises ``LoRAError`` for a tensor whose module ``layers`` lacks, or whose shape is not of that module.

    ``layers``: (out, in) by name, as of ``linear_shapes``. ``base``: the base's name, for the message.
    """
    for module in module_names(tensors):
        if module not in layers:
            raise LoRAError(
                f"{base} has no linear layer {module}, which the LoRA adapts (key {module + DOWN}). It was made for "
                "another model; choose the base that it was trained on."
            )
        size_out, size_in = layers[module]
        for suffix, axis, size in ((DOWN, 1, size_in), (UP, 0, size_out)):
            tensor = tensors.get(module + suffix)
            if tensor is not None and (tensor.ndim != 2 or tensor.shape[axis] != size):
                expected = f"(rank, {size_in})" if suffix == DOWN else f"({size_out}, rank)"
                raise LoRAError(
                    f"{module + suffix} is {tuple(tensor.shape)}, but {base} needs {expected} there: its layer is "
                    f"{size_in} -> {size_out}. The LoRA was made for another model; choose the base that it was "
                    "trained on."
                )
