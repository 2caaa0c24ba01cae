"""One cache for datasets of FLUX.1 and of FLUX.2: each has latents, masks and prompts of its own kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxduel.training.base.families.latent_space import FLUX_1, FLUX_2, LatentSpace
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.encode import encode
from fluxduel.training.data.real_latents import RealLatents

POOLED = {FLUX_1: 5, FLUX_2: 0}


def run(
    space: LatentSpace, folder: Path | None, *, pooled: int | None = None, width: int = 6
) -> tuple[RealLatents, str]:
    """One picture, of which the left quarter is to be learned."""

    def encode_image(pixels: Tensor) -> tuple[Tensor, None]:
        return F.avg_pool2d(pixels.movedim(-1, 1), space.factor).repeat(1, 43, 1, 1)[:, : space.channels] * 20, None

    def encode_prompt(caption: str) -> tuple[Tensor, Tensor]:
        return torch.full((4, width), float(len(caption))), torch.ones(POOLED[space] if pooled is None else pooled)

    mask = torch.zeros(64, 64)
    mask[:, :16] = 1
    return encode(
        [torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))], ["a cat"], names=["a.png"], masks=[mask],
        encode_image=encode_image, encode_prompt=encode_prompt, vae_key=space.name, text_key=f"{space.name} {width}",
        resolution=64, bucket_step=16, flip=False, held_out_share=0.0, seed=0, cache_folder=folder, space=space,
    )  # fmt: skip


def test_masks_and_latents_are_those_of_the_space_also_from_one_cache(tmp_path: Path) -> None:
    for _ in range(2):
        for space in (FLUX_1, FLUX_2):
            data, _ = run(space, tmp_path)
            side = 64 // space.factor
            sample = data.samples[0]
            assert sample.shape == (space.channels, side, side)
            assert sample.mask.shape == (1, side, side) and sample.mask[0].sum(1).tolist() == [side / 4] * side
            assert data.prompts[0].pooled_prompt_embeds.shape == (POOLED[space],)


def test_flux2s_latents_are_taken_as_they_are() -> None:
    mean = run(FLUX_2, None)[0].samples[0].mean
    assert 0 <= mean.min() and mean.max() <= 20 and mean.max() > 10


@pytest.mark.parametrize(("space", "pooled", "words"), [
    (FLUX_1, 0, "no pooled vector, and FLUX's own VAE encodes the pictures"),
    (FLUX_2, 5, "a pooled vector, and FLUX.2's own VAE encodes the pictures"),
])  # fmt: skip
def test_prompts_of_the_other_kind_are_refused(space: LatentSpace, pooled: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(space, None, pooled=pooled)


def test_prompts_of_another_models_text_encoder_are_warned_of() -> None:
    assert "the prompts are those of Qwen3-4B, read as for Z-Image" in run(FLUX_2, None, width=2560)[1]
    assert "the prompts are" not in run(FLUX_2, None, width=7680)[1]


def test_latents_of_another_size_than_the_spaces_are_refused() -> None:
    with pytest.raises(DataError, match=r"FLUX.2 latents are \(batch, 128, height, width\).*flux2-vae.safetensors"):
        encode(
            [torch.rand(64, 64, 3)], ["a"], names=["a.png"], masks=None, held_out_share=0.0, seed=0, cache_folder=None,
            encode_image=lambda pixels: (torch.zeros(1, 16, 8, 8), None), vae_key="v", text_key="t", flip=False,
            encode_prompt=lambda caption: (torch.ones(4, 6), torch.zeros(0)), resolution=64, bucket_step=16,
            space=FLUX_2,
        )  # fmt: skip
