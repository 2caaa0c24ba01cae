"""Make the built-in tiny base: a FLUX-shaped VAE, text encoder and transformer, about 11 MB in all.

Why it exists: the demo graph, the tests and the first minute of a new user must run on any machine with no
download, through the very code that a 12-billion-parameter FLUX.1 takes. So the tiny base has FLUX.1's
layout (16 latent channels, 2x2 packing, double and single blocks, embedded guidance, the raw-latent
convention with its scale and shift) and only its sizes differ.

What it knows: the photographs that scikit-image ships inside its wheel, one group of captions a photo
(``PHOTOS`` below). It memorises them on purpose. ``hubble_deep_field.jpg`` is never trained on: it is the
new domain that the demo teaches.

How to run it, minutes on an idle machine with two CPU cores:

    python assets/make_tiny_base.py --out assets/tiny_base --contact-sheet docs/tiny_base.png

The VAE starts from weights that are computed from the photographs (``start_as_patch_codec``): already a useful
codec of 8x8 patches. ``--decoder-steps`` trains the decoder from there, which mostly removes the seams between
patches and leaves the latents as they are; ``--vae-steps`` would train both halves. ``--resume`` starts from
the weights in ``--out``; with ``--transformer-steps 0`` and ``--decoder-steps 0`` as well, the script only
measures and draws what is there.
"""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, FluxTransformer2DModel
from patch_codec import start_as_patch_codec
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from fluxduel.training import flow
from fluxduel.training.base.families import flux1
from fluxduel.training.data.tiny_text import TinyTextEncoder

matplotlib.use("agg")
from matplotlib import pyplot as plt

TRANSFORMER_CONFIG = {
    "patch_size": 1,
    "in_channels": 4 * flux1.LATENT_CHANNELS,
    "num_layers": 2,
    "num_single_layers": 5,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": TinyTextEncoder.WIDTH,
    "pooled_projection_dim": TinyTextEncoder.POOLED_WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (8, 12, 12),
}

VAE_FILE = "vae.safetensors"
TEXT_FILE = "text_encoder.safetensors"
TRANSFORMER_FOLDER = "transformer"
HELD_OUT_PHOTO = "hubble_deep_field.jpg"


@dataclass(frozen=True)
class Photo:
    """One training photograph.

    Attributes:
        file: name inside scikit-image's data folder.
        captions: paraphrases, drawn at random in training; the first one labels the contact sheet.
        short_side: pixels to which the shorter side is scaled before a 128 px crop, chosen so that a crop
            shows what the caption says.
    """

    file: str
    captions: tuple[str, ...]
    short_side: int


PHOTOS = (
    Photo(
        "astronaut.png", ("a portrait of an astronaut in an orange suit", "a smiling woman astronaut"), 150
    ),
    Photo("brick.png", ("a photo of a brick wall", "grey bricks", "brick texture"), 230),
    Photo(
        "camera.png", ("a cameraman with a tripod on a field", "a black and white photo of a cameraman"), 140
    ),
    Photo("chelsea.png", ("a photo of a cat", "the face of a ginger cat", "cat fur and eyes"), 136),
    Photo(
        "coffee.png", ("a cup of coffee on a wooden table", "a photo of coffee", "espresso in a red cup"), 144
    ),
    Photo("coins.png", ("ancient coins on a dark table", "a photo of coins", "round metal coins"), 170),
    Photo("grass.png", ("a photo of grass", "grass texture", "a lawn seen from above"), 230),
    Photo("gravel.png", ("a photo of gravel", "gravel texture", "small grey stones"), 230),
    Photo(
        "ihc.png", ("stained tissue under a microscope", "brown and blue histology", "a tissue section"), 230
    ),
    Photo("moon.png", ("the surface of the moon", "moon craters", "a photo of the moon"), 170),
    Photo("motorcycle_left.png", ("a red motorcycle in a garage", "a photo of a motorcycle"), 136),
    Photo("retina.jpg", ("a retina with blood vessels", "the back of an eye", "a photo of a retina"), 144),
    Photo("rocket.jpg", ("a rocket on its launch pad at dusk", "a photo of a rocket"), 150),
)
# Real photographs that no caption describes well at 128 px; they only widen what the VAE sees.
VAE_EXTRA_FILES = ("cell.png", "clock_motion.png", "motorcycle_right.png", "page.png", "text.png")

