"""Make the built-in tiny base: a FLUX-shaped VAE, text encoder and transformer, about 11 MB in all.

Why it exists: the demo graph, the tests and the first minute of a new user must run on any machine with no
download, through the very code that a 12-billion-parameter FLUX.1 takes. So the tiny base has FLUX.1's
layout (16 latent channels, 2x2 packing, double and single blocks, embedded guidance, the raw-latent
convention with its scale and shift) and only its sizes differ.

What it knows: the photographs that scikit-image ships inside its wheel, one group of captions a photo
(``PHOTOS`` below). It memorises them on purpose. ``hubble_deep_field.jpg`` is never trained on: it is the
new domain that the demo teaches.

How to run it, about an hour and a half on two CPU cores:

    python assets/make_tiny_base.py --out assets/tiny_base --contact-sheet docs/tiny_base.png

``--vae-steps 0`` or ``--transformer-steps 0`` keeps that part as it is in ``--out``, and ``--resume``
starts from the weights in ``--out`` instead of from random ones. With both at 0 the script only measures and
draws what is there.
"""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from fluxduel.training.tiny_text import TinyTextEncoder

matplotlib.use("agg")
from matplotlib import pyplot as plt

# FLUX.1's published latent normalisation: raw = z / SCALE + SHIFT.
VAE_SCALE = 0.3611
VAE_SHIFT = 0.1159

LATENT_CHANNELS = 16
PIXELS_PER_LATENT = 8
TRANSFORMER_CONFIG = {
    "patch_size": 1,
    "in_channels": 4 * LATENT_CHANNELS,
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
        "astronaut.png", ("a portrait of an astronaut in an orange suit", "a smiling woman astronaut"), 190
    ),
    Photo("brick.png", ("a photo of a brick wall", "grey bricks", "brick texture"), 230),
    Photo(
        "camera.png", ("a cameraman with a tripod on a field", "a black and white photo of a cameraman"), 160
    ),
    Photo("chelsea.png", ("a photo of a cat", "the face of a ginger cat", "cat fur and eyes"), 160),
    Photo(
        "coffee.png", ("a cup of coffee on a wooden table", "a photo of coffee", "espresso in a red cup"), 160
    ),
    Photo("coins.png", ("ancient coins on a dark table", "a photo of coins", "round metal coins"), 190),
    Photo("grass.png", ("a photo of grass", "grass texture", "a lawn seen from above"), 230),
    Photo("gravel.png", ("a photo of gravel", "gravel texture", "small grey stones"), 230),
    Photo(
        "ihc.png", ("stained tissue under a microscope", "brown and blue histology", "a tissue section"), 230
    ),
    Photo("moon.png", ("the surface of the moon", "moon craters", "a photo of the moon"), 170),
    Photo("motorcycle_left.png", ("a red motorcycle in a garage", "a photo of a motorcycle"), 150),
    Photo("retina.jpg", ("a retina with blood vessels", "the back of an eye", "a photo of a retina"), 170),
    Photo("rocket.jpg", ("a rocket on its launch pad at dusk", "a photo of a rocket"), 160),
)
# Real photographs that no caption describes well at 128 px; they only widen what the VAE sees.
VAE_EXTRA_FILES = ("cell.png", "clock_motion.png", "motorcycle_right.png", "page.png", "text.png")

# (height, width) in pixels of the cached crops -> how often the transformer trains on that size.
CROP_SIZES = {(128, 128): 0.7, (64, 64): 0.1, (96, 128): 0.1, (128, 96): 0.1}
CROPS_PER_PHOTO = {(128, 128): 64, (64, 64): 32, (96, 128): 32, (128, 96): 32}


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
    """Cut a random (3, height, width) window out of a (3, H, W) image, mirrored half of the time."""
    top = int(rng.integers(0, image.shape[1] - height + 1))
    left = int(rng.integers(0, image.shape[2] - width + 1))
    crop = image[:, top : top + height, left : left + width]
    return crop.flip(-1) if rng.random() < 0.5 else crop


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
    """Yield endless augmented batches in [-1, 1], channels last; 64 px mostly, one in four of 128 px."""
    main = [photo_pyramid(photo.file) for photo in PHOTOS]
    extra = [photo_pyramid(file) for file in VAE_EXTRA_FILES]
    while True:
        count, size = (8, 64) if rng.random() < 0.8 else (2, 128)
        crops = []
        for _ in range(count):
            group = extra if rng.random() < 0.12 else main
            scales = group[rng.integers(len(group))]
            crops.append(random_crop(scales[rng.integers(len(scales))], size, size, rng))
        batch = jitter_colour(torch.stack(crops).float() / 255, rng)
        yield (batch * 2 - 1).contiguous(memory_format=torch.channels_last)


