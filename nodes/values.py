"""Values from the host's wires, made fit for autograd."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..training.config import DiscriminatorConfig

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, eq=False)
class DiscriminatorValue:
    """The value on the DISCRIMINATOR wire: settings, and the weights to go on with where it is no new one.

    ``source``: the file of the weights as the host lists it, for messages.
    """

    config: DiscriminatorConfig
    weights: Mapping[str, Tensor] | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True)
class OptionsValue:
    """The value on the OPTIONS wire: options of a stage by name, from the option nodes that it came through."""

    values: Mapping[str, Any]

    @staticmethod
    def joined(before: OptionsValue | None, own: Mapping[str, Any]) -> OptionsValue:
        """``before`` with ``own`` added, which wins."""
        return OptionsValue({**(before.values if before else {}), **own})


def owned(value: Value) -> Value:
    """``value`` with every inference tensor inside it replaced by a clone that autograd accepts.

    The host runs nodes in inference mode, and a tensor made there can never be saved for a backward pass. Looks into
    dataclasses, tuples, lists and mappings; must be called outside inference mode.
    """
    if isinstance(value, Tensor):
        return value.detach().clone() if value.is_inference() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _rebuilt(value)
    if isinstance(value, Mapping):
        return {key: owned(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(owned(item) for item in value)
    return value


def _rebuilt(value: Value) -> Value:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    changed = {name: owned(item) for name, item in fields.items() if _has_inference_tensor(item)}
    return dataclasses.replace(value, **changed) if changed else value


def _has_inference_tensor(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.is_inference()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(_has_inference_tensor(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return any(_has_inference_tensor(item) for item in value.values())
    if isinstance(value, tuple | list):
        return any(_has_inference_tensor(item) for item in value)
    return False


def outside_inference_mode() -> torch.inference_mode:
    """A context in which new tensors can be trained with."""
    return torch.inference_mode(False)
