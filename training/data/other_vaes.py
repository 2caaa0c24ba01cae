"""What tells the VAEs of other models from FLUX.1's."""

from __future__ import annotations

import math

# Channels of latents -> whose they are.
BY_CHANNELS = {
    4: "Stable Diffusion 1.5's or SDXL's",
    12: "Mochi's",
    32: "FLUX.2's",
    48: "Wan 2.2's",
    128: "LTX-Video's",
}
# ``scaling_factor`` in diffusers' words: about 1 over the deviation of a model's raw latents.
_SCALES = {
    0.18215: "Stable Diffusion 1.5's",
    0.13025: "SDXL's",
    1.5305: "Stable Diffusion 3's",
    0.476986: "HunyuanVideo's",
    0.75289: "HunyuanImage's",
}
# ``_class_name`` in diffusers' configurations, and keys of weights, both of VAEs with FLUX.1's number of channels or
# with none that is told.
BY_CLASS = {
    "AutoencoderKLWan": "Wan's",
    "AutoencoderKLQwenImage": "Qwen-Image's",
    "AutoencoderKLHunyuanVideo": "HunyuanVideo's",
    "AutoencoderKLHunyuanImage": "HunyuanImage's",
    "AutoencoderKLFlux2": "FLUX.2's",
    "AutoencoderKLCogVideoX": "CogVideoX's",
    "AutoencoderKLCosmos": "Cosmos's",
    "AutoencoderKLMochi": "Mochi's",
    "AutoencoderKLLTXVideo": "LTX-Video's",
    "AutoencoderDC": "SANA's",
    "AutoencoderTiny": "a tiny one for previews",
}
BY_KEY = {
    "decoder.middle.0.residual.0.gamma": "Wan's or Qwen-Image's",
    "decoder.mid_block.resnets.0.norm1.gamma": "Wan's or Qwen-Image's",
    "decoder.conv_in.conv.weight": "HunyuanVideo's",
    "decoder.unpatcher3d.wavelets": "Cosmos's",
    "bn.running_mean": "FLUX.2's",
    "taesd_decoder.1.weight": "a tiny one for previews",
    "decoder.layers.0.weight": "a tiny one for previews",
}


def whose_scale(scale: float) -> str:
    """The model whose VAE has this scale, in words such as ``SDXL's``."""
    return next((whose for known, whose in _SCALES.items() if math.isclose(scale, known, rel_tol=0.01)), "another's")
