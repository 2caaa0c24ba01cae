"""What the encodings of a dataset say about the encoders that made them."""

from __future__ import annotations

import torch

from .. import draws
from ..base.families.flux1 import FLUX1
from ..base.families.flux2 import FLUX2
from ..base.families.latent_space import FLUX_1, space_of
from .data_error import listed
from .real_latents import RealLatents
from .tiny_text import TinyTextEncoder

# FLUX.1's scale makes the latents of many natural pictures deviate by 1. Stable Diffusion 3's VAE, taken for FLUX.1's,
# gives 0.3611 / 1.5305 = 0.24 there. Of single pictures, with the built-in VAE: photographs 0.38 to 1.29, line drawings
# 1.1 to 1.9, one flat colour 0.2 (mid grey) to 2.0; with the scale of Stable Diffusion 3, photographs 0.09 to 0.30.
LEAST_DEVIATION = 0.35
MOST_SAMPLES = 64
# The longest that FLUX.1 and FLUX.2 were trained on; schnell's is 256.
LONGEST_PROMPT = 512

# Width of the prompt, which has no pooled vector -> whose it is.
_WITHOUT_POOLED = {
    7680: "FLUX.2 klein 4B (Qwen3-4B)",
    12288: "FLUX.2 klein 9B (Qwen3-8B)",
    15360: "FLUX.2 dev (Mistral 3)",
    20480: "FLUX.3 Image Klein (Qwen3-VL)",
}
# Width of the prompt and of its pooled vector, 0 for none -> whose they are, none of them a FLUX model's.
_OTHERS = {
    (2560, 0): "Qwen3-4B, read as for Z-Image",
    (3584, 0): "Qwen2.5-VL (Qwen-Image)",
    (4096, 0): "T5-XXL alone",
    (768, 768): "CLIP-L alone",
    (1280, 1280): "CLIP-G alone",
    (2048, 1280): "SDXL's two CLIPs",
    (4096, 2048): "Stable Diffusion 3's three text encoders",
    (4096, 1280): "T5-XXL and CLIP-G",
    (1024, 768): "CLIP-L and a T5 that is smaller than XXL",
    (2048, 768): "CLIP-L and a T5 that is smaller than XXL",
}


def whose_prompt(width: int, pooled_width: int) -> str:
    """The text encoders that give prompts of these widths, in words, FLUX.1's apart; empty where none is known."""
    return foreign_prompt(width, pooled_width) or ("" if pooled_width else _WITHOUT_POOLED.get(width, ""))


def foreign_prompt(width: int, pooled_width: int) -> str:
    """As ``whose_prompt``, of models that are no FLUX."""
    return _OTHERS.get((width, pooled_width), "")


def deviation(data: RealLatents) -> float:
    """Root mean square of the posterior means, in model space, of up to ``MOST_SAMPLES`` samples, drawn."""
    order = torch.randperm(len(data.samples), generator=draws.generator(0, 0, 0, "deviation"))[:MOST_SAMPLES]
    squares = [data.samples[index].mean.square().mean() for index in order.tolist()]
    return torch.stack(squares).mean().sqrt().item()


def encoder_warnings(data: RealLatents) -> list[str]:
    """Sentences about latents and prompts that look like another model's, or that FLUX does not know so long."""
    warnings = []
    # The built-in base's encoders come with it, and are told by the width of their prompts.
    built_in = data.empty_prompt.width == TinyTextEncoder.WIDTH
    # FLUX.2's VAE normalises by statistics of its own: no other's latents pass for them.
    measured = space_of(data.samples[0].shape[0]) is FLUX_1 and not built_in
    found = deviation(data) if measured else 1.0
    if found < LEAST_DEVIATION:
        warnings.append(
            f"the latents deviate by {found:.2f}, where FLUX's own VAE gives about 1. Unless the pictures are nearly "
            "flat and grey, this VAE is another model's, such as Stable Diffusion 3's (0.24): a LoRA trained on its "
            "latents is of no use to FLUX. Load ae.safetensors."
        )
    whose = foreign_prompt(data.empty_prompt.width, data.empty_prompt.pooled_width)
    if whose:
        warnings.append(
            f"the prompts are those of {whose}, which no FLUX takes: FLUX.1 has {FLUX1.text} ({FLUX1.loader}), FLUX.2 "
            f"{FLUX2.text} ({FLUX2.loader})."
        )
    long = [prompt.caption for prompt in data.prompts if prompt.length > LONGEST_PROMPT]
    if long:
        warnings.append(
            f"captions of more than {LONGEST_PROMPT} tokens: {len(long)} ({listed([text[:40] for text in long])}). "
            f"FLUX was trained on {LONGEST_PROMPT} at most, schnell on 256: shorten them."
        )
    return warnings
