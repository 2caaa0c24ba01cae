"""Which files are taken for FLUX.1 and which are refused with which words, from their headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxduel.tests.written_layouts import CONFIG, note, plain, random_state
from fluxduel.training.base.checkpoint_files import BaseModelError, read_transformer_config, weight_files
from fluxduel.training.base.layouts import single_file_layout
from fluxduel.training.base.variants import variant
from fluxduel.training.base.weights import check_weights
from fluxduel.training.config import TINY_BASE

ONE = torch.ones(1)
QKV = "double_blocks.0.img_attn.qkv"
BYTES = torch.ones(768, 256, dtype=torch.uint8)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return plain(torch.bfloat16)(random_state()).tensors


# What is added to a whole FLUX.1, and the words with which the file is refused.
REFUSED = {
    "FLUX.2": ({"double_stream_modulation_img.lin.weight": ONE}, "takes 64 input channels, not 128: a FLUX.2 variant"),
    "FLUX.2, diffusers": ({"double_stream_modulation_img.linear.weight": ONE}, "takes 64 input channels, not 128"),
    "Chroma": ({"distilled_guidance_layer.norms.0.scale": ONE}, r"is Chroma .* Choose a .*FLUX\.1 .*, or FLUX\.2"),
    "Nunchaku": (
        {"transformer_blocks.0.qkv_proj.qweight": ONE},
        "is a Nunchaku file .* cannot train. Choose the bf16, fp8, int8 or GGUF file of the same model",
    ),
    "Redux": ({"redux_up.weight": ONE}, "is a Redux adapter .* Choose the transformer"),
    "ControlNet": ({"controlnet_blocks.0.weight": ONE}, "is a ControlNet .* Choose the transformer"),
    "LoRA": ({f"transformer.{QKV}.lora_A.weight": ONE}, "is a LoRA .* this file as the LoRA to continue"),
    "kohya's LoRA": ({"lora_unet_single_blocks_0_linear1.lora_down.weight": ONE}, "is a LoRA "),
    "Fill": ({"img_in.weight": torch.ones(256, 384)}, "takes 384 input channels, not 64: a FLUX.1 variant for filling"),
    "Depth, Canny": ({"img_in.weight": torch.ones(256, 128)}, "takes 128 input channels, not 64: .* or control"),
    "int4 in groups of int8": (
        {f"{QKV}.comfy_quant": note(format="asym_w4a8_int8")},
        f"{QKV} is in the format 'asym_w4a8_int8', which FluxDuel cannot decode. Choose the bf16, fp8, int8 or GGUF",
    ),
    "a format to come": ({f"{QKV}.comfy_quant": note(format="int2")}, f"{QKV} is in the format 'int2'"),
    "int8 without a note": (
        {f"{QKV}.weight": BYTES.to(torch.int8), f"{QKV}.weight_scale": ONE},
        f"{QKV}.comfy_quant, which says how to use it, is missing",
    ),
    "bytes without a note": ({f"{QKV}.weight": BYTES}, "is of type U8, and nothing beside it says how"),
    "bitsandbytes of 8 bits": ({f"{QKV}.SCB": ONE}, f"key {QKV}.SCB changes what {QKV}.weight means"),
    "smoothed fp8": (
        {
            f"{QKV}.weight": BYTES.to(torch.float8_e4m3fn),
            f"{QKV}.weight_scale": ONE,
            f"{QKV}.pre_quant_scale": torch.ones(256),
        },
        f"key {QKV}.pre_quant_scale changes what",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_files_that_cannot_be_the_base_are_refused_in_words(
    state: dict[str, torch.Tensor], tmp_path: Path, kind: str
) -> None:
    changes, words = REFUSED[kind]
    path = tmp_path / "model.safetensors"
    save_file(state | changes, path)
    with pytest.raises(BaseModelError, match=f"model\\.safetensors.*{words}"):
        check_weights(str(path))


def test_parts_without_a_transformer_are_refused(tmp_path: Path) -> None:
    for keys in (["decoder.conv_in.weight"], ["text_model.embeddings.weight"], ["vae.decoder.conv_in.weight"], []):
        path = tmp_path / "part.safetensors"
        save_file({key: ONE.clone() for key in keys}, path)
        with pytest.raises(BaseModelError, match=r"part\.safetensors is no FLUX\.1 checkpoint: key img_in\.weight is"):
            check_weights(str(path))


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32", "fp8"])
def test_a_plain_file_is_named_by_its_type(tmp_path: Path, kind: str) -> None:
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.float8_e5m2}
    path = tmp_path / "model.safetensors"
    save_file(plain(dtypes[kind])(random_state()).tensors, path)
    assert single_file_layout(path).kind == kind
    assert read_transformer_config(str(path)) == CONFIG


@pytest.mark.parametrize(
    ("name", "notes", "guidance", "found"),
    [
        ("flux1-dev.safetensors", {}, True, "dev"),
        ("flux1-dev-kontext_fp8_scaled.safetensors", {}, True, "Kontext"),
        ("FLUX1-Krea-dev.sft", {}, True, "Krea"),
        ("mine.safetensors", {"modelspec.title": "Flux.1 Kontext [dev]"}, True, "Kontext"),
        ("mine.safetensors", {"comment": "merged without Kontext"}, True, "dev"),
        ("flux1-schnell.safetensors", {}, False, "schnell"),
    ],
)
def test_models_of_the_same_shapes_are_told_by_their_names(
    state: dict[str, torch.Tensor], tmp_path: Path, name: str, notes: dict[str, str], guidance: bool, found: str
) -> None:
    tensors = {key: tensor for key, tensor in state.items() if guidance or "guidance" not in key}
    save_file(tensors, tmp_path / name, notes)
    assert variant(str(tmp_path / name)) == found


def test_a_pipeline_tells_which_model_its_folder_holds(tmp_path: Path) -> None:
    assert variant(TINY_BASE) == "dev"
    source = weight_files(TINY_BASE)[0].parent
    inner = tmp_path / "model" / "transformer"
    inner.mkdir(parents=True)
    for file in source.iterdir():
        (inner / file.name).write_bytes(file.read_bytes())
    index = inner.parent / "model_index.json"
    for text, found in [
        ('{"_class_name": "FluxPipeline"}', "dev"),
        ('{"_class_name": "FluxKontextPipeline"}', "Kontext"),
        ("{", "dev"),
        (json.dumps([]), "dev"),
    ]:
        index.write_text(text)
        assert variant(str(inner.parent)) == variant(str(inner)) == found


def test_only_files_of_tensors_are_opened(tmp_path: Path) -> None:
    for name in ("model.ckpt", "model.pt", "model.bin", "model"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        with pytest.raises(BaseModelError, match=r"FluxDuel loads \.safetensors and \.gguf only"):
            weight_files(str(tmp_path / name))