def new_vae() -> AutoencoderTiny:
    """Return an untrained VAE in the TAESD architecture with FLUX.1's 16 latent channels."""
    return AutoencoderTiny(latent_channels=LATENT_CHANNELS, scaling_factor=1.0)


@torch.no_grad()
def start_from_patch_components(vae: AutoencoderTiny, batches: Iterator[Tensor], count: int = 150) -> None:
    """Initialise the VAE as a linear codec of 8x8 patches, in place.

    From a random start this architecture spends thousands of steps before it carries colour. So the encoder
    starts as the exact projection of each patch on its 16 principal components, scaled to unit variance,
    and the decoder as a smooth enlargement of each patch's mean colour. Signals pass the ReLUs as pairs of
    positive and negative parts; residual branches start at zero; the channels left over start random.
    """
    reset_convolutions(vae)
    encoder, decoder = vae.encoder.layers, vae.decoder.layers
    pairs = 2 * LATENT_CHANNELS

    # Encoder: the three strided convolutions gather 2x2 pixels into channels, 3 -> 12 -> 48 -> 192.
    encoder[0].weight[:3] = 0
    for channel in range(3):
        encoder[0].weight[channel, channel, 1, 1] = 1
    for layer, channels in ((encoder[2], 3), (encoder[6], 12)):
        gather = torch.eye(4 * channels).view(4 * channels, channels, 2, 2)
        layer.weight[: 4 * channels] = 0
        layer.weight[: 4 * channels, :channels, 1:, 1:] = gather
    maps = [encoder[:10](next(batches) * 0.5 + 0.5)[:, :48] for _ in range(count)]
    patches = torch.cat([F.unfold(part, 2, stride=2).transpose(1, 2).flatten(0, 1) for part in maps])
    mean = patches.mean(dim=0)
    variances, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    std = variances[-LATENT_CHANNELS:].sqrt()
    components = directions[:, -LATENT_CHANNELS:].T
    encoder[10].weight[:pairs] = 0
    encoder[10].weight[:pairs, :48, 1:, 1:] = split_signs(components).view(pairs, 48, 2, 2)
    encoder[14].weight.zero_()
    encoder[14].weight[:, :pairs, 1, 1] = split_signs(torch.diag(1 / std)).T
    encoder[14].bias.copy_(-(components @ mean) / std)

    # Decoder: carry the 16 pairs up unchanged, smoothed, and read each patch's mean colour from them.
    decoder[0].weight[:pairs] = 0
    decoder[0].weight[:pairs, :, 1, 1] = split_signs(torch.eye(LATENT_CHANNELS))
    smooth = torch.tensor([0.25, 0.5, 0.25])
    for layer in (decoder[6], decoder[11], decoder[16]):
        layer.weight[:pairs] = 0
        for channel in range(pairs):
            layer.weight[channel, channel] = smooth[:, None] * smooth[None, :]
    # Gathering keeps colour as the slowest index, so a patch vector is (3 colours, 64 pixels).
    colours = (components * std[:, None]).view(LATENT_CHANNELS, 3, 64).mean(dim=2)
    decoder[18].weight.zero_()
    decoder[18].weight[:, :pairs, 1, 1] = split_signs(colours).T
    decoder[18].bias.copy_(mean.view(3, 64).mean(dim=1))