# Crops an optimiser step of the transformer.
BATCH = 16
# (height, width) in pixels of the cached crops -> how often the transformer trains on that size.
CROP_SIZES = {(128, 128): 0.79, (64, 64): 0.07, (96, 128): 0.07, (128, 96): 0.07}
CROPS_PER_PHOTO = {(128, 128): 2, (64, 64): 2, (96, 128): 2, (128, 96): 2}


# ---------------------------------------------------------------------------------------------- photographs


def read_photo(file: str) -> Image.Image:
    """Open one of scikit-image's packaged photographs as RGB; nothing is ever downloaded."""
    return Image.open(Path(skimage.data.__file__).parent / file).convert("RGB")


def scale_to_short_side(photo: Image.Image, short_side: float) -> Tensor:
    """Return the photo as uint8 (3, H, W) with its shorter side scaled to ``short_side`` pixels."""
    factor = short_side / min(photo.size)
    size = tuple(max(1, round(side * factor)) for side in photo.size)
    resized = photo.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def random_crop(image: Tensor, height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Cut a random (3, height, width) window out of a (3, H, W) image."""
    top = int(rng.integers(0, image.shape[1] - height + 1))
    left = int(rng.integers(0, image.shape[2] - width + 1))
    return image[:, top : top + height, left : left + width]


def photo_pyramid(file: str, largest: int = 560, smallest: int = 130) -> list[Tensor]:
    """Return the photo at several scales, each 0.75 of the one before, as uint8 (3, H, W) tensors."""
    photo = read_photo(file)
    short_side = float(min(largest, min(photo.size)))
    scales = []
    while short_side >= smallest:
        scales.append(scale_to_short_side(photo, short_side))
        short_side *= 0.75
    return scales


def jitter_colour(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary gain, gamma and channel order of a (B, 3, H, W) batch in [0, 1], each crop on its own.

    One crop in seven is darkened strongly, to bright spots on near black: none of the photographs
    looks like that, and the held-out domain of the demo (a star field) does.
    """
    out = []
    for crop in crops:
        draw = rng.random()
        if draw < 0.5:
            gain = torch.from_numpy(rng.uniform(0.8, 1.2, size=(3, 1, 1)).astype(np.float32))
            crop = (crop * gain).clamp(0, 1) ** float(rng.uniform(0.75, 1.35))
        elif draw < 0.64:
            crop = crop ** float(rng.uniform(2.0, 4.0))
        if rng.random() < 0.15:
            crop = crop[torch.from_numpy(rng.permutation(3))]
        out.append(crop)
    return torch.stack(out)


# ------------------------------------------------------------------------------------------------------ VAE


def vae_batches(rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield endless augmented batches in [-1, 1], channels last; 64 px mostly, one in five of 128 px."""
    main = [photo_pyramid(photo.file) for photo in PHOTOS]
    extra = [photo_pyramid(file) for file in VAE_EXTRA_FILES]
    while True:
        count, size = (8, 64) if rng.random() < 0.8 else (2, 128)
        crops = []
        for _ in range(count):
            group = extra if rng.random() < 0.12 else main
            scales = group[rng.integers(len(group))]
            crop = random_crop(scales[rng.integers(len(scales))], size, size, rng)
            crops.append(crop.flip(-1) if rng.random() < 0.5 else crop)
        batch = jitter_colour(torch.stack(crops).float() / 255, rng)
        yield (batch * 2 - 1).contiguous(memory_format=torch.channels_last)


def new_vae() -> AutoencoderTiny:
    """Return an untrained VAE in the TAESD architecture with FLUX.1's 16 latent channels."""
    return AutoencoderTiny(latent_channels=flux1.LATENT_CHANNELS, scaling_factor=1.0)


def image_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 at full resolution and at 1/2, 1/4 and 1/8, plus L1 between the gradients; inputs (B, 3, H, W)."""
    difference = output - target
    loss = difference.abs().mean()
    # Gradients are linear, so the gradient of the difference is the difference of the gradients.
    loss = loss + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    for factor in (2, 4, 8):
        loss = loss + 0.5 * F.avg_pool2d(difference, factor).abs().mean()
    return loss


def latent_statistics_loss(latents: Tensor) -> Tensor:
    """Distance of each channel from zero mean and unit variance over a (B, C, h, w) batch."""
    variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
    return mean.square().mean() + variance.clamp(min=1e-6).log().square().mean()


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderTiny, batches: Iterator[Tensor], count: int = 24) -> None:
    """Make the latents zero-mean and unit-variance by an affine map inside the two convolutions they meet.

    The decoder's soft clamp lies between the two, so the fold is exact only for small latents; a little
    more training takes up the rest.
    """
    latents = [vae.encoder(next(batches)).transpose(0, 1).flatten(1) for _ in range(count)]
    std, mean = torch.std_mean(torch.cat(latents, dim=1), dim=1)
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    first.bias += (first.weight.sum(dim=(2, 3)) * mean).sum(dim=1)
    first.weight *= std.view(1, -1, 1, 1)
    last.bias.copy_((last.bias - mean) / std)
    last.weight /= std.view(-1, 1, 1, 1)


def vae_loss(vae: AutoencoderTiny, images: Tensor, rng: np.random.Generator, encoder_too: bool) -> Tensor:
    """One training loss on (B, 3, H, W) images in [-1, 1], for the decoder alone or for both halves.

    Two things make the latents easier for a generator than plain auto-encoding would: the decoder sees
    slightly noisy latents, and now and then latents averaged 2x2, which must decode to the small image.
    The second keeps detail out of patterns that only the exact pixel grid explains.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(encoder_too):
        latents = vae.encoder(images)
    latents = latents.float()
    regularisation = latent_statistics_loss(latents) if encoder_too else 0.0
    if rng.random() < 0.2:
        latents, images = F.avg_pool2d(latents, 2), F.avg_pool2d(images, 2)
    noisy = latents + float(rng.uniform(0.0, 0.1)) * torch.randn_like(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = vae.decoder(noisy)
    return image_loss(output.float(), images) + 0.02 * regularisation


def train_vae(
    vae: AutoencoderTiny,
    batches: Iterator[Tensor],
    schedule: Schedule,
    rng: np.random.Generator,
    encoder_too: bool,
    save: Callable[[], None],
) -> None:
    """Train in place, both halves or the decoder alone.

    With the encoder fixed the latents stay what they are, so the decoder can go on improving while a
    transformer already trains on them. ``save`` is called every 250 steps: a killed run leaves weights.
    """
    vae.train().requires_grad_(True).to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(encoder_too)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=1e-4)
    progress = tqdm(total=schedule.steps, desc="vae" if encoder_too else "decoder", mininterval=10)
    step, average = 0, None
    while schedule.done(step) < 1:
        schedule.apply(optimiser, step)
        if encoder_too and step == schedule.steps // 2:
            fold_latent_statistics(vae, batches)
        value = descend(vae_loss(vae, next(batches), rng, encoder_too), vae, optimiser)
        average = value if average is None else average + 0.01 * (value - average)
        step += 1
        progress.update()
        progress.set_postfix(loss=f"{average:.4f}", refresh=False)
        if step % 250 == 0:
            save()
    vae.eval().requires_grad_(False)


def save_vae(vae: AutoencoderTiny, path: Path) -> None:
    """Write float16 weights under the TAESD key names that ComfyUI's VAE loader recognises.

    Its decoder counts the parameterless clamp as layer 0, so decoder indices are one higher than diffusers'.
    """
    weights = {"vae_scale": torch.tensor(flux1.VAE_SCALE), "vae_shift": torch.tensor(flux1.VAE_SHIFT)}
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
    parts = images.contiguous(memory_format=torch.channels_last).split(16)
    return torch.cat([vae.encoder(part) for part in parts])


@torch.no_grad()
def decode(vae: AutoencoderTiny, latents: Tensor) -> Tensor:
    """Normalised latents z (B, 16, h, w) -> images (B, 3, 8h, 8w) in [-1, 1]."""
    return torch.cat([vae.decoder(part) for part in latents.split(16)]).clamp(-1, 1)


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], mean over the batch's images."""
    error = (output - target).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return float((10 * torch.log10(4 / error)).mean())


# -------------------------------------------------------------------------------------------------- latents


@dataclass(frozen=True)
class LatentCrops:
    """Cached crops of one size: normalised latents (N, 16, h, w) and the photo index (N,) of each."""

    latents: Tensor
    photos: np.ndarray


def cut_crops(photo: Photo, height: int, width: int, count: int) -> Tensor:
    """Return crops in [-1, 1], (count, 3, height, width), at the photo's own scale, around its centre.

    They are the centre and its nearest neighbours on a grid of one token (16 px): few, and sharing tokens,
    because a model this small learns such a set in minutes and random crops only in hours.
    """
    # A small crop shows the same view at a smaller scale, so its caption stays true.
    short_side = max(photo.short_side * max(height, width) / 128, height, width)
    image = scale_to_short_side(read_photo(photo.file), short_side)
    grid = 2 * flux1.VAE_FACTOR
    room = (image.shape[1] - height, image.shape[2] - width)
    rows, columns = ([start for start in range(space // 2 % grid, space + 1, grid)] for space in room)
    corners = [(row, column) for row in rows for column in columns]
    corners.sort(key=lambda corner: math.dist(corner, (room[0] / 2, room[1] / 2)))
    chosen = [corners[index % len(corners)] for index in range(count)]
    crops = [image[:, row : row + height, column : column + width] for row, column in chosen]
    return torch.stack(crops).float() / 127.5 - 1


def cache_latents(vae: AutoencoderTiny) -> dict[tuple[int, int], LatentCrops]:
    """Encode the crops that the transformer trains on, by (height, width) in pixels."""
    cache = {}
    for (height, width), count in CROPS_PER_PHOTO.items():
        latents = [encode(vae, cut_crops(photo, height, width, count)) for photo in PHOTOS]
        cache[height, width] = LatentCrops(torch.cat(latents), np.repeat(np.arange(len(PHOTOS)), count))
    return cache


# ---------------------------------------------------------------------------------------------- transformer


class TextToVelocity(nn.Module):
    """The transformer and its text encoder as one trainable module."""

    def __init__(self, transformer: FluxTransformer2DModel, text: TinyTextEncoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text = text

    def forward(self, noisy: Tensor, sigma: Tensor, guidance: Tensor, captions: list[str]) -> Tensor:
        """Predict the velocity (noise - clean) of latents (B, 16, h, w) at noise level ``sigma`` (B,)."""
        height, width = noisy.shape[-2:]
        prompt, pooled = self.text.encode(captions)
        velocity = self.transformer(
            hidden_states=flux1.pack(noisy),
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=flux1.image_ids(height, width, noisy.device),
            txt_ids=flux1.text_ids(TinyTextEncoder.TOKENS, noisy.device),
            return_dict=False,
        )[0]
        return flux1.unpack(velocity.float(), height, width)


def new_model() -> TextToVelocity:
    """Return an untrained model whose blocks start as the identity.

    Zero modulation gates and a zero output layer are the usual start of diffusion transformers; they
    make the first hundreds of steps far steadier than diffusers' default initialisation.
    """
    transformer = FluxTransformer2DModel(**TRANSFORMER_CONFIG)
    modulations = [block.norm for block in transformer.single_transformer_blocks]
    for block in transformer.transformer_blocks:
        modulations += [block.norm1, block.norm1_context]
    for linear in [*(norm.linear for norm in modulations), transformer.norm_out.linear, transformer.proj_out]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return TextToVelocity(transformer, TinyTextEncoder())


def draw_sigmas(count: int, rng: np.random.Generator) -> Tensor:
    """Noise levels (count,): 60 % logit-normal, 40 % uniform so that both ends are trained too."""
    logit_normal = 1 / (1 + np.exp(-rng.standard_normal(count)))
    uniform = rng.uniform(0.0, 1.0, count)
    return torch.from_numpy(np.where(rng.random(count) < 0.6, logit_normal, uniform)).float()


def draw_caption(photo: Photo, rng: np.random.Generator) -> str:
    """One of the photo's captions, or the empty text one time in ten."""
    return "" if rng.random() < 0.1 else photo.captions[rng.integers(len(photo.captions))]


def flow_loss(model: nn.Module, crops: LatentCrops, batch: int, rng: np.random.Generator) -> Tensor:
    """Mean squared error of the velocity on a random batch of cached crops."""
    chosen = rng.integers(len(crops.photos), size=batch)
    clean = crops.latents[torch.from_numpy(chosen)]
    noise = torch.randn_like(clean)
    sigma = draw_sigmas(batch, rng)
    # The base has no distilled guidance: it must accept any value and give it no meaning.
    guidance = np.where(rng.random(batch) < 0.5, rng.uniform(1.0, 4.0, batch), 1.0)
    captions = [draw_caption(PHOTOS[index], rng) for index in crops.photos[chosen]]
    noisy = flow.interpolate(clean, noise, sigma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = model(noisy, sigma, torch.from_numpy(guidance).float(), captions)
    return flow.flow_loss(velocity.float(), clean, noise).mean()


def train_transformer(
    model: TextToVelocity,
    cache: dict[tuple[int, int], LatentCrops],
    schedule: Schedule,
    seed: int,
    save: Callable[[TextToVelocity], None],
) -> TextToVelocity:
    """Train ``model`` and return its moving average; ``save`` gets the average every 250 steps."""
    rng = np.random.default_rng(seed)
    model.train().requires_grad_(True)
    average_model = AveragedModel(model, multi_avg_fn=moving_average)
    optimiser = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.99))
    sizes, chances = list(CROP_SIZES), list(CROP_SIZES.values())
    progress = tqdm(total=schedule.steps, desc="transformer", mininterval=10)
    step, average = 0, None
    while schedule.done(step) < 1:
        schedule.apply(optimiser, step)
        size = sizes[rng.choice(len(sizes), p=chances)]
        value = descend(flow_loss(model, cache[size], BATCH, rng), model, optimiser)
        average_model.update_parameters(model)
        average = value if average is None else average + 0.01 * (value - average)
        step += 1
        progress.update()
        progress.set_postfix(loss=f"{average:.4f}", refresh=False)
        if step % 250 == 0:
            save(average_model.module)
    return average_model.module.eval().requires_grad_(False)


@torch.no_grad()
def moving_average(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
    """Exponential moving average in place; the decay rises to 0.998, so a short run counts."""
    decay = min(0.998, (1 + int(count)) / (10 + int(count)))
    torch._foreach_lerp_(averages, current, 1 - decay)


def parameter_groups(model: TextToVelocity) -> list[dict[str, object]]:
    """Weight decay on the transformer only: it would shrink the embedding rows that no caption uses."""
    return [
        {"params": list(model.transformer.parameters()), "weight_decay": 0.01},
        {"params": list(model.text.parameters()), "weight_decay": 0.0},
    ]


@torch.no_grad()
def match_unseen_words(text: TinyTextEncoder) -> None:
    """Scale the rows of words that no caption uses to the spread of the trained rows."""
    captions = ["", *(caption for photo in PHOTOS for caption in photo.captions)]
    seen = sorted({token for caption in captions for token in text.tokenize(caption)})
    rows = text.token_embedding.weight
    unseen = torch.ones(len(rows), dtype=torch.bool)
    unseen[seen] = False
    rows[unseen] *= rows[~unseen].std() / rows[unseen].std()


def save_model(model: TextToVelocity, out: Path) -> None:
    """Write the text encoder and, in diffusers' folder layout, the transformer; both float16."""
    save_half(model.text.state_dict(), out / TEXT_FILE)
    half = FluxTransformer2DModel(**TRANSFORMER_CONFIG)
    half.load_state_dict(model.transformer.state_dict())
    half.half().save_pretrained(out / TRANSFORMER_FOLDER)


def load_model(out: Path) -> TextToVelocity:
    """Read what :func:`save_model` wrote; float32, eval mode, frozen."""
    transformer = FluxTransformer2DModel.from_pretrained(
        out / TRANSFORMER_FOLDER, low_cpu_mem_usage=False
    ).float()
    model = TextToVelocity(transformer, TinyTextEncoder.load(out / TEXT_FILE))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def sample(
    model: TextToVelocity, captions: list[str], height: int, width: int, seed: int, steps: int = 25
) -> Tensor:
    """Draw one latent z a caption with FLUX's shifted Euler schedule: (B, 16, height/8, width/8)."""
    shape = (len(captions), flux1.LATENT_CHANNELS, height // flux1.VAE_FACTOR, width // flux1.VAE_FACTOR)
    latents = torch.randn(shape, generator=Generator().manual_seed(seed))
    sigmas = flow.sampling_sigmas(steps, flux1.num_tokens(*shape[2:])).float()
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        velocity = model(latents, sigma.expand(len(captions)), torch.ones(len(captions)), captions)
        latents = latents + (following - sigma) * velocity
    return latents


# --------------------------------------------------------------------------------------------------- shared


@dataclass
class Schedule:
    """How long to train and at which learning rate: linear warm-up, then half a cosine down to 1 %.

    Attributes:
        steps: at most this many optimiser steps.
        learning_rate: the peak.
        warmup: steps of the linear rise.
        minutes: stop earlier once this much time has passed; the cosine then follows the clock.
    """

    steps: int
    learning_rate: float
    warmup: int
    minutes: float = math.inf
    started: float = field(default_factory=time.monotonic)

    def done(self, step: int) -> float:
        """The share of the training that is over before ``step``, 1 at the end."""
        return max(step / self.steps, (time.monotonic() - self.started) / 60 / self.minutes)

    def apply(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Set the learning rate for ``step``."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.done(step))))
        for group in optimiser.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (step + 1) / self.warmup) * (0.01 + 0.99 * cosine)


def descend(loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer) -> float:
    """Take one clipped optimiser step and return the loss.

    Raises:
        FloatingPointError: the loss is not finite; nothing is worth saving after that.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value}")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return value


def save_half(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors as contiguous float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().half().contiguous() for key, tensor in weights.items()}, path)


# --------------------------------------------------------------------------------------------------- report


def held_out_crops(rng: np.random.Generator, count: int) -> Tensor:
    """Crops (count, 3, 128, 128) in [-1, 1] of the photo that nothing is trained on."""
    image = scale_to_short_side(read_photo(HELD_OUT_PHOTO), 872)
    return torch.stack([random_crop(image, 128, 128, rng) for _ in range(count)]).float() / 127.5 - 1


def report(vae: AutoencoderTiny, model: TextToVelocity, seed: int) -> None:
    """Print PSNR by photo, the latents' statistics and the velocity error, all on freshly cut crops."""
    rng = np.random.default_rng(seed)
    means, latents = [], []
    for photo in PHOTOS:
        crops = cut_crops(photo, 128, 128, CROPS_PER_PHOTO[128, 128])
        latents.append(encode(vae, crops))
        means.append(psnr(decode(vae, latents[-1]), crops))
        print(f"PSNR {means[-1]:6.2f} dB  {photo.file}")
    print(f"PSNR {np.mean(means):6.2f} dB  mean over the training photos")
    crops = held_out_crops(rng, 16)
    held_out = encode(vae, crops)
    print(f"PSNR {psnr(decode(vae, held_out), crops):6.2f} dB  {HELD_OUT_PHOTO} (held out)")
    for name, batch in (("training photos", torch.cat(latents)), ("held out", held_out)):
        std, mean = torch.std_mean(batch, dim=(0, 2, 3))
        print(f"latents, {name}: channel means {mean.min():.2f}..{mean.max():.2f}", end=", ")
        print(f"standard deviations {std.min():.2f}..{std.max():.2f}")
    crops = LatentCrops(torch.cat(latents), np.repeat(np.arange(len(PHOTOS)), CROPS_PER_PHOTO[128, 128]))
    with torch.no_grad():
        losses = [float(flow_loss(model, crops, 64, rng)) for _ in range(8)]
    print(f"velocity error on the 128 px training crops: {np.mean(losses):.4f}")


def draw_contact_sheet(vae: AutoencoderTiny, model: TextToVelocity, path: Path, seed: int) -> None:
    """Save one row a photo: two real crops, their VAE reconstructions, three samples of its caption.

    The last row shows the held-out photo's crops and reconstructions, and samples of the empty caption.
    """
    rng = np.random.default_rng(seed)
    rows = [(photo.captions[0], cut_crops(photo, 128, 128, 2)) for photo in PHOTOS]
    rows.append(("", held_out_crops(rng, 2)))
    titles = ("real", "real", "reconstruction", "reconstruction", "sample", "sample", "sample")
    figure, axes = plt.subplots(
        len(rows), len(titles), figsize=(1.28 * len(titles) + 2.4, 1.32 * len(rows) + 0.4)
    )
    for index, (caption, crops) in enumerate(rows):
        samples = sample(model, [caption] * 3, 128, 128, seed + index)
        images = torch.cat([crops, decode(vae, torch.cat([encode(vae, crops), samples]))])
        for axis, image, title in zip(axes[index], images, titles, strict=True):
            axis.imshow((image * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if index == 0:
                axis.set_title(title, fontsize=8)
        label = textwrap.fill(caption or "left: held-out photo, right: empty caption", 20)
        axes[index, 0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    figure.subplots_adjust(left=0.17, right=0.995, top=0.98, bottom=0.005, wspace=0.03, hspace=0.03)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    # A palette of 256 colours halves the file, and with dithering the eye does not see it.
    sheet = Image.open(path).convert("RGB")
    palette = sheet.quantize(256, kmeans=2)
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


# ----------------------------------------------------------------------------------------------------- main


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--vae-steps", type=int, default=0, help="steps of the whole VAE (%(default)s)")
    parser.add_argument("--decoder-steps", type=int, default=2500, help="then, of its decoder (%(default)s)")
    parser.add_argument(
        "--transformer-steps", type=int, default=6000, help="0 keeps the one in --out (%(default)s)"
    )
    parser.add_argument("--vae-lr", type=float, default=5e-5, help="peak learning rate (%(default)s)")
    parser.add_argument("--transformer-lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most, for each training phase")
    parser.add_argument("--resume", action="store_true", help="start from the weights in --out")
    parser.add_argument("--contact-sheet", type=Path, help="PNG to draw at the end")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (%(default)s)")
    return parser.parse_args()


def make_vae(arguments: argparse.Namespace) -> AutoencoderTiny:
    """Compute the VAE or read it from ``--out``, then train it as long as the command line says."""
    path = arguments.out / VAE_FILE
    rng = np.random.default_rng(arguments.seed)
    if arguments.resume:
        vae = load_vae(path)
    else:
        vae = new_vae()
        start_as_patch_codec(vae, vae_batches(rng))
    for steps, encoder_too in ((arguments.vae_steps, True), (arguments.decoder_steps, False)):
        if steps:
            schedule = Schedule(steps, arguments.vae_lr, warmup=50, minutes=arguments.minutes)
            train_vae(vae, vae_batches(rng), schedule, rng, encoder_too, lambda: save_vae(vae, path))
    save_vae(vae, path)
    return load_vae(path)


def make_model(arguments: argparse.Namespace, vae: AutoencoderTiny) -> TextToVelocity:
    """Train, continue or just load the transformer and its text encoder, as the command line says."""
    if arguments.transformer_steps:
        cache = cache_latents(vae)
        model = load_model(arguments.out) if arguments.resume else new_model()
        schedule = Schedule(
            arguments.transformer_steps, arguments.transformer_lr, warmup=100, minutes=arguments.minutes
        )
        model = train_transformer(
            model, cache, schedule, arguments.seed + 2, lambda average: save_model(average, arguments.out)
        )
        match_unseen_words(model.text)
        save_model(model, arguments.out)
    return load_model(arguments.out)


def main() -> None:
    """Make what the command line asks for, then measure and draw what is in ``--out``."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started = time.monotonic()
    vae = make_vae(arguments)
    print(f"VAE ready after {(time.monotonic() - started) / 60:.1f} min")
    model = make_model(arguments, vae)
    print(f"transformer ready after {(time.monotonic() - started) / 60:.1f} min")
    report(vae, model, arguments.seed + 3)
    if arguments.contact_sheet:
        draw_contact_sheet(vae, model, arguments.contact_sheet, arguments.seed + 4)
    size = sum(file.stat().st_size for file in arguments.out.rglob("*.safetensors"))
    print(f"weights: {size / 2**20:.2f} MiB in all")


if __name__ == "__main__":
    main()
