"""What the encodings of a dataset say about the encoders that made them."""

from __future__ import annotations

import torch

from .. import draws
from .data_error import listed
from .real_latents import RealLatents
from .tiny_text import TinyTextEncoder

# FLUX.1's scale makes the latents of many natural pictures deviate by 1. Stable Diffusion 3's VAE, taken for FLUX.1's,
# gives 0.3611 / 1.5305 = 0.24 there. Of single pictures, with the built-in VAE: photographs 0.38 to 1.29, line drawings
# 1.1 to 1.9, one flat colour 0.2 (mid grey) to 2.0; with the scale of Stable Diffusion 3, photographs 0.09 to 0.30.
LEAST_DEVIATION = 0.35
MOST_SAMPLES = 64
# The longest that FLUX.1 was trained on; schnell's is 256.
LONGEST_PROMPT = 512

# Width of the prompt and of its pooled vector -> whose they are.
_PROMPTS = {
    (768, 768): "CLIP-L alone",
    (1280, 1280): "CLIP-G alone",
    (2048, 1280): "SDXL's two CLIPs",
    (4096, 2048): "Stable Diffusion 3's three text encoders",
    (4096, 1280): "T5-XXL and CLIP-G",
    (1024, 768): "CLIP-L and a T5 that is smaller than XXL",
    (2048, 768): "CLIP-L and a T5 that is smaller than XXL",
}


def whose_prompt(width: int, pooled_width: int) -> str:
    """The text encoders of another model that give prompts of these widths, in words; empty where none is known."""
    return _PROMPTS.get((width, pooled_width), "")


def deviation(data: RealLatents) -> float:
    """Root mean square of the posterior means, in model space, of up to ``MOST_SAMPLES`` samples, drawn."""
    order = torch.randperm(len(data.samples), generator=draws.generator(0, 0, 0, "deviation"))[:MOST_SAMPLES]
    squares = [data.samples[index].mean.square().mean() for index in order.tolist()]
    return torch.stack(squares).mean().sqrt().item()


def encoder_warnings(data: RealLatents) -> list[str]:
    """Sentences about latents and prompts that look like another model's, or that FLUX.1 does not know so long."""
    warnings = []
    # The built-in base's encoders come with it, and are told by the width of their prompts.
    built_in = data.empty_prompt.width == TinyTextEncoder.WIDTH
    found = deviation(data)
    if found < LEAST_DEVIATION and not built_in:
        warnings.append(
            f"the latents deviate by {found:.2f}, where FLUX's own VAE gives about 1. Unless the pictures are nearly "
            "flat and grey, this VAE is another model's, such as Stable Diffusion 3's (0.24): a LoRA trained on its "
            "latents is of no use to FLUX. Load ae.safetensors."
        )
    whose = whose_prompt(data.empty_prompt.width, data.empty_prompt.pooled_width)
    if whose:
        warnings.append(
            f"the prompts are those of {whose}, which no FLUX.1 takes: it has CLIP-L and T5-XXL (DualCLIPLoader of "
            "type flux)."
        )
    long = [prompt.caption for prompt in data.prompts if prompt.length > LONGEST_PROMPT]
    if long:
        warnings.append(
            f"captions of more than {LONGEST_PROMPT} tokens: {len(long)} ({listed([text[:40] for text in long])}). "
            f"FLUX.1 was trained on {LONGEST_PROMPT} at most, schnell on 256: shorten them."
        )
    return warnings
