"""What a key of a LoRA file means: which layer it belongs to, and which part of that layer's adapter it is."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from .value import LoRAError

TEXT_ENCODER = ("lora_te", "text_encoder", "text_model", "conditioner.")
# Embeddings that OneTrainer puts beside a LoRA.
EMBEDDINGS = ("bundle_emb.",)

# What torch can turn into fp32, one value each.
_NUMBERS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
# PEFT puts the adapter's name between ``lora_A`` and ``weight``.
_PARTS = (
    (re.compile(r"\.(?:lora_A(?:\.[^.]+)?|lora_down|lora\.down|down)\.weight$"), "down"),
    (re.compile(r"\.(?:lora_B(?:\.[^.]+)?|lora_up|lora\.up|up)\.weight$"), "up"),
    (re.compile(r"\.lora_B(?:\.[^.]+)?\.bias$|\.lora_up\.bias$"), "bias"),
    (re.compile(r"\.(alpha|scalar)$"), ""),
    (re.compile(r"\.(hada_w[12]_[ab]|hada_t[12])$"), ""),
    (re.compile(r"\.(lokr_w[12](?:_[ab])?|lokr_t[12])$"), ""),
    (re.compile(r"\.(diff_b|diff|w_norm|b_norm)$"), ""),
)
_PREFIX = re.compile(
    r"base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|transformer\.|lora_unet_|lora_transformer_|lycoris_"
)
# XLabs' names of a block's layers.
_XLABS = re.compile(r"((?:double|single)_blocks\.\d+)\.processor\.(\w+)$")
_XLABS_LAYERS = {
    "qkv_lora1": "img_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora2": "txt_attn.proj",
    "qkv_lora": "linear1_qkv",
    "proj_lora": "linear2",
}


def split_key(key: str) -> tuple[str, str]:
    """The layer that a tensor belongs to, as the file names it, and its part there; "" where it is none of a LoRA.

    Parts are ``down``, ``up``, ``bias``, ``alpha``, ``scalar``, LyCORIS' own names such as ``hada_w1_a`` and
    ``lokr_w2``, and ``diff``, ``diff_b``, ``w_norm``, ``b_norm``: whole differences of a weight, a bias, a norm.
    """
    for ending, part in _PARTS:
        if found := ending.search(key):
            return key[: found.start()], part or found[1]
    return key, ""


def layer_name(name: str) -> str:
    """``name`` without the prefixes that programs put before a layer's own name, as diffusers or black-forest-labs
    name it."""
    while found := _PREFIX.match(name):
        name = name[found.end() :]
    if (found := _XLABS.match(name)) and found[2] in _XLABS_LAYERS:
        return f"{found[1]}.{_XLABS_LAYERS[found[2]]}"
    # Some exports have cut off as many letters as a prefix would have had.
    return f"tran{name}" if name.startswith("sformer_blocks.") else name


def checked(path: Path, key: str, tensor: Tensor) -> Tensor:
    """``tensor``, where it holds numbers that a LoRA can be of. Raises ``LoRAError`` otherwise."""
    if tensor.dtype not in _NUMBERS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise LoRAError(f"{path}: {key} is {kind}, no number that a LoRA can be of. Choose a plain LoRA.")
    return tensor
