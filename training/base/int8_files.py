"""A base written as ComfyUI's own int8 file: half the size of bf16, read without decoding, and read by the host too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..atomic_file import appearing, check_space, make_folder
from .errors import BaseModelError
from .families import family_of
from .families.modules import ORIGINAL, Module
from .families.shapes import HEAD
from .formats import PRECISIONS, Precision, brought_into
from .int8 import Int8Weight
from .variants import variant
from .weights import check_weights, read_weights, whole_config

SUFFIX = ".safetensors"

_NAMES = {torch.int8: "I8", torch.uint8: "U8", torch.float32: "F32", torch.bfloat16: "BF16"}
# Of an entry in the header besides its key: type, shape and two places in the file.
_ENTRY = 120
# Places of tensors are multiples of it, as readers that map the file want them.
_ALIGNMENT = 8


def write_int8(
    path: str,
    output: Path,
    precision: str,
    device: torch.device | str,
    after_module: Callable[[int, int], None],
) -> None:
    """Write the base at ``path`` to ``output`` in ``precision``, ``int8`` or ``int8_convrot``, module by module.

    Names are black-forest-labs'; layers are noted as ComfyUI notes them (``int8_tensorwise``), all else is bf16. What
    is read of the file is what ``load_base`` would make of ``path`` on ``device``, where it is computed, bit for bit.
    ``after_module`` is called with how many modules are done, and of how many.

    Raises ``BaseModelError`` for a base that cannot be read, ``ValueError`` where ``output`` is there already or is no
    .safetensors, ``OSError`` where the disk has no room; then nothing is written.
    """
    if output.suffix != SUFFIX:
        raise ValueError(f"{output}: the file has to end in {SUFFIX}.")
    if output.exists():
        raise ValueError(f"{output} is there already. Name another file, or remove that one.")
    config = whole_config(path)
    family = family_of(config)
    if (config["in_channels"], config["attention_head_dim"]) != (family.space.channels * family.space.patch**2, HEAD):
        raise BaseModelError(
            f"{path} has not the sizes of {family.name}, and ComfyUI reads no file of its kind. A base as small as "
            "that needs none: name it to train as it is (base.checkpoint). Give --base the file of a FLUX."
        )
    check_weights(path)
    wanted = list(family.modules(config, ORIGINAL))
    make_folder(output.parent)
    check_space(output.parent, sum(_most_bytes(module) for module in wanted))
    form = PRECISIONS[precision]
    with appearing(output) as stream:
        file = _Writer(stream, sum(4 * (len(module.name) + len(".weight_scale") + _ENTRY) for module in wanted))
        read = read_weights(path, device)
        for done, module in enumerate(wanted, 1):
            for key, tensor in _tensors(module, read, form):
                file.add(key, tensor)
            after_module(done, len(wanted))
        # Its notes tell Krea and Kontext from dev where the file is renamed.
        title = f"{family.name} {variant(path)}"
        file.finish({"modelspec.title": title, "modelspec.architecture": family.architecture})


def _most_bytes(module: Module) -> int:
    values = prod(module.shape)
    return (values if "blocks." in module.name else 2 * values) + 16 * module.shape[0] + 4096


def _tensors(
    module: Module, read: Iterator[tuple[str, Tensor | Int8Weight]], precision: Precision
) -> Iterator[tuple[str, Tensor]]:
    """What the file holds of this module, from the next weights of ``read``."""
    found: dict[str, Tensor | Int8Weight] = {}
    while len(found) < len(module.parts) * (2 if module.bias else 1):
        name, weight = next(read)
        found[name] = brought_into(precision, name, weight)
    weight = _whole(module, found, "weight")
    if isinstance(weight, Int8Weight):
        yield f"{module.name}.weight", weight.values
        yield f"{module.name}.weight_scale", weight.scales[:, None]
        yield f"{module.name}.comfy_quant", _note(weight.group)
    else:
        yield f"{module.name}.{'scale' if module.is_norm else 'weight'}", weight
    if module.bias:
        yield f"{module.name}.bias", _whole(module, found, "bias")


def _whole(module: Module, found: Mapping[str, Tensor | Int8Weight], end: str) -> Tensor | Int8Weight:
    """The rows of all parts at their places in the file's tensor."""
    parts = [found[f"{part.name}.{end}"] for part in module.parts]
    first = parts[0]
    if isinstance(first, Int8Weight):
        values, scales = (_joined(module, [getattr(each, name) for each in parts]) for name in ("values", "scales"))
        return Int8Weight(values, scales, first.group)
    return _joined(module, parts)


def _joined(module: Module, parts: list[Tensor]) -> Tensor:
    whole = parts[0].new_empty(module.shape[0], *parts[0].shape[1:])
    for part, tensor in zip(module.parts, parts, strict=True):
        for (start, end), rows in zip(part.rows, tensor.split([end - start for start, end in part.rows]), strict=True):
            whole[start:end] = rows
    return whole


def _note(group: int) -> Tensor:
    words: dict[str, Any] = {"format": "int8_tensorwise"}
    words |= {"convrot": True, "convrot_groupsize": group} if group else {}
    text = json.dumps(words).encode()
    return torch.tensor(list(text + b" " * (-len(text) % _ALIGNMENT)), dtype=torch.uint8)


class _Writer:
    """A safetensors file, tensor by tensor: room for the header is left at its beginning, and filled in the end."""

    def __init__(self, stream: BinaryIO, room: int) -> None:
        self._stream = stream
        self._room = room + -room % _ALIGNMENT
        self._entries: dict[str, Any] = {}
        self._end = 0
        stream.seek(8 + self._room)

    def add(self, key: str, tensor: Tensor) -> None:
        """Append it."""
        content = tensor.contiguous().cpu().view(torch.uint8).numpy()
        start, self._end = self._end, self._end + content.nbytes
        self._entries[key] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, self._end],
        }  # fmt: skip
        self._stream.write(content)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header. Spaces at its end are a part of it."""
        text = json.dumps({"__metadata__": dict(metadata)} | self._entries).encode()
        self._stream.seek(0)
        self._stream.write(self._room.to_bytes(8, "little") + text.ljust(self._room))