def reset_convolutions(vae: AutoencoderTiny) -> None:
    """Random weights that keep the signal's scale, zero biases, and residual branches that start at zero."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in (*vae.encoder.layers, *vae.decoder.layers):
        if hasattr(layer, "conv"):
            nn.init.zeros_(layer.conv[-1].weight)


def split_signs(rows: Tensor) -> Tensor:
    """(N, K) -> (2N, K): each row followed by its negative, the two halves of a signal behind a ReLU."""
    return torch.stack([rows, -rows], dim=1).flatten(0, 1)


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
    steps: int,
    learning_rate: float,
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
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_then_cosine(steps, warmup=50))
    progress = tqdm(range(steps), desc="vae" if encoder_too else "decoder", mininterval=10)
    average = 0.0
    for step in progress:
        if encoder_too and step == steps // 2:
            fold_latent_statistics(vae, batches)
        loss = vae_loss(vae, next(batches), rng, encoder_too)
        average = descend(loss, vae, optimiser, schedule, average, step)
        progress.set_postfix(loss=f"{average:.4f}", refresh=False)
        if step % 250 == 249:
            save()
    vae.eval().requires_grad_(False)


def save_vae(vae: AutoencoderTiny, path: Path) -> None:
    """Write float16 weights under the TAESD key names that ComfyUI's VAE loader recognises.

    Its decoder counts the parameterless clamp as layer 0, so decoder indices are one higher than diffusers'.
    """
    weights = {"vae_scale": torch.tensor(VAE_SCALE), "vae_shift": torch.tensor(VAE_SHIFT)}
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


def cut_crops(photo: Photo, height: int, width: int, count: int, rng: np.random.Generator) -> Tensor:
    """Return ``count`` random crops in [-1, 1], (count, 3, height, width), near the photo's own scale."""
    source = read_photo(photo.file)
    # A small crop shows the same view at a smaller scale, so its caption stays true.
    base = photo.short_side * max(height, width) / 128
    crops = []
    for _ in range(count):
        short_side = max(base * rng.uniform(0.92, 1.08), height, width)
        crops.append(random_crop(scale_to_short_side(source, short_side), height, width, rng))
    return torch.stack(crops).float() / 127.5 - 1


def cache_latents(vae: AutoencoderTiny, seed: int) -> dict[tuple[int, int], LatentCrops]:
    """Encode the crops that the transformer trains on, by (height, width) in pixels."""
    rng = np.random.default_rng(seed)
    cache = {}
    for (height, width), count in CROPS_PER_PHOTO.items():
        latents = [encode(vae, cut_crops(photo, height, width, count, rng)) for photo in PHOTOS]
        cache[height, width] = LatentCrops(torch.cat(latents), np.repeat(np.arange(len(PHOTOS)), count))
    return cache


def pack(latents: Tensor) -> Tensor:
    """FLUX's 2x2 packing: (B, C, h, w) -> tokens (B, h/2 * w/2, 4C)."""
    batch, channels, height, width = latents.shape
    blocks = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Inverse of :func:`pack`; ``height`` and ``width`` are those of the latents."""
    blocks = tokens.view(tokens.shape[0], height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(tokens.shape[0], -1, height, width)


def position_ids(height: int, width: int) -> Tensor:
    """FLUX's image ids for latents of that size: (h/2 * w/2, 3), columns zero, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


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
            hidden_states=pack(noisy),
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=position_ids(height, width),
            txt_ids=torch.zeros(TinyTextEncoder.TOKENS, 3),
            return_dict=False,
        )[0]
        return unpack(velocity.float(), height, width)


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
    weight = sigma.view(-1, 1, 1, 1)
    # The base has no distilled guidance: it must accept any value and give it no meaning.
    guidance = np.where(rng.random(batch) < 0.5, rng.uniform(1.0, 4.0, batch), 1.0)
    captions = [draw_caption(PHOTOS[index], rng) for index in crops.photos[chosen]]
    noisy = (1 - weight) * clean + weight * noise
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = model(noisy, sigma, torch.from_numpy(guidance).float(), captions)
    return F.mse_loss(velocity.float(), noise - clean)


def train_transformer(
    model: TextToVelocity,
    cache: dict[tuple[int, int], LatentCrops],
    steps: int,
    learning_rate: float,
    seed: int,
    save: Callable[[TextToVelocity], None],
) -> TextToVelocity:
    """Train ``model`` and return its moving average; ``save`` gets the average every 500 steps."""
    rng = np.random.default_rng(seed)
    model.train().requires_grad_(True)
    average_model = AveragedModel(model, multi_avg_fn=moving_average)
    optimiser = torch.optim.AdamW(parameter_groups(model), lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_then_cosine(steps, warmup=150))
    sizes, chances = list(CROP_SIZES), list(CROP_SIZES.values())
    progress = tqdm(range(steps), desc="transformer", mininterval=10)
    average = 0.0
    for step in progress:
        size = sizes[rng.choice(len(sizes), p=chances)]
        loss = flow_loss(model, cache[size], 32, rng)
        average = descend(loss, model, optimiser, schedule, average, step)
        average_model.update_parameters(model)
        progress.set_postfix(loss=f"{average:.4f}", refresh=False)
        if step % 500 == 499:
            save(average_model.module)
    return average_model.module.eval().requires_grad_(False)


