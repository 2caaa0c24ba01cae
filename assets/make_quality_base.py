"""Make the base of ``make bench-quality``: a FLUX-shaped transformer of 0.4 million weights, in minutes on two cores.

    python assets/make_quality_base.py --out assets/quality_base

It learns the photographs of ``BASE_PHOTOS``, one word each, as 4x8x8 latents; the benchmark's domains are not among
them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fluxduel.benchmarks.quality.textures import domains
from fluxduel.training import flow
from fluxduel.training.base.families import flux1
from fluxduel.training.base.families.latent_space import FLUX_1

CONFIG = {
    "patch_size": 1,
    "in_channels": domains.CHANNELS * FLUX_1.patch**2,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": domains.CONTEXT,
    "pooled_projection_dim": domains.POOLED,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 6, 6),
}
BATCH = 128
SIDE = domains.CROP // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/quality_base"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    transformer = FluxTransformer2DModel(**CONFIG)
    average = AveragedModel(transformer, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimiser = torch.optim.AdamW(transformer.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.learning_rate, options.steps, pct_start=0.05)
    pictures = [domains.grey(photo) for photo in domains.BASE_PHOTOS]
    latents = torch.stack([domains.crops(picture, 20000, 0, unseen=None) for picture in pictures])
    prompts = [domains.prompt(photo.caption) for photo in domains.BASE_PHOTOS]
    embeds = torch.stack([p.prompt_embeds for p in prompts])
    pooled = torch.stack([p.pooled_prompt_embeds for p in prompts])
    image_ids, text_ids = flux1.image_ids(SIDE, SIDE, "cpu"), flux1.text_ids(domains.TOKENS, "cpu")
    started, shown = time.perf_counter(), []
    for step in range(options.steps):
        photo = torch.randint(len(prompts), (BATCH,))
        x0 = latents[photo, torch.randint(latents.shape[1], (BATCH,))]
        noise = torch.randn_like(x0)
        sigma = flow.draw_sigma("logit_normal", torch.randn(BATCH), torch.rand(BATCH), 0.0, 1.2, 16)
        x_t = flow.interpolate(x0, noise, sigma)
        tokens = transformer(
            hidden_states=FLUX_1.pack(x_t),
            encoder_hidden_states=embeds[photo],
            pooled_projections=pooled[photo],
            timestep=sigma,
            img_ids=image_ids,
            txt_ids=text_ids,
            return_dict=False,
        )[0]
        loss = flow.flow_loss(FLUX_1.unpack(tokens, SIDE, SIDE), x0, noise).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        average.update_parameters(transformer)
        shown.append(loss.item())
        if (step + 1) % 250 == 0:
            print(f"{step + 1:6} {sum(shown[-250:]) / 250:.4f} {time.perf_counter() - started:.0f} s", flush=True)
    average.module.save_pretrained(options.out)


if __name__ == "__main__":
    main()
