"""LoRAs for models other than FLUX.1, told by what a file says, by its keys, and by sizes. Some have FLUX.1's width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Where a file names its model, in metadata.
_STATEMENTS = ("ss_base_model_version", "modelspec.architecture", "base_model", "ss_network_module")

_FLUX_1 = re.compile(r"flux[ ._-]?1(?!\d)")
# By what a name contains; the first that fits.
_NAMES = (
    ("FLUX.3", r"flux[ ._-]?3(?!\d)"),
    ("FLUX.2", r"flux[ ._-]?2(?!\d)|klein"),
    ("Chroma", r"chroma"),
    ("Qwen-Image", r"qwen"),
    ("Z-Image", r"z[ ._-]?image"),
    ("HunyuanVideo", r"hunyuan"),
    ("HiDream", r"hidream"),
    ("Wan", r"\bwan[ ._-]?[\dv]"),
    ("LTX-Video", r"\bltx"),
    ("Lumina", r"lumina"),
    ("Stable Diffusion 3", r"\bsd[ ._-]?3|stable[ ._-]diffusion[ ._-]3"),
    ("Stable Diffusion XL", r"sdxl|stable[ ._-]diffusion[ ._-]xl"),
    ("Stable Diffusion", r"\bsd_?v?[12](?!\d)|stable[ ._-]diffusion[ ._-]v?[12]"),
)
# By names of layers that FLUX.1 has not, in any program's spelling.
_KEYS = (
    ("FLUX.3", r"(content|txt)_mode_blocks"),
    (
        "FLUX.2",
        r"(double|single)_stream_modulation|to_qkv_mlp_proj|blocks[._]\d+[._]ff(_context)?[._]linear_(in|out)"
        r"|single_transformer_blocks[._]\d+[._]attn[._]to_out(?![._]0)",
    ),
    ("Chroma", r"distilled_guidance_layer"),
    ("Qwen-Image", r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)"),
    ("HunyuanVideo", r"individual_token_refiner|double_blocks[._]\d+[._](img|txt)_mlp[._]fc[12]"),
    (
        "Z-Image or Lumina",
        r"(layers|noise_refiner|context_refiner)[._]\d+[._](attention|feed_forward|adaLN_modulation)",
    ),
    ("HiDream", r"(double|single)_stream_blocks[._]\d"),
    ("Wan", r"(?:^|\.|lora_unet_)blocks[._]\d+[._](self_attn|cross_attn|ffn)"),
    ("Stable Diffusion 3", r"joint_blocks[._]\d"),
    ("Stable Diffusion", r"lora_unet_(input_blocks|down_blocks|mid_block|up_blocks|output_blocks)|^unet\."),
    ("LTX-Video or PixArt", r"transformer_blocks[._]\d+[._]attn1"),
)
# FLUX.2's layers in multiples of its width, where FLUX.1's differ: (end of the name, out, in).
_FLUX_2_SIZES = (("linear1", 9, 1), ("linear2", 1, 4), ("mlp_0", 6, 1), ("mlp_2", 1, 3))
_BLOCK = re.compile(r"(single_)?(?:transformer|double|single)_blocks[._](\d+)[._]")
_KLEIN_DOUBLES = set(range(5))


def said_to_be(metadata: Mapping[str, str], base: str) -> tuple[str, str]:
    """The model that a file says it is for, and where it says so; "" where it says FLUX.1 or nothing known.

    ``base``: the model's name in PEFT's settings, or "".
    """
    texts = {f"metadata {key}": metadata.get(key, "") for key in _STATEMENTS} | {"base_model_name_or_path": base}
    for where, text in texts.items():
        if _FLUX_1.search(text.lower()):
            continue
        for name, pattern in _NAMES:
            if re.search(pattern, text.lower()):
                return name, f"{where}: {text}"
    return "", ""


def says_flux_1(metadata: Mapping[str, str], base: str) -> bool:
    """Whether a file says that it is for FLUX.1."""
    return any(_FLUX_1.search(text.lower()) for text in (*(metadata.get(key, "") for key in _STATEMENTS), base))


def named_by_keys(keys: Iterable[str]) -> tuple[str, str]:
    """The model whose layers a file names, and such a key; "" where FLUX.1 could have them all."""
    for key in keys:
        for name, pattern in _KEYS:
            if re.search(pattern, key):
                return name, f"key {key}"
    return "", ""


def named_by_sizes(sizes: Mapping[str, tuple[int, int]]) -> tuple[str, str]:
    """FLUX.2, where a layer has its proportions; ``sizes``: (out, in) by black-forest-labs' name with underscores."""
    for layer, (size_out, size_in) in sizes.items():
        for end, times_out, times_in in _FLUX_2_SIZES:
            if layer.endswith(end) and size_out * times_in == size_in * times_out:
                return "FLUX.2", f"{layer} is for a layer of {size_in} -> {size_out}"
    return "", ""


def named_by_blocks(names: Iterable[str], doubles: int) -> tuple[str, str]:
    """FLUX.2 klein 4B, where a file adapts its five double blocks, all of them and nothing else.

    Attention of these blocks has FLUX.1's names and sizes. ``doubles``: how many double blocks the base has.
    """
    found = [_BLOCK.search(name) for name in names]
    if doubles <= len(_KLEIN_DOUBLES) or not all(found):
        return "", ""
    blocks = [(each[0].startswith("single_"), int(each[2])) for each in found]
    if any(single for single, _ in blocks) or {number for _, number in blocks} != _KLEIN_DOUBLES:
        return "", ""
    return "FLUX.2 klein 4B", "it adapts double blocks 0 to 4, which are all that klein 4B has, and nothing else"
