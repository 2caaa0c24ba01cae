"""GGUF files of FLUX.1: read, decoded as their own package does, and refused in words where they cannot be."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxduel.tests.written_layouts import CONFIG, WIDTH, as_original, quantisable, random_state
from fluxduel.training.base.checkpoint_files import BaseModelError, is_single_file, read_transformer_config
from fluxduel.training.base.layouts import single_file_layout
from fluxduel.training.base.variants import variant
from fluxduel.training.base.weights import read_weights


@pytest.fixture
def gguf() -> Any:
    return pytest.importorskip("gguf")


def write(
    gguf: Any,
    path: Path,
    state: dict[str, Tensor],
    kind: str,
    prefix: str = "",
    name: str = "",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """As ComfyUI-GGUF's converter does: linear layers of blocks quantised, the rest in F32 or BF16."""
    writer = gguf.GGUFWriter(path, "flux")
    if name:
        writer.add_name(name)
    for key, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{key}", shape)
    for key, tensor in state.items():
        chosen = kind if quantisable(key) else "F32" if tensor.ndim == 1 else "BF16"
        type_of = gguf.GGMLQuantizationType[chosen]
        data = tensor.numpy().astype(np.int8) if chosen == "I8" else gguf.quants.quantize(tensor.numpy(), type_of)
        writer.add_tensor(prefix + key, data, raw_dtype=type_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in read_weights(str(path), "cpu")}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize(
    ("kind", "accuracy"),
    [("F16", 4e-4), ("BF16", 4e-3), ("Q8_0", 6e-3), ("Q5_1", 0.05), ("Q5_0", 0.05), ("Q4_1", 0.09), ("Q4_0", 0.1)],
)
def test_each_weight_is_what_the_package_makes_of_it(
    gguf: Any, tmp_path: Path, kind: str, accuracy: float, prefix: str
) -> None:
    state = random_state()
    path = write(gguf, tmp_path / "flux.gguf", state, kind, prefix)
    assert is_single_file(str(path)) and single_file_layout(path).kind == f"GGUF {kind}"
    assert read_transformer_config(str(path)) == CONFIG
    original = as_original(read(path))
    meant = {each.name: each for each in gguf.GGUFReader(path).tensors}
    for key, tensor in state.items():
        stored = meant[prefix + key]
        wanted = gguf.quants.dequantize(stored.data, stored.tensor_type)
        assert torch.equal(original[key], torch.from_numpy(np.array(wanted))), key
        assert (original[key] - tensor).norm() <= (accuracy if quantisable(key) else 4e-3) * tensor.norm(), key


@pytest.mark.parametrize(
    "kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ2_XXS", "TQ1_0"]
)
def test_blocks_are_decoded_as_the_package_does(gguf: Any, kind: str) -> None:
    """For types that the package itself does not write: any bytes are a weight, apart from scales that are none."""
    from fluxduel.training.base import gguf_files

    assert gguf_files.can_decode(kind)
    type_of = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[type_of]
    raw = np.random.default_rng(0).integers(0, 256, (6, 2 * size), dtype=np.uint8)
    wanted = gguf.quants.dequantize(raw, type_of)
    found = gguf_files.decoded(torch.from_numpy(raw.copy()), kind, (6, 2 * block)).numpy()
    finite = np.isfinite(wanted)
    assert finite.mean() > 0.8
    assert np.allclose(found[finite], wanted[finite], rtol=1e-5, atol=1e-5 * np.abs(wanted[finite]).max())


def test_a_type_that_cannot_be_decoded_is_refused(gguf: Any, tmp_path: Path) -> None:
    path = write(gguf, tmp_path / "flux.gguf", random_state(), "I8")
    with pytest.raises(BaseModelError, match=r"flux\.gguf: key double_blocks\.0\.\S+ is of GGUF's type I8,"):
        list(read_weights(str(path), "cpu"))


@pytest.mark.parametrize("noted", [(3 * WIDTH, WIDTH), (3 * WIDTH, WIDTH + 1)])
def test_a_shape_may_be_noted_beside_the_tensor(gguf: Any, tmp_path: Path, noted: tuple[int, int]) -> None:
    key, state = "double_blocks.0.img_attn.qkv.weight", random_state()
    flat = {**state, key: state[key].reshape(-1, 64)}
    path = write(gguf, tmp_path / "flux.gguf", flat, "Q8_0", shapes={key: noted})
    if noted == state[key].shape:
        assert (as_original(read(path))[key] - state[key]).norm() <= 6e-3 * state[key].norm()
    else:
        with pytest.raises(BaseModelError, match=rf"flux\.gguf: key {key} holds no tensor of \[768, 257\]"):
            read(path)


def test_a_missing_key_is_refused_by_name(gguf: Any, tmp_path: Path) -> None:
    state = random_state()
    del state["single_blocks.1.linear2.bias"]
    path = write(gguf, tmp_path / "flux.gguf", state, "Q8_0")
    with pytest.raises(BaseModelError, match=r"flux\.gguf: key single_blocks\.1\.linear2\.bias is missing"):
        list(read_weights(str(path), "cpu"))


@pytest.mark.parametrize("share", [0.0, 1e-5, 1e-3, 0.5, 0.999])
def test_parts_of_a_file_are_refused(gguf: Any, tmp_path: Path, share: float) -> None:
    content = write(gguf, tmp_path / "flux.gguf", random_state(), "Q4_0").read_bytes()
    part = tmp_path / "part.gguf"
    part.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BaseModelError, match=r"part\.gguf cannot be read as GGUF"):
        read_transformer_config(str(part))


def test_what_is_no_gguf_is_refused(gguf: Any, tmp_path: Path) -> None:
    for index, content in enumerate((b"<html>404 not found</html>", b"GGUF" + bytes(64), b"GGUF" + b"\xff" * 64)):
        path = tmp_path / f"{index}.gguf"
        path.write_bytes(content)
        with pytest.raises(BaseModelError, match=rf"{index}\.gguf"):
            read_transformer_config(str(path))


def test_scales_that_are_not_finite_are_refused(gguf: Any, tmp_path: Path) -> None:
    path = write(gguf, tmp_path / "flux.gguf", random_state(), "Q8_0")
    stored = next(each for each in gguf.GGUFReader(path).tensors if each.name == "single_blocks.0.linear1.weight")
    content = bytearray(path.read_bytes())
    content[stored.data_offset : stored.data_offset + 2] = b"\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(BaseModelError, match=r"flux\.gguf: key single_blocks\.0\.linear1\.weight holds values"):
        list(read_weights(str(path), "cpu"))


def test_its_name_tells_which_model_it_is(gguf: Any, tmp_path: Path) -> None:
    path = write(gguf, tmp_path / "flux.gguf", random_state(), "Q4_0", name="FLUX.1 Kontext dev")
    assert variant(str(path)) == "Kontext"


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flux.gguf"
    path.write_bytes(b"GGUF")
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError("No module named 'gguf'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(BaseModelError, match="pip install gguf"):
        read_transformer_config(str(path))
