"""Files as the libraries write them whose formats they are in: decoded to what those libraries make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxduel.tests.written_layouts import State, Written, as_original, note, quantisable, random_state, save
from fluxduel.training.base.int8 import Int8Weight, dequantised
from fluxduel.training.base.weights import read_weights

Encoded = tuple[State, Tensor]


def kitchen(layout: str, words: dict[str, object], **settings: object) -> Callable[[Tensor], Encoded]:
    """How comfy-kitchen encodes, and what it decodes that to, by its layout of this name."""
    tensor = pytest.importorskip("comfy_kitchen.tensor")

    def encode(weight: Tensor) -> Encoded:
        made = tensor.QuantizedTensor.from_float(weight, layout, **settings)
        tensors = {key.removeprefix("."): each for key, each in made.state_dict("weight").items()}
        return tensors | {"comfy_quant": note(**words)}, made.dequantize()

    return encode


def bitsandbytes(nested: bool) -> Callable[[Tensor], Encoded]:
    functional = pytest.importorskip("bitsandbytes.functional")

    def encode(weight: Tensor) -> Encoded:
        values, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
        # Their tables are one tensor for all layers.
        beside = {f"weight.{end}": each.clone() for end, each in state.as_dict(packed=True).items()}
        return {"weight": values, **beside}, functional.dequantize_4bit(values, state)

    return encode


ROTATED = {"convrot": True, "convrot_groupsize": 256}
LIBRARIES: dict[str, tuple[Callable[[], Callable[[Tensor], Encoded]], float]] = {
    "nvfp4": (lambda: kitchen("TensorCoreNVFP4Layout", {"format": "nvfp4"}), 0.0),
    "mxfp8": (lambda: kitchen("TensorCoreMXFP8Layout", {"format": "mxfp8"}), 0.0),
    "fp8": (lambda: kitchen("TensorCoreFP8Layout", {"format": "float8_e4m3fn"}), 0.0),
    "int8": (lambda: kitchen("TensorWiseINT8Layout", {"format": "int8_tensorwise"}), 0.0),
    "int8 rows": (lambda: kitchen("TensorWiseINT8Layout", {"format": "int8_tensorwise"}, per_channel=True), 0.0),
    "int8 convrot": (
        lambda: kitchen("TensorWiseINT8Layout", {"format": "int8_tensorwise", **ROTATED}, per_channel=True, **ROTATED),
        1e-6,
    ),
    "convrot_w4a4": (
        lambda: kitchen("TensorCoreConvRotW4A4Layout", {"format": "convrot_w4a4", "convrot_groupsize": 256}),
        1e-6,
    ),
    "bitsandbytes nf4": (lambda: bitsandbytes(False), 0.0),
    "bitsandbytes nf4, nested": (lambda: bitsandbytes(True), 1e-6),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_a_library_wrote_is_what_it_reads(tmp_path: Path, name: str) -> None:
    library, tolerance = LIBRARIES[name]
    encode = library()
    state = random_state()
    tensors, weights = {}, {}
    for key, weight in state.items():
        made, meant = encode(weight) if quantisable(key) else ({"": weight}, weight)
        tensors |= {(key.removesuffix("weight") + end if end else key): each for end, each in made.items()}
        weights[key] = meant
    path = save(Written(tensors, weights), tmp_path / "flux.safetensors")
    found = {
        key: dequantised(each, torch.float32) if isinstance(each, Int8Weight) else each
        for key, each in read_weights(str(path), "cpu")
    }
    for key, each in as_original(found).items():
        assert torch.allclose(each.float(), weights[key].float(), rtol=0, atol=tolerance), key
