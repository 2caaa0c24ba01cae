"""A text encoder of FLUX.2 klein's kind that fits a test, as a CLIP of the host: also as a node pack of one file.

The host's own loader takes the sizes of the real ones, of which the smallest has 4 billion weights; its class of the
text encoder takes any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# As Qwen3's heads are in the host.
HEAD = 128
SIZES = {
    "vocab_size": 151936, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 29, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip


def small_klein(folder: str) -> Any:
    """The CLIP with the weights in ``folder``/text_encoder."""
    import comfy.sd
    import comfy.text_encoders.flux
    import comfy.utils
    import torch

    class Target:
        params: dict[str, Any] = {}
        clip = comfy.text_encoders.flux.klein_te(dtype_llama=torch.float32)
        tokenizer = comfy.text_encoders.flux.KleinTokenizer

    clip = comfy.sd.CLIP(Target, model_options={"dtype": torch.float32, "qwen3_4b_model_config": dict(SIZES)})
    weights = comfy.utils.load_torch_file(str(Path(folder) / "text_encoder" / "model.safetensors"))
    missing = clip.cond_stage_model.qwen3_4b.load_sd(weights)[0]
    assert not [name for name in missing if "logit_scale" not in name], missing
    return clip


class SmallKlein:
    CATEGORY, FUNCTION = "tests", "load"
    RETURN_TYPES = ("CLIP",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"folder": ("STRING", {"default": ""})}}

    def load(self, folder: str) -> tuple[Any]:
        return (small_klein(folder),)


NODE_CLASS_MAPPINGS = {"FluxDuelTestSmallKlein": SmallKlein}
