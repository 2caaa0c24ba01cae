"""Inputs of a node, made from the fields of a configuration: range, default and tooltip live there alone."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from comfy_api.latest import io

from ..training.config import SAMPLERS, Config
from ..training.lora.sampling_advice import TRAINED_SAMPLER
from ..training.step_counts import step_counts

ConfigType = TypeVar("ConfigType", bound=Config)


def supported(accepts: Callable[..., Any], **fields: Any) -> dict[str, Any]:
    """Those of ``fields`` that the running host's ``accepts`` has a parameter for.

    Schema fields younger than the oldest supported host make that host raise, and the whole pack disappears.
    """
    known = inspect.signature(accepts).parameters
    return {name: value for name, value in fields.items() if name in known}


def widget(field: dataclasses.Field) -> io.Input:
    """The input for one option of a configuration."""
    metadata = field.metadata
    common: dict[str, Any] = {"default": field.default, "tooltip": metadata["help"]}
    if metadata["choices"] is not None:
        return _make(io.Combo.Input, field, common, options=list(metadata["choices"]))
    if isinstance(field.default, bool):
        return _make(io.Boolean.Input, field, common)
    if isinstance(field.default, str):
        return _make(io.String.Input, field, common, **({"multiline": True} if metadata["lines"] else {}))
    common |= {"min": metadata["low"], "max": metadata["high"]}
    if isinstance(field.default, float):
        # Without round=False the page rounds a learning rate of 1e-5 to zero.
        return _make(io.Float.Input, field, common, step=metadata["step"] or 0.01, round=False)
    if field.name == "seed":
        # A control widget would take one more place among a saved graph's values, on some hosts only, and a
        # seed that changes by itself would train again at every queue.
        return _make(io.Int.Input, field, common, control_after_generate=False)
    return _make(io.Int.Input, field, common, step=int(metadata["step"] or 1))


def _make(kind: type[io.Input], field: dataclasses.Field, common: dict[str, Any], **own: Any) -> io.Input:
    advanced = supported(kind, advanced=True) if field.metadata["advanced"] else {}
    return kind(field.name, **common, **own, **advanced)


def widgets(config: type[Config], first: Iterable[str] = ()) -> list[io.Input]:
    """One input for every field of ``config``: those named in ``first``, then the others in order of declaration.

    Saved graphs hold values by position. So ``first`` names what a released version had, in the order it had then;
    options that are new since come after them, advanced or not.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    leading = [fields.pop(name) for name in first]
    return [widget(field) for field in [*leading, *fields.values()]]


def configuration(config: type[ConfigType], values: Mapping[str, Any]) -> ConfigType:
    """The configuration that a node's widgets hold. ``values`` may have keys that are none of its fields.

    Raises ``ValueError`` for a value out of range, which can only come in through a wire.
    """
    return config(**{field.name: values[field.name] for field in dataclasses.fields(config) if field.name in values})


def sampler_input() -> io.Input:
    """The sampler of a node that samples with LoRAs, by the host's names."""
    return io.Combo.Input(
        "sampler",
        options=list(SAMPLERS),
        default=TRAINED_SAMPLER,
        tooltip="The sampler, by the host's name. A LoRA of stage 2 is trained for euler; one of stage 1 for any. heun "
        "takes two evaluations a step. Levels are those of scheduler simple with ModelSamplingFlux for the size.",
    )


def step_counts_problem(text: str, where: str) -> bool | str:
    """What ``validate_inputs`` answers about numbers of sampling steps: ``True``, or what is wrong with them."""
    try:
        step_counts(text, where)
    except ValueError as error:
        return str(error)
    return True
