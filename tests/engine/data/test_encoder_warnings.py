"""What encodings say of their encoders: of photographs, drawings and flat pictures, with FLUX's scale and another."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.config import TINY_BASE, EncodersConfig
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.encode import encode
from fluxduel.training.data.encoder_warnings import LEAST_DEVIATION, deviation, encoder_warnings, whose_prompt
from fluxduel.training.data.encoders import load_encoders
from fluxduel.training.data.fits import check_fits
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents

SIDE = 128
# Of low contrast too: the last three.
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "brick", "grass", "page", "text", "clock", "moon", "cell")


def photographs() -> list[Tensor]:
    pictures = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    return [as_tensor(picture.resize((SIDE, SIDE))) for picture in pictures]


def drawings() -> list[Tensor]:
    random = np.random.default_rng(0)
    pictures = []
    for ink, paper in (("black", "white"), ("white", "black"), ("black", "#f4ecd8"), ("#223355", "white")):
        picture = Image.new("RGB", (SIDE, SIDE), paper)
        pen = ImageDraw.Draw(picture)
        for _ in range(12):
            pen.line([tuple(random.integers(0, SIDE, 2)) for _ in range(2)], fill=ink, width=2)
        pictures.append(as_tensor(picture))
    return pictures


def flats() -> list[Tensor]:
    colours = ((1, 0, 0), (0, 0, 1), (1, 1, 1), (0, 0, 0), (0.9, 0.8, 0.7), (0, 0.5, 0.5))
    return [torch.tensor(colour, dtype=torch.float32).expand(SIDE, SIDE, 3) for colour in colours]


def as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)


def encoded(
    pictures: list[Tensor], scale: float = FLUX_1.scale, shift: float = FLUX_1.shift, width: int = 4096
) -> RealLatents:
    """By the built-in VAE, whose raw latents are given the scale and shift of another model's."""
    encoders = load_encoders(EncodersConfig(), TINY_BASE, "cpu")

    def encode_image(pixels: Tensor) -> tuple[Tensor, None]:
        return FLUX_1.normalise(encoders.encode_image(pixels)[0]) / scale + shift, None

    data, report = encode(
        pictures,
        ["a picture"] * len(pictures),
        names=[str(number) for number in range(len(pictures))],
        masks=None,
        encode_image=encode_image,
        encode_prompt=lambda caption: (torch.zeros(4, width), torch.zeros(64)),
        vae_key="",
        text_key="",
        resolution=SIDE,
        bucket_step=64,
        flip=False,
        held_out_share=0.0,
        seed=0,
        cache_folder=None,
    )
    assert ("the latents deviate" in report) == bool(encoder_warnings(data))
    return data


@pytest.mark.parametrize("pictures", [photographs, drawings, flats])
def test_flux_latents_of_any_kind_of_picture_are_taken(pictures) -> None:
    data = encoded(pictures())
    print(f"{pictures.__name__}: deviation {deviation(data):.2f}")
    assert encoder_warnings(data) == []


def test_latents_with_the_scale_of_stable_diffusion_3_are_named() -> None:
    for pictures in (photographs(), *([one] for one in photographs())):
        (warning,) = encoder_warnings(encoded(pictures, 1.5305, 0.0609))
        assert "Stable Diffusion 3's (0.24)" in warning and "Load ae.safetensors" in warning
    both = [deviation(encoded(photographs(), *layout)) for layout in ((FLUX_1.scale, 0.1), (1.5305, 0.1))]
    print(f"photographs: deviation {both[0]:.2f} with FLUX's scale, {both[1]:.2f} with Stable Diffusion 3's")
    assert both[1] < LEAST_DEVIATION < 0.6 < both[0]


def test_flat_grey_is_a_doubt_and_no_refusal() -> None:
    # Half as far from the mean as the built-in VAE sees grey, which it has hardly seen in training.
    near = encoded([torch.full((SIDE, SIDE, 3), 0.5)], scale=2 * FLUX_1.scale)
    (warning,) = encoder_warnings(near)
    assert "Unless the pictures are nearly flat and grey" in warning


def test_the_built_in_vae_is_beyond_doubt() -> None:
    assert encoder_warnings(encoded([torch.full((SIDE, SIDE, 3), 0.5)], width=128)) == []


def prompts_of(length: int, width: int, pooled: int) -> RealLatents:
    prompt = Prompt("a caption", torch.zeros(length, width), torch.zeros(pooled))
    sample = LatentSample("a", torch.ones(16, 8, 8), None, None, None, None, 0)
    return RealLatents((sample,), (prompt,), prompt, (), "")


@pytest.mark.parametrize(
    "width, pooled, whose",
    [
        (768, 768, "CLIP-L alone"),
        (4096, 2048, "Stable Diffusion 3's three text encoders"),
        (2048, 1280, "SDXL's two CLIPs"),
        (2048, 768, "a T5 that is smaller than XXL"),
    ],
)
def test_prompts_of_another_model_are_named(reference, width: int, pooled: int, whose: str) -> None:
    data = prompts_of(4, width, pooled)
    (warning,) = encoder_warnings(data)
    assert whose in warning and "CLIP-L and T5-XXL" in warning
    with pytest.raises(DataError, match=f"wide, but .* takes .*They are those of .*{whose}"):
        check_fits(reference, data)


def test_prompts_of_flux_and_of_the_tiny_base_are_not() -> None:
    assert encoder_warnings(prompts_of(512, 4096, 768)) == encoder_warnings(prompts_of(16, 128, 64)) == []
    assert whose_prompt(4096, 768) == ""


def test_captions_longer_than_flux_knows_are_named() -> None:
    (warning,) = encoder_warnings(prompts_of(513, 4096, 768))
    assert "more than 512 tokens: 1 ('a caption')" in warning
