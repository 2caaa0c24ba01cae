"""The weights of any FLUX transformer that people have, one at a time, decoded, by diffusers' names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .checkpoint_files import is_single_file, read_transformer_config, weight_files
from .decoding import Shape
from .errors import BaseModelError
from .families import family_of
from .families.modules import Module
from .int8 import Int8Weight
from .layouts import FileLayout, Layer, folder_layout, single_file_layout
from .tensor_files import Entry, opened

# Read before, or of no meaning for the weight.
_NOTES = ("input_scale", "comfy_quant", "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
_DAMAGED = "Download it again, or choose another file."


def read_weights(path: str, device: torch.device | str) -> Iterator[tuple[str, Tensor | Int8Weight]]:
    """The weights of the transformer at ``path``: a file, a diffusers folder, or ``TINY_BASE``.

    Names and shapes are those of the ``state_dict()`` of diffusers' class, in the order in which the modules run. Each
    tensor is moved to ``device`` as it lies in the file and decoded there: floating point of 16 bits or more, or
    ``Int8Weight`` where the file has int8. Those of one tensor of the file (queries, keys, values) share its memory; a
    tensor that needs no decoding may be mapped from the file where ``device`` is the CPU.

    Raises ``BaseModelError``, with file and key, before the first weight for what the header shows to be missing, of a
    wrong shape or in an unknown format, and at the weight where what it holds is not finite.
    """
    layout, found = _checked(path)
    with opened(layout.header) as take:
        for module, layer in found:
            yield from _weights(layout, module, layer, take, torch.device(device))


def check_weights(path: str) -> None:
    """Raises ``BaseModelError``, with file and key, where ``read_weights`` would without reading a weight."""
    _checked(path)


def whole_config(path: str) -> dict[str, Any]:
    """``read_transformer_config``, with diffusers' own defaults for what it leaves out."""
    config = read_transformer_config(path)
    defaults = inspect.signature(family_of(config).transformer_class().__init__).parameters
    return {
        name: parameter.default for name, parameter in defaults.items() if parameter.default is not parameter.empty
    } | config


def weights_layout(path: str) -> FileLayout:
    """What lies at ``path``. Raises ``BaseModelError`` where it is missing, damaged or of no family."""
    files = weight_files(path)
    return single_file_layout(files[0]) if is_single_file(path) else folder_layout(files)


def _checked(path: str) -> tuple[FileLayout, list[tuple[Module, Layer]]]:
    layout = weights_layout(path)
    config = whole_config(path)
    modules = family_of(config).modules(config, layout.naming)
    found = [(module, layout.layer(module.name)) for module in modules]
    for module, layer in found:
        _check(layout, module, layer)
    return layout, found


def _check(layout: FileLayout, module: Module, layer: Layer) -> None:
    """Raises ``BaseModelError`` where the header says that this module cannot be read."""
    ends = ("weight", "bias") if module.bias else ("weight",)
    for end in ends:
        if end not in layer.keys:
            raise BaseModelError(
                f"{layout.name}: key {layout.prefix}{module.name}.{end} is missing. Is it complete? {_DAMAGED}"
            )
    form, settings = layer.format, layer.settings
    key, entry = _entry(layout, layer, "weight")
    if entry.dtype not in form.dtypes:
        raise BaseModelError(
            f"{layout.name}: key {key} is of type {entry.dtype}, but noted as {form.words}. {_DAMAGED}"
        )
    if form.logical(entry.shape, settings) != module.shape:
        raise BaseModelError(
            f"{layout.name}: key {key} has the shape {list(entry.shape)}, which does not fit "
            f"{list(module.shape)}. {_DAMAGED}"
        )
    fault = form.fault(module.shape, settings)
    if fault is not None:
        raise BaseModelError(f"{layout.name}: key {key} {fault}. {_DAMAGED}")
    for end, companion in (form.needed | form.welcome).items():
        if end in layer.keys:
            _check_companion(layout, layer, end, companion.dtypes, companion.shapes(module.shape, settings))
        elif end in form.needed:
            raise BaseModelError(
                f"{layout.name}: key {layout.prefix}{module.name}.{end} is missing, without which {form.words} cannot "
                f"be decoded. {_DAMAGED}"
            )
    if module.bias:
        _check_companion(layout, layer, "bias", layout.plain_format(layer.keys["bias"]).dtypes, (module.shape[:1],))
    known = {*ends, *form.needed, *form.welcome, *_NOTES}
    odd = next((key for end, key in layer.keys.items() if end not in known), None)
    if odd is not None:
        raise BaseModelError(
            f"{layout.name}: key {odd} changes what {key} means in a way that FluxDuel does not know. Choose another "
            "file of the same model."
        )


def _check_companion(
    layout: FileLayout, layer: Layer, end: str, dtypes: tuple[str, ...], shapes: tuple[Shape, ...]
) -> None:
    key, entry = _entry(layout, layer, end)
    if entry.dtype not in dtypes:
        raise BaseModelError(
            f"{layout.name}: key {key} is of type {entry.dtype}, not {' or '.join(dtypes)}. {_DAMAGED}"
        )
    if entry.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise BaseModelError(f"{layout.name}: key {key} has the shape {list(entry.shape)}, not {wanted}. {_DAMAGED}")


def _entry(layout: FileLayout, layer: Layer, end: str) -> tuple[str, Entry]:
    return layer.keys[end], layout.header.entries[layer.keys[end]]


def _weights(
    layout: FileLayout, module: Module, layer: Layer, take: Callable[[str], Tensor], device: torch.device
) -> Iterator[tuple[str, Tensor | Int8Weight]]:
    form = layer.format
    ends = [end for end in ("weight", *form.needed, *form.welcome) if end in layer.keys]
    tensors = {end: take(layer.keys[end]).to(device) for end in ends}
    whole = form.decode(tensors, module.shape, layer.settings)
    _refuse_infinite(layout, layer.keys["weight"], whole)
    for part in module.parts:
        yield f"{part.name}.weight", _rows(whole, part.rows)
    if module.bias:
        bias = _bias(layout, layer, take, device)
        for part in module.parts:
            yield f"{part.name}.bias", _rows(bias, part.rows)


def _bias(layout: FileLayout, layer: Layer, take: Callable[[str], Tensor], device: torch.device) -> Tensor:
    key, entry = _entry(layout, layer, "bias")
    form = layout.plain_format(key)
    bias = form.decode({"weight": take(key).to(device)}, entry.shape, {})
    _refuse_infinite(layout, key, bias)
    return bias


def _rows(whole: Tensor | Int8Weight, rows: tuple[tuple[int, int], ...]) -> Tensor | Int8Weight:
    if isinstance(whole, Int8Weight):
        return Int8Weight(_rows(whole.values, rows), _rows(whole.scales, rows), whole.group)
    pieces = [whole[start:end] for start, end in rows]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _refuse_infinite(layout: FileLayout, key: str, weight: Tensor | Int8Weight) -> None:
    values = weight.scales if isinstance(weight, Int8Weight) else weight
    # A sum is finite where all that it is made of is: one pass, without a copy. Only in fp16 it may run over.
    if not values.sum(dtype=torch.float32 if values.dtype == torch.float16 else None).isfinite():
        raise BaseModelError(f"{layout.name}: key {key} holds values, or scales, that are not finite. {_DAMAGED}")
