"""Inputs of a node, made from the fields of a configuration: range, default and tooltip live there alone."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from comfy_api.latest import io

from ..training.config import Config

ConfigType = TypeVar("ConfigType", bound=Config)


def supported(accepts: Callable[..., Any], **fields: Any) -> dict[str, Any]:
    """Those of ``fields`` that the running host's ``accepts`` has a parameter for.

    Schema fields younger than the oldest supported host make that host raise, and the whole pack disappears.
    """
    known = inspect.signature(accepts).parameters
    return {name: value for name, value in fields.items() if name in known}


def widget(field: dataclasses.Field, *, folded: bool = False, optional: bool = False) -> io.Input:
    """The input for one option of a configuration. ``folded``: hidden until the user asks for all of a node's."""
    metadata = field.metadata
    # Optional, so that a graph for the API says what differs, and one of an earlier version still has all it needs.
    common: dict[str, Any] = {"default": field.default, "tooltip": metadata["help"], "optional": optional}
    if metadata["choices"] is not None:
        return _make(io.Combo.Input, field, common, folded, options=list(metadata["choices"]))
    if isinstance(field.default, bool):
        return _make(io.Boolean.Input, field, common, folded)
    if isinstance(field.default, str):
        return _make(io.String.Input, field, common, folded, **({"multiline": True} if metadata["lines"] else {}))
    common |= {"min": metadata["low"], "max": metadata["high"]}
    if isinstance(field.default, float):
        # Without round=False the page rounds a learning rate of 1e-5 to zero.
        return _make(io.Float.Input, field, common, folded, step=metadata["step"] or 0.01, round=False)
    if field.name == "seed":
        # A control widget would take one more place among a saved graph's values, on some hosts only, and a
        # seed that changes by itself would train again at every queue.
        return _make(io.Int.Input, field, common, folded, control_after_generate=False)
    return _make(io.Int.Input, field, common, folded, step=int(metadata["step"] or 1))


def _make(kind: type[io.Input], field: dataclasses.Field, common: dict[str, Any], folded: bool, **own: Any) -> io.Input:
    return folded_input(kind, field.name, **common, **own) if folded else kind(field.name, **common, **own)


def folded_input(kind: type[io.Input], name: str, **fields: Any) -> io.Input:
    """An input that is hidden until the user asks for all of its node's."""
    made = kind(name, **fields, **supported(kind, advanced=True))
    # What hosts older than the field hand to the page as it is.
    made.extra_dict = {**made.extra_dict, "advanced": True}
    return made


def widgets(
    config: type[Config], names: Iterable[str], folded: Collection[str] = (), *, optional: bool = False
) -> list[io.Input]:
    """One input for each of the options ``names`` of ``config``, in this order, those in ``folded`` hidden at first.

    Saved graphs hold values by position: what is new on a node comes after all that a released version had. Hosts put
    inputs that are ``optional`` after those that are not, so that a node's widgets are all of one sort.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    return [widget(fields[name], folded=name in folded, optional=optional) for name in names]


def configuration(config: type[ConfigType], values: Mapping[str, Any]) -> ConfigType:
    """The configuration that a node's widgets hold. ``values`` may have keys that are none of its fields.

    Raises ``ValueError`` for a value out of range, which can only come in through a wire.
    """
    return config(**{field.name: values[field.name] for field in dataclasses.fields(config) if field.name in values})