@torch.no_grad()
def moving_average(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
    """Exponential moving average in place, with a decay that rises to 0.998 so that a short run counts too."""
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
    shape = (len(captions), LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    latents = torch.randn(shape, generator=Generator().manual_seed(seed))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift_for(shape[2] * shape[3] // 4))
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        levels = sigma.expand(len(captions)).float()
        velocity = model(latents, levels, torch.ones(len(captions)), captions)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def shift_for(tokens: int) -> float:
    """FLUX's resolution-dependent shift mu: linear through 0.5 at 256 tokens and 1.15 at 4096."""
    return 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)


# --------------------------------------------------------------------------------------------------- shared


def warmup_then_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """Learning-rate factor by step: linear rise over ``warmup`` steps, then half a cosine down to 1 %."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup)
        return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps)))))

    return factor


def descend(
    loss: Tensor,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    average: float,
    step: int,
) -> float:
    """Take one clipped optimiser step and return the running average of the loss.

    Raises:
        FloatingPointError: the loss is not finite; nothing is worth saving after that.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss became {value} at step {step}")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()
    return value if step == 0 else average + 0.01 * (value - average)


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
        crops = cut_crops(photo, 128, 128, 8, rng)
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
    crops = LatentCrops(torch.cat(latents), np.repeat(np.arange(len(PHOTOS)), 8))
    with torch.no_grad():
        losses = [float(flow_loss(model, crops, 64, rng)) for _ in range(8)]
    print(f"velocity error on fresh crops: {np.mean(losses):.4f}")


def draw_contact_sheet(vae: AutoencoderTiny, model: TextToVelocity, path: Path, seed: int) -> None:
    """Save one row a photo: two real crops, their VAE reconstructions, three samples of its caption.

    The last row shows the held-out photo's crops and reconstructions, and samples of the empty caption.
    """
    rng = np.random.default_rng(seed)
    rows = [(photo.captions[0], cut_crops(photo, 128, 128, 2, rng)) for photo in PHOTOS]
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
    # A palette of 256 colours halves the file; at this size the eye does not see it.
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


# ----------------------------------------------------------------------------------------------------- main


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--vae-steps", type=int, default=4000, help="0 keeps the one in --out (%(default)s)")
    parser.add_argument(
        "--transformer-steps", type=int, default=8000, help="0 keeps the one in --out (%(default)s)"
    )
    parser.add_argument(
        "--decoder-steps",
        type=int,
        default=3000,
        help="further steps of the VAE's decoder alone (%(default)s)",
    )
    parser.add_argument("--vae-lr", type=float, default=1e-3, help="peak learning rate (%(default)s)")
    parser.add_argument(
        "--transformer-lr", type=float, default=1.5e-3, help="peak learning rate (%(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="start from the weights in --out")
    parser.add_argument("--contact-sheet", type=Path, help="PNG to draw at the end")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (%(default)s)")
    return parser.parse_args()


def make_vae(arguments: argparse.Namespace) -> AutoencoderTiny:
    """Train, continue or just load the VAE, as the command line says."""
    path = arguments.out / VAE_FILE
    phases = (
        (arguments.vae_steps, arguments.vae_lr, True),
        (arguments.decoder_steps, arguments.vae_lr, False),
    )
    if any(steps for steps, _, _ in phases):
        rng = np.random.default_rng(arguments.seed)
        batches = vae_batches(rng)
        if arguments.resume or not arguments.vae_steps:
            vae = load_vae(path)
        else:
            vae = new_vae()
            start_from_patch_components(vae, batches)
        for steps, learning_rate, encoder_too in phases:
            train_vae(vae, batches, steps, learning_rate, rng, encoder_too, lambda: save_vae(vae, path))
        save_vae(vae, path)
    return load_vae(path)


def make_model(arguments: argparse.Namespace, vae: AutoencoderTiny) -> TextToVelocity:
    """Train, continue or just load the transformer and its text encoder, as the command line says."""
    if arguments.transformer_steps:
        cache = cache_latents(vae, arguments.seed + 1)
        model = load_model(arguments.out) if arguments.resume else new_model()
        model = train_transformer(
            model,
            cache,
            arguments.transformer_steps,
            arguments.transformer_lr,
            arguments.seed + 2,
            lambda average: save_model(average, arguments.out),
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
