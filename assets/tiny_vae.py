"""The built-in base's VAE: TAESD's layout with FLUX.1's sixteen channels, started as a patch codec and trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from base_pictures import VaeBatches
from diffusers import AutoencoderTiny
from patch_codec import start_as_patch_codec
from safetensors.torch import load_file, save_file
from schedule import Schedule, descend
from torch import Tensor
from tqdm import tqdm

from fluxduel.training.base.families.latent_space import FLUX_1

# Some hundred thousand patches: enough for sixteen components, few enough for a quantile.
_START_BATCHES = 16


def new_vae() -> AutoencoderTiny:
    """An untrained VAE in the TAESD architecture with FLUX.1's 16 latent channels."""
    return AutoencoderTiny(latent_channels=FLUX_1.channels, scaling_factor=1.0)


def start_vae(batches: VaeBatches, device: torch.device) -> AutoencoderTiny:
    """The starting weights: computed from the pictures, on the CPU."""
    vae = new_vae()
    start_as_patch_codec(vae, (batches(step).cpu() for step in itertools.count()), count=_START_BATCHES)
    return vae.to(device)


def image_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, L1 at full resolution and at 1/2, 1/4 and 1/8, and L1 between the gradients; (B, 3, H, W)."""
    difference = output - target
    loss = difference.abs().mean() + 2 * difference.square().mean()
    # Gradients are linear, so the gradient of the difference is the difference of the gradients.
    loss = loss + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    for factor in (2, 4, 8):
        loss = loss + 0.5 * F.avg_pool2d(difference, factor).abs().mean()
    return loss


def latent_statistics_loss(latents: Tensor) -> Tensor:
    """Distance of each channel from zero mean and unit variance over a (B, C, h, w) batch."""
    variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
    return mean.square().mean() + variance.clamp(min=1e-6).log().square().mean()


def vae_loss(vae: AutoencoderTiny, images: Tensor, rng: np.random.Generator) -> Tensor:
    """One training loss on (B, 3, H, W) images in [-1, 1].

    Two things make the latents easier for a generator than plain auto-encoding would: the decoder sees
    slightly noisy latents, and now and then latents averaged 2x2, which must decode to the small image.
    The second keeps detail out of patterns that only the exact pixel grid explains.
    """
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        latents = vae.encoder(images)
    latents = latents.float()
    regularisation = latent_statistics_loss(latents)
    if rng.random() < 0.1:
        latents, images = F.avg_pool2d(latents, 2), F.avg_pool2d(images, 2)
    noisy = latents + float(rng.uniform(0.0, 0.1)) * torch.randn_like(latents)
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        output = vae.decoder(noisy)
    return image_loss(output.float(), images) + 0.02 * regularisation


def train_vae(
    vae: AutoencoderTiny, batches: VaeBatches, schedule: Schedule, seed: int, save: Callable[[AutoencoderTiny], None]
) -> None:
    """Train both halves in place; ``save`` is called every 500 steps, so a killed run leaves weights."""
    vae.train().requires_grad_(True).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    progress = tqdm(total=schedule.steps, desc="vae", mininterval=10)
    step = 0
    while schedule.done(step) < 1:
        schedule.apply(optimiser, step)
        loss = vae_loss(vae, batches(step), np.random.default_rng([seed, step, 1]))
        descend(loss, vae, optimiser)
        step += 1
        progress.update()
        if step % 500 == 0:
            progress.set_postfix(loss=f"{float(loss.detach()):.4f}", refresh=False)
            save(vae)
    vae.eval().requires_grad_(False)


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderTiny, pictures: Tensor) -> None:
    """Give the latents of pictures (B, 3, H, W) zero mean and unit variance, channel by channel.

    An affine map inside the two convolutions they meet. The decoder's soft clamp lies between the two, so the fold is
    exact only for small latents; a little more training takes up the rest.
    """
    std, mean = torch.std_mean(encode(vae, pictures), dim=(0, 2, 3))
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    first.bias += (first.weight.sum(dim=(2, 3)) * mean).sum(dim=1)
    first.weight *= std.view(1, -1, 1, 1)
    last.bias.copy_((last.bias - mean) / std)
    last.weight /= std.view(-1, 1, 1, 1)


def save_vae(vae: AutoencoderTiny, path: Path) -> None:
    """Write float16 weights under the TAESD key names that ComfyUI's VAE loader recognises.

    Its decoder counts the parameterless clamp as layer 0, so decoder indices are one higher than diffusers'.
    """
    weights = {"vae_scale": torch.tensor(FLUX_1.scale), "vae_shift": torch.tensor(FLUX_1.shift)}
    for key, tensor in vae.state_dict().items():
        part, _, index, rest = key.split(".", 3)
        offset = 1 if part == "decoder" else 0
        weights[f"taesd_{part}.{int(index) + offset}.{rest}"] = tensor
    save_half(weights, path)


def load_vae(path: Path) -> AutoencoderTiny:
    """Read what :func:`save_vae` wrote; float32, eval mode, frozen."""
    weights = {}
    for key, tensor in load_file(path).items():
        if key.startswith("taesd_"):
            part, index, rest = key.removeprefix("taesd_").split(".", 2)
            offset = 1 if part == "decoder" else 0
            weights[f"{part}.layers.{int(index) - offset}.{rest}"] = tensor.float()
    vae = new_vae()
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> normalised latents z (B, 16, H/8, W/8), the transformer's space."""
    parts = images.contiguous(memory_format=torch.channels_last).split(64)
    return torch.cat([vae.encoder(part) for part in parts])


@torch.no_grad()
def decode(vae: AutoencoderTiny, latents: Tensor) -> Tensor:
    """Normalised latents z (B, 16, h, w) -> images (B, 3, 8h, 8w) in [-1, 1]."""
    return torch.cat([vae.decoder(part) for part in latents.split(64)]).clamp(-1, 1)


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], mean over the batch's images."""
    error = (output - target).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def save_half(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as contiguous float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().half().contiguous().cpu() for key, tensor in weights.items()}, path)
