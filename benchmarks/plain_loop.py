"""What the engine is compared with: stage 1 as a short script would write it with diffusers and PEFT."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig

from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.data.real_latents import RealLatents

# How such scripts hold the adapter on a base in bf16. fp32: PEFT enlarges each adapted layer's input. autocast: kept in
# fp32, computed in bf16. bf16: kept in bf16, which rounds small updates away.
ADAPTERS = ("fp32", "autocast", "bf16")


def plain_loop(
    transformer: FluxTransformer2DModel,
    data: RealLatents,
    *,
    rank: int,
    batch_size: int,
    checkpointing: bool,
    adapter: str = "fp32",
) -> Callable[[], None]:
    """A step of such a script on ``transformer``, which gets an adapter, with all ``data`` on its device.

    ``adapter``: one of ``ADAPTERS``. Latents of ``data`` have one size, prompts one length.
    """
    transformer.requires_grad_(False)
    device, dtype = transformer.device, transformer.dtype
    pattern = FLUX1.target_pattern("attention+mlp", "").pattern
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern))
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    weights = [p for p in transformer.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.to(dtype if adapter == "bf16" else torch.float32)
    optimiser = torch.optim.AdamW(weights, lr=1e-4)
    x0_all = torch.stack([sample.mean for sample in data.samples]).to(device)
    embeds_all = torch.stack([prompt.prompt_embeds for prompt in data.prompts]).to(device, dtype)
    pooled_all = torch.stack([prompt.pooled_prompt_embeds for prompt in data.prompts]).to(device, dtype)
    side = x0_all.shape[-1]
    image_ids = FluxPipeline._prepare_latent_image_ids(batch_size, side // 2, side // 2, device, torch.float32)
    text_ids = torch.zeros(embeds_all.shape[1], 3, device=device)

    def step() -> None:
        chosen = torch.randint(len(data.samples), (batch_size,)).to(device)
        x0 = x0_all[chosen]
        noise = torch.randn_like(x0)
        sigma = torch.sigmoid(torch.randn(batch_size, device=device))
        x_t = (1 - sigma)[:, None, None, None] * x0 + sigma[:, None, None, None] * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=adapter == "autocast"):
            prediction = transformer(
                hidden_states=FluxPipeline._pack_latents(x_t, batch_size, 16, side, side).to(dtype),
                encoder_hidden_states=embeds_all[chosen],
                pooled_projections=pooled_all[chosen],
                timestep=sigma.to(dtype),
                guidance=torch.ones(batch_size, device=device, dtype=dtype),
                img_ids=image_ids,
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        target = FluxPipeline._pack_latents(noise - x0, batch_size, 16, side, side)
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()

    return step
