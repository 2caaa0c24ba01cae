"""Encoding a dataset: buckets, masks, split, cache, report, errors. The encoders are small functions."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxduel.training.base.checkpoint_files import BaseModelError, read_transformer_config
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.data.batches import held_out_batches, micro_batches
from fluxduel.training.data.buckets import buckets, fit, latent_mask, nearest, window
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.encode import encode
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents, drawn, with_phrase


def pooled_pixels(pixels: Tensor) -> Tensor:
    """(1, H, W, 3) -> (1, 16, H/8, W/8): the mean colour of each cell, the channels repeated."""
    return F.avg_pool2d(pixels.permute(0, 3, 1, 2), 8).repeat(1, 6, 1, 1)[:, :16]


class Encoders:
    """A VAE that averages and text encoders that hash, which count what they are asked."""

    def __init__(self, std: float | None = 0.1) -> None:
        self.std = std
        self.pictures = 0
        self.prompts: list[str] = []

    def image(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        self.pictures += 1
        mean = pooled_pixels(pixels)
        return mean, None if self.std is None else torch.full_like(mean, self.std)

    def prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        self.prompts.append(caption)
        generator = torch.Generator().manual_seed(sum(ord(c) * 31**k for k, c in enumerate(caption[:9])))
        return torch.randn(4, 6, generator=generator), torch.randn(5, generator=generator)


def picture(seed: int, height: int = 64, width: int = 64) -> Tensor:
    """Coarse random patches, so that resizing keeps something."""
    patches = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(patches, size=(height, width), mode="nearest")[0].permute(1, 2, 0).contiguous()


def run(images, captions=None, *, encoders: Encoders | None = None, **options):
    encoders = encoders or Encoders()
    settings = {
        "names": [f"{index}.png" for index in range(len(images))],
        "masks": None,
        "encode_image": encoders.image,
        "encode_prompt": encoders.prompt,
        "vae_key": "vae",
        "text_key": "text",
        "resolution": 64,
        "bucket_step": 16,
        "flip": False,
        "held_out_share": 0.0,
        "seed": 0,
        "cache_folder": None,
    }
    captions = [f"caption {index}" for index in range(len(images))] if captions is None else captions
    return encode(images, captions, **{**settings, **options})


# Buckets


@pytest.mark.parametrize(("resolution", "step"), [(64, 16), (512, 64), (500, 64), (1024, 64), (768, 32), (16, 16)])
def test_bucket_geometry(resolution: int, step: int) -> None:
    sizes = buckets(resolution, step)
    assert len(set(sizes)) == len(sizes)
    assert (resolution // step * step,) * 2 in sizes
    for height, width in sizes:
        assert height % step == width % step == 0 < height * width <= resolution**2
        assert (width, height) in sizes
        assert max(height / width, width / height) <= 4
        # No larger bucket fits: one more step on the long side exceeds the area, squares apart.
        if height != width:
            assert (max(height, width) + step) * min(height, width) > resolution**2


def test_nearest_bucket_is_nearest_in_log_space() -> None:
    sizes = buckets(512, 64)
    for height in range(50, 1200, 61):
        for width in range(50, 1200, 53):
            chosen = nearest(height, width, sizes)
            distances = {size: abs(math.log(size[0] / size[1]) - math.log(height / width)) for size in sizes}
            assert distances[chosen] == pytest.approx(min(distances.values()), abs=1e-6)


def test_every_crop_covers_the_bucket_centrally_without_distortion() -> None:
    sizes = buckets(256, 32)
    for height in range(1, 700, 37):
        for width in range(1, 700, 41):
            size = nearest(height, width, sizes)
            top, left, part_height, part_width = window(height, width, size)
            assert 0 <= top and 0 <= left and top + part_height <= height and left + part_width <= width
            assert part_height == height or part_width == width
            assert abs((height - part_height) - 2 * top) <= 1 and abs((width - part_width) - 2 * left) <= 1
            if min(part_height, part_width) >= 32:
                assert part_height / part_width == pytest.approx(size[0] / size[1], rel=0.5 / 16)


def test_fit_keeps_the_centre_and_antialiases() -> None:
    # Averaging over 8 x 8 pixels takes noise of deviation 0.29 to about 0.04; picking pixels would leave most of it.
    noise = torch.rand(3, 512, 512, generator=torch.Generator().manual_seed(0))
    assert fit(noise, (64, 64)).std() < 0.08
    stripes = torch.zeros(3, 64, 192)
    stripes[:, :, 64:128] = 1.0
    assert torch.equal(fit(stripes, (64, 64)), torch.ones(3, 64, 64))
    same = torch.rand(3, 64, 48)
    assert torch.equal(fit(same, (64, 48)), same)
    assert fit(torch.eye(64).expand(3, 64, 64), (96, 96)).aminmax() == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(
    ("resolution", "step", "message"),
    [
        (64, 8, "bucket_step must be a multiple of 16, at least 16; got 8"),
        (64, 24, "bucket_step must be a multiple of 16, at least 16; got 24"),
        (32, 64, r"resolution must be from bucket_step \(64\) to 2048; got 32"),
        (4096, 64, "resolution must be from .* got 4096"),
    ],
)
def test_buckets_out_of_range(resolution: int, step: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run([picture(0)], resolution=resolution, bucket_step=step)


# Encoding


def test_latents_are_the_normalised_posterior_of_the_crop() -> None:
    image = picture(3, 64, 100)
    data, _ = run([image])
    size = nearest(64, 100, buckets(64, 16))
    crop = fit(image.permute(2, 0, 1), size)
    (sample,) = data.samples
    expected = (pooled_pixels(crop.permute(1, 2, 0)[None])[0] - 0.1159) * 0.3611
    assert torch.allclose(sample.mean, expected, atol=1e-6)
    assert torch.allclose(sample.std, torch.full_like(expected, 0.1 * 0.3611))
    assert sample.mean.shape == (16, size[0] // 8, size[1] // 8)
    assert sample.flipped_mean is None and sample.flipped_std is None and sample.mask is None


def test_a_deterministic_vae_has_no_deviation() -> None:
    data, _ = run([picture(0)], encoders=Encoders(std=None), flip=True)
    assert data.samples[0].std is None and data.samples[0].flipped_std is None


def test_the_mirrored_picture_is_encoded_not_the_latents_mirrored() -> None:
    def lopsided(pixels: Tensor) -> tuple[Tensor, None]:
        latents = pooled_pixels(pixels)
        return latents + torch.linspace(0, 1, latents.shape[-1]), None

    image = picture(1)
    data, _ = run([image], encode_image=lopsided, flip=True)
    sample = data.samples[0]
    assert torch.allclose(sample.flipped_mean, FLUX_1.normalise(lopsided(image.flip(1)[None])[0][0]), atol=1e-6)
    assert not torch.allclose(sample.flipped_mean, sample.mean.flip(-1), atol=0.05)


def test_prompts_are_encoded_once_and_shared() -> None:
    encoders = Encoders()
    captions = ["a cat", "a dog", "a cat", "a dog", "a cat"]
    data, _ = run([picture(i) for i in range(5)], captions, encoders=encoders)
    assert sorted(encoders.prompts) == ["", "a cat", "a dog"]
    assert [prompt.caption for prompt in data.prompts] == ["a cat", "a dog"]
    assert [data.prompts[sample.prompt].caption for sample in data.samples] == captions
    assert data.empty_prompt.caption == ""
    for prompt in (*data.prompts, data.empty_prompt):
        expected, pooled = encoders.prompt(prompt.caption)
        assert torch.equal(prompt.prompt_embeds, expected) and torch.equal(prompt.pooled_prompt_embeds, pooled)


def test_repeats_are_encoded_once_and_share_memory() -> None:
    encoders = Encoders()
    one, two = picture(0), picture(1)
    data, text = run([one] * 10 + [two], ["x"] * 11, names=["a.png"] * 10 + ["b.png"], encoders=encoders, flip=True)
    assert encoders.pictures == 4 and torch.equal(one, picture(0))
    assert len({id(sample.mean) for sample in data.samples}) == 2
    assert "Pictures: 11, of which 2 distinct." in text
    assert "several names" not in text


def test_encodings_made_in_inference_mode_can_be_trained_on() -> None:
    with torch.inference_mode():
        data, _ = run([picture(0)], masks=[torch.ones(64, 64)], flip=True)
    (batch,) = micro_batches(data, seed=0, step=0, batch_size=1, gradient_accumulation=1)
    layer = torch.nn.Conv2d(16, 1, 1)
    (layer(batch.x0) * batch.mask).sum().backward()
    torch.nn.Linear(6, 1)(data.prompts[0].prompt_embeds).sum().backward()
    assert layer.weight.grad is not None


def test_other_types_and_small_overshoot_are_taken() -> None:
    image = torch.full((64, 64, 3), 1.05, dtype=torch.float64)
    image[:, 32:] = -0.05
    data, _ = run([image], encoders=Encoders(std=None))
    assert data.samples[0].mean.dtype == torch.float32
    assert FLUX_1.denormalise(data.samples[0].mean).aminmax() == pytest.approx((0.0, 1.0), abs=1e-6)


def test_progress_counts_every_encoding() -> None:
    calls = []
    run([picture(i) for i in range(3)], flip=True, report=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 10) for k in range(1, 11)]


# Masks


def test_masks_follow_the_crop_at_latent_resolution() -> None:
    mask = torch.zeros(64, 192)
    mask[:, 64:96] = 1.0
    data, _ = run([picture(0, 64, 192), picture(1)], masks=[mask, None], resolution=64)
    sample = data.samples[0]
    assert sample.mask.shape == (1, *sample.mean.shape[1:])
    assert data.samples[1].mask is None
    assert torch.equal(sample.mask, latent_mask(mask, nearest(64, 192, buckets(64, 16)), 8))
    assert sample.mask.min() == 0.0 and sample.mask.max() == 1.0
    left, right = sample.mask.chunk(2, dim=-1)
    assert left.sum() > 10 * right.sum()


def test_a_latent_cell_holds_the_masks_mean() -> None:
    mask = torch.zeros(64, 64)
    mask[:8, :4] = 1.0
    data, _ = run([picture(0)], masks=[mask])
    assert data.samples[0].mask[0, 0, 0] == 0.5
    assert data.samples[0].mask.sum() == 0.5


# Split


def names_of(data, indices) -> set[str]:
    return {data.samples[index].name for index in indices}


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(10, 0.2, 2), (10, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0), (10, 0.0, 0), (3, 0.9, 2)]
)
def test_held_out_count(count: int, share: float, expected: int) -> None:
    data, _ = run([picture(i) for i in range(count)], held_out_share=share)
    assert len(data.held_out) == expected
    assert len(data.training) == count - expected
    assert not set(data.training) & set(data.held_out)


def test_held_out_pictures_are_in_no_training_batch_and_in_the_held_out_ones() -> None:
    data, _ = run([picture(i) for i in range(12)], held_out_share=0.25)
    trained = {
        name
        for step in range(30)
        for batch in micro_batches(data, seed=1, step=step, batch_size=3, gradient_accumulation=1)
        for name in batch.names
    }
    held_out = {name for batch in held_out_batches(data, 2) for name in batch.names}
    assert held_out == names_of(data, data.held_out) and len(held_out) == 3
    assert trained == {sample.name for sample in data.samples} - held_out


def test_duplicates_stay_on_one_side() -> None:
    pairs = [picture(i // 2) for i in range(20)]
    for seed in range(5):
        data, text = run(pairs, held_out_share=0.3, seed=seed)
        assert len(data.held_out) == 6
        assert all((index ^ 1) in data.held_out for index in data.held_out)
    assert "pictures that are there under several names: 10 ('0.png', '10.png'" in text


def test_near_duplicates_stay_on_one_side_and_are_named() -> None:
    """A photo and its rescaled copy: a twin that is trained on would make held_out_loss tell nothing."""
    images = [picture(i, 64, 64) for i in range(20)]
    twins = [F.interpolate(image.permute(2, 0, 1)[None], scale_factor=2, mode="nearest") for image in images[:4]]
    images += [twin[0].permute(1, 2, 0).contiguous() for twin in twins]
    sides = set()
    for seed in range(20):
        data, text = run(images, held_out_share=0.3, seed=seed)
        assert len(data.held_out) in (6, 7)
        for index in range(4):
            assert (index in data.held_out) == (20 + index in data.held_out)
            sides.add(index in data.held_out)
    assert sides == {True, False}
    assert "pictures that are nearly the same: 8 in 4 groups ('0.png' and '20.png'; '1.png' and '21.png'" in text
    assert "None is held out of those whose like is trained on." in text
    data, text = run([images[0], images[20]], held_out_share=0.1)
    assert len(data.held_out) == 1 and "held_out_loss tells little" in text
    assert "nearly the same" not in run(images[:20], held_out_share=0.3)[1]


def test_the_split_depends_on_seed_and_content_and_moves_little() -> None:
    images = [picture(i) for i in range(20)]
    splits = {held_out_contents(images, seed) for seed in range(5)}
    assert len(splits) > 1
    before = held_out_contents(images, 0)
    assert held_out_contents(images[::-1], 0) == before
    after = held_out_contents([*images, picture(99)], 0)
    assert len(before - after) <= 1


def held_out_contents(images, seed: int) -> frozenset[float]:
    data, _ = run(images, held_out_share=0.2, seed=seed)
    return frozenset(images[index].sum().item() for index in data.held_out)


def test_nothing_can_be_held_out_of_copies() -> None:
    data, text = run([picture(0)] * 3, held_out_share=0.5)
    assert data.held_out == ()
    assert "Warning: nothing is held out" in text


# Cache


def test_a_second_run_asks_no_encoder(tmp_path: Path) -> None:
    images = [picture(i) for i in range(3)]
    first, text = run(images, flip=True, cache_folder=tmp_path / "new" / "cache")
    assert "Encodings found in the cache: 0 of 10." in text
    encoders = Encoders()
    second, text = run(images, flip=True, cache_folder=tmp_path / "new" / "cache", encoders=encoders)
    assert encoders.pictures == 0 and encoders.prompts == []
    assert "Encodings found in the cache: 10 of 10." in text
    assert first.fingerprint == second.fingerprint
    for one, other in zip(first.samples, second.samples, strict=True):
        assert torch.equal(one.mean, other.mean) and torch.equal(one.flipped_std, other.flipped_std)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_cache_keeps_a_deterministic_vae_deterministic(tmp_path: Path) -> None:
    for _ in range(2):
        data, _ = run([picture(0)], encoders=Encoders(std=None), cache_folder=tmp_path)
        assert data.samples[0].std is None


def test_an_edited_caption_encodes_that_caption_alone(tmp_path: Path) -> None:
    images = [picture(i) for i in range(3)]
    run(images, ["a", "b", "c"], cache_folder=tmp_path)
    encoders = Encoders()
    data, _ = run(images, ["a", "new", "c"], cache_folder=tmp_path, encoders=encoders)
    assert encoders.prompts == ["new"] and encoders.pictures == 0
    assert [data.prompts[sample.prompt].caption for sample in data.samples] == ["a", "new", "c"]


def test_other_weights_or_sizes_encode_again(tmp_path: Path) -> None:
    images = [picture(i) for i in range(3)]
    run(images, cache_folder=tmp_path)
    for options, pictures, prompts in (
        ({"vae_key": "another"}, 3, 0),
        ({"text_key": "another"}, 0, 4),
        ({"resolution": 32}, 3, 0),
    ):
        encoders = Encoders()
        run(images, cache_folder=tmp_path, encoders=encoders, **options)
        assert (encoders.pictures, len(encoders.prompts)) == (pictures, prompts), options


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "text"])
def test_a_damaged_cache_file_is_encoded_again_with_a_warning(tmp_path: Path, caplog, damage: str) -> None:
    clean, _ = run([picture(0)], cache_folder=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        content = bytearray(file.read_bytes())
        content[-10] ^= 1
        damaged = {"truncated": content[:-10], "one bit": content, "empty": b"", "text": b"not a tensor" * 9}
        file.write_bytes(damaged[damage])
    encoders = Encoders()
    with caplog.at_level(logging.WARNING):
        again, _ = run([picture(0)], cache_folder=tmp_path, encoders=encoders)
    assert encoders.pictures == 1 and len(encoders.prompts) == 2
    assert again.fingerprint == clean.fingerprint
    assert all(any(file.name in message for message in caplog.messages) for file in files)
    encoders = Encoders()
    run([picture(0)], cache_folder=tmp_path, encoders=encoders)
    assert encoders.pictures == 0


def test_a_full_disk_costs_the_cache_not_the_run(tmp_path: Path, caplog) -> None:
    resource = pytest.importorskip("resource", reason="the full disk is played by a limit that only Unix has")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with caplog.at_level(logging.WARNING):
            data, _ = run([picture(i) for i in range(3)], cache_folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(data.samples) == 3
    assert len(caplog.messages) == 1 and "Encodings are not cached from here on" in caplog.messages[0]
    assert str(tmp_path) in caplog.messages[0]
    assert os.listdir(tmp_path) == []


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    data, _ = run([picture(0)], cache_folder=tmp_path / "file" / "cache")
    assert len(data.samples) == 1
    assert any("cannot be written" in message for message in caplog.messages)


# Fingerprint


def test_the_fingerprint_notices_all_that_training_can_notice() -> None:
    images = [picture(i) for i in range(4)]
    masks = [torch.ones(64, 64)] * 4
    other_mask = [torch.ones(64, 64).tril()] + masks[1:]
    variants = {
        "plain": run(images),
        "captions": run(images, ["caption 0", "caption 1", "caption 2", "other"]),
        "pictures": run([*images[:3], picture(9)]),
        "order": run(images[::-1]),
        "deviation": run(images, encoders=Encoders(std=0.2)),
        "deterministic": run(images, encoders=Encoders(std=None)),
        "flip": run(images, flip=True),
        "masks": run(images, masks=masks),
        "other mask": run(images, masks=other_mask),
        "held out": run(images, held_out_share=0.25),
        "more held out": run(images, held_out_share=0.5),
        "resolution": run(images, resolution=48),
    }
    prints = {name: data.fingerprint for name, (data, _) in variants.items()}
    assert len(set(prints.values())) == len(prints)
    assert run(images)[0].fingerprint == prints["plain"]


def test_the_fingerprint_notices_the_empty_prompt() -> None:
    encoders = Encoders()

    def other_empty(caption: str) -> tuple[Tensor, Tensor]:
        prompt_embeds, pooled = encoders.prompt(caption)
        return prompt_embeds + (caption == ""), pooled

    assert run([picture(0)])[0].fingerprint != run([picture(0)], encode_prompt=other_empty)[0].fingerprint


def test_the_fingerprint_of_a_dataset_is_what_it_always_was() -> None:
    # Resumed runs and LoRA files know datasets by this number. Constants, so that it is the same on every machine.
    def image(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((1, 16, 8, 8), pixels.mean().item()), torch.full((1, 16, 8, 8), 0.5)

    data, _ = run(
        [torch.full((64, 64, 3), value) for value in (0.25, 0.5, 0.75)],
        ["a", "b", "a"],
        masks=[None, torch.ones(64, 64), None],
        encode_image=image,
        encode_prompt=lambda caption: (torch.full((4, 6), float(ord(caption or "\0"))), torch.full((5,), 0.5)),
        flip=True,
        held_out_share=0.4,
    )
    assert data.fingerprint == "d5bf25f2c46b4680f1cac199148e5d706ccd51a9"


def test_the_fingerprint_notices_the_phrase() -> None:
    images, encoders = [picture(0), picture(1)], Encoders()

    def other_few_step(caption: str) -> tuple[Tensor, Tensor]:
        prompt_embeds, pooled = encoders.prompt(caption)
        return prompt_embeds + (caption == "fast, caption 1"), pooled

    def other_few_step_empty(caption: str) -> tuple[Tensor, Tensor]:
        prompt_embeds, pooled = encoders.prompt(caption)
        return prompt_embeds, pooled + (caption == "fast")

    prints = [
        run(images)[0].fingerprint,
        run(images, few_step_phrase="fast")[0].fingerprint,
        run(images, few_step_phrase="quick")[0].fingerprint,
        run(images, few_step_phrase="fast", encode_prompt=other_few_step)[0].fingerprint,
        run(images, few_step_phrase="fast", encode_prompt=other_few_step_empty)[0].fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert run(images, few_step_phrase=" ")[0].fingerprint == prints[0]
    assert run(images, few_step_phrase=" fast\n")[0].fingerprint == prints[1]


# Few-step phrase


@pytest.mark.parametrize(
    ("phrase", "caption", "expected"),
    [
        ("fast", "a cat", "fast, a cat"),
        (" fast sketch ", "a cat, sitting ", "fast sketch, a cat, sitting "),
        ("fast", "", "fast"),
        ("fast", " \n", "fast"),
        ("", "a cat", "a cat"),
        ("", "", ""),
    ],
)
def test_the_phrase_stands_at_the_front(phrase: str, caption: str, expected: str) -> None:
    assert with_phrase(phrase, caption) == expected


def test_few_step_prompts_are_the_prompts_with_the_phrase() -> None:
    encoders, calls = Encoders(), []
    captions = ["a cat", "", "a dog", "a cat"]
    data, text = run(
        [picture(i) for i in range(4)],
        captions,
        encoders=encoders,
        few_step_phrase="  fast ",
        report=lambda done, total: calls.append((done, total)),
    )
    assert sorted(encoders.prompts) == ["", "a cat", "a dog", "fast", "fast, a cat", "fast, a dog"]
    assert calls == [(k, 10) for k in range(1, 11)]
    assert data.few_step_phrase == "fast"
    assert [prompt.caption for prompt in data.prompts] == ["a cat", "", "a dog"]
    assert [prompt.caption for prompt in data.few_step_prompts] == ["fast, a cat", "fast", "fast, a dog"]
    assert data.few_step_empty_prompt is not None and data.few_step_empty_prompt.caption == "fast"
    assert data.empty_prompt.caption == ""
    for prompt in (*data.few_step_prompts, data.few_step_empty_prompt):
        expected, pooled = encoders.prompt(prompt.caption)
        assert torch.equal(prompt.prompt_embeds, expected) and torch.equal(prompt.pooled_prompt_embeds, pooled)
    line = "Few-step phrase: each caption is also encoded with it at its front, such as 'fast, a cat'."
    assert text.splitlines().count(line) == 1


def test_without_a_phrase_nothing_is_encoded_twice() -> None:
    encoders = Encoders()
    data, text = run([picture(0)], ["a cat"], encoders=encoders, few_step_phrase="  ")
    assert encoders.prompts == ["a cat", ""]
    assert (data.few_step_prompts, data.few_step_empty_prompt, data.few_step_phrase) == ((), None, "")
    assert "phrase" not in text


def test_a_new_phrase_encodes_its_own_prompts_alone(tmp_path: Path) -> None:
    run([picture(0)], ["a cat"], cache_folder=tmp_path)
    encoders = Encoders()
    run([picture(0)], ["a cat"], cache_folder=tmp_path, encoders=encoders, few_step_phrase="fast")
    assert encoders.pictures == 0 and sorted(encoders.prompts) == ["fast", "fast, a cat"]


def test_captions_that_hold_the_phrase_are_warned_of() -> None:
    captions = ["a breakFAST", "a cat", "fast"]
    _, text = run([picture(i) for i in range(3)], captions, few_step_phrase="Fast")
    assert "Warning: pictures whose caption holds the few-step phrase already: 2 ('0.png', '2.png')." in text
    assert "holds the few-step phrase" not in run([picture(0)], ["a cat"], few_step_phrase="fast")[1]
    assert "holds the few-step phrase" not in run([picture(0)], ["a cat"])[1]


def test_a_prompt_that_the_phrase_makes_longer_is_refused() -> None:
    def padded(caption: str, length: int = 6) -> tuple[Tensor, Tensor]:
        words = caption.split()
        embeds = torch.zeros(max(length, len(words)), 6)
        embeds[: len(words)] = torch.tensor([[float(sum(map(ord, word)))] for word in words]).reshape(-1, 1)
        return embeds, torch.ones(5)

    short, long = "a cat", "a cat that sits on mats"
    run([picture(0)], [short], encode_prompt=padded, few_step_phrase="fast")
    run([picture(0), picture(1)], [short, long], encode_prompt=padded)
    message = r"Caption 'a cat that sits on mats' is encoded to 6 tokens, and to 7 .*phrase 'fast'.*few_step_guidance"
    with pytest.raises(DataError, match=message):
        run([picture(0), picture(1)], [short, long], encode_prompt=padded, few_step_phrase="fast")
    with pytest.raises(DataError, match=r"Caption '' \(the empty prompt\) is encoded to 1 tokens, and to 6"):
        run(
            [picture(0)],
            [short],
            encode_prompt=lambda caption: padded(caption, 6 if caption else 1),
            few_step_phrase="fast",
        )


def test_a_phrase_that_the_text_encoder_does_not_notice_is_refused() -> None:
    encoders = Encoders()
    with pytest.raises(DataError, match=r"Caption 'caption 0' is encoded to the same with .*phrase '\?!'"):
        run(
            [picture(0)],
            encode_prompt=lambda caption: encoders.prompt(caption.replace("?!, ", "").replace("?!", "")),
            few_step_phrase="?!",
        )


# Latent channels


def test_the_base_decides_the_number_of_latent_channels() -> None:
    FLUX_1.check(torch.zeros(1, 16, 4, 4), "a.png")
    FLUX_1.check(torch.zeros(1, 4, 4, 4), "a.png", 4)
    with pytest.raises(ValueError, match=r"a.png: .*\(batch, 16, height, width\), got \(1, 4, 4, 4\).*FLUX's own VAE"):
        FLUX_1.check(torch.zeros(1, 4, 4, 4), "a.png")
    with pytest.raises(ValueError, match=r"a.png: .*\(batch, 4, height, width\), got \(1, 16, 4, 4\).*4 channels"):
        FLUX_1.check(torch.zeros(1, 16, 4, 4), "a.png", 4)
    with pytest.raises(ValueError, match="must be even"):
        FLUX_1.check(torch.zeros(1, 4, 3, 4), "a.png", 4)


def diffusers_folder(folder: Path, **config: int | None) -> str:
    """A transformer's folder of which only the configuration is worth reading."""
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel", **config}))
    return str(folder)


FLUX = {"_class_name": "FluxTransformer2DModel"}


@pytest.mark.parametrize("config", [{"in_channels": 16}, {"in_channels": 16, "out_channels": 16}, {"in_channels": 4}])
def test_a_folder_may_hold_a_base_with_fewer_channels(tmp_path: Path, config: dict[str, int]) -> None:
    assert read_transformer_config(diffusers_folder(tmp_path, **config)) == FLUX | config


def test_a_folder_without_channels_is_flux1s(tmp_path: Path) -> None:
    assert read_transformer_config(diffusers_folder(tmp_path)) == FLUX | {"in_channels": 64}
    config = {"in_channels": 64, "out_channels": None}
    assert read_transformer_config(diffusers_folder(tmp_path, **config)) == FLUX | config


@pytest.mark.parametrize(
    "config",
    [
        {"in_channels": 384, "out_channels": 64},
        {"in_channels": 128},
        {"in_channels": 96},
        {"in_channels": 18},
        {"in_channels": 0},
        {"in_channels": 36, "out_channels": 16},
    ],
)
def test_folders_for_filling_or_control_are_refused(tmp_path: Path, config: dict[str, int]) -> None:
    message = f"takes {config['in_channels']} input channels, not 64 .*filling or control"
    with pytest.raises(BaseModelError, match=message):
        read_transformer_config(diffusers_folder(tmp_path, **config))


# Report


def test_the_report_counts_and_warns() -> None:
    images = [picture(0), picture(1, 100, 100), picture(2, 40, 40), picture(3, 64, 900), picture(4)]
    # A mean colour of a half, as far from 0 as FLUX's latents are.
    _, text = run(
        images,
        ["one two three", "", "one", "one two", "one"],
        held_out_share=0.2,
        encode_image=lambda pixels: (8 * pooled_pixels(pixels), None),
    )
    assert text.splitlines() == [
        "Pictures: 5, of which 5 distinct.",
        "Captions: 4 distinct, 1 empty; 0 to 3 words, median 1.",
        "Buckets (width x height in pixels: pictures): 128 x 32: 1, 64 x 64: 4.",
        "Training: 4. Held out: 1.",
        "Warning: pictures smaller than their bucket: 1 ('2.png'). They were enlarged, which teaches blur: use larger "
        "pictures or a lower resolution.",
        "Warning: pictures that lose more than a third to the crop: 1 ('3.png'). A smaller bucket_step has "
        "more shapes, up to 4 : 1; or crop them to what matters.",
        "Warning: empty captions: 1 of 5.",
    ]


def test_at_most_five_names_are_shown() -> None:
    _, text = run([picture(i, 32, 32) for i in range(8)])
    assert "pictures smaller than their bucket: 8 (" in text
    assert "'0.png', '1.png', '2.png', '3.png', '4.png' and 3 more" in text and "'5.png'" not in text


def test_prompt_lengths_are_reported_where_they_differ() -> None:
    def by_words(caption: str) -> tuple[Tensor, Tensor]:
        return torch.ones(len(caption.split()) + 1, 6), torch.ones(5)

    data, text = run([picture(i) for i in range(3)], ["a", "a b", "c"], encode_prompt=by_words)
    assert "Prompt lengths (tokens: pictures): 2: 2, 3: 1." in text
    assert len(data.training_groups) == 2


# Errors


def broken_image(shape: tuple[int, ...], value: float = 0.0, std: Tensor | None = None):
    return lambda pixels: (torch.full(shape, value), std)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": []}, "There are no pictures to encode"),
        ({"captions": ["only one"]}, "2 pictures and 1 captions.*give 2 captions.*or repeat one caption 2 times"),
        ({"names": ["a"]}, "2 pictures and 1 names"),
        ({"masks": [torch.ones(64, 64)]}, "2 pictures and 1 masks.*Give one mask for each picture"),
        ({"images": [picture(0), torch.rand(1, 64, 64, 3)]}, r"Picture 'b.png'.*\(1, 64, 64, 3\)"),
        ({"images": [picture(0), torch.rand(64, 64, 4)]}, r"Picture 'b.png'.*\(64, 64, 4\).*transparent"),
        ({"images": [picture(0), torch.rand(64, 64)]}, r"Picture 'b.png'.*\(64, 64\)"),
        ({"images": [picture(0), torch.zeros(0, 64, 3)]}, r"Picture 'b.png'.*\(0, 64, 3\)"),
        ({"images": [picture(0), picture(1) * 255]}, "Picture 'b.png' has values from .* must be in \\[0, 1\\]"),
        ({"images": [picture(0), (picture(1) * 255).byte()]}, "Picture 'b.png'.*floating-point.*uint8"),
        ({"images": [picture(0), picture(1) * math.nan]}, "Picture 'b.png' holds values that are not finite"),
        (
            {"masks": [None, torch.ones(32, 64)]},
            r"mask of picture 'b.png' has the shape \(32, 64\).*64 high and 64 wide",
        ),
        ({"masks": [None, torch.zeros(64, 64)]}, "mask of picture 'b.png' is 0 everywhere"),
        ({"masks": [None, torch.full((64, 64), 2.0)]}, "mask of picture 'b.png' has values outside"),
        ({"encode_image": broken_image((1, 4, 8, 8))}, r"Picture 'a.png'.*\(1, 4, 8, 8\).*16 channels.*ae.safetensors"),
        ({"encode_image": broken_image((1, 16, 1, 8, 8))}, r"Picture 'a.png'.*\(1, 16, 1, 8, 8\)"),
        (
            {"encode_image": broken_image((1, 16, 4, 4))},
            r"'a.png': for 64 x 64 pixels.*\(1, 16, 4, 4\), expected \(1, 16, 8, 8\)",
        ),
        ({"encode_image": broken_image((1, 16, 7, 7))}, "'a.png'.*must be even"),
        (
            {"encode_image": broken_image((1, 16, 8, 8), math.inf)},
            "'a.png': the VAE gave a mean .*not finite.*bf16 or fp32",
        ),
        (
            {"encode_image": broken_image((1, 16, 8, 8), std=torch.ones(1, 16, 4, 4))},
            "gave a standard deviation of the shape",
        ),
        (
            {"encode_image": broken_image((1, 16, 8, 8), std=torch.full((1, 16, 8, 8), math.nan))},
            "standard deviation .*not finite",
        ),
        ({"encode_image": broken_image((1, 16, 8, 8), std=-torch.ones(1, 16, 8, 8))}, "negative standard deviation"),
        (
            {"encode_prompt": lambda caption: (torch.ones(1, 4, 6), torch.ones(5))},
            r"Caption 'x'.*\(1, 4, 6\).*T5 and CLIP-L",
        ),
        ({"encode_prompt": lambda caption: (torch.ones(4, 6), torch.ones(1, 5))}, r"Caption 'x'.*\(1, 5\)"),
        (
            {"encode_prompt": lambda c: (torch.full((4, 6), math.nan if c == "y" else 0), torch.ones(5))},
            "Caption 'y'.*not finite",
        ),
        (
            {"encode_prompt": lambda c: (torch.ones(4, 6), torch.full((5,), math.inf if c == "" else 0))},
            "the empty prompt.*not finite",
        ),
        (
            {"encode_prompt": lambda c: (torch.ones(4, 7 if c == "y" else 6), torch.ones(5))},
            r"'x' and 'y'.*\(6, 5\) and \(7, 5\)",
        ),
        (
            {"encode_prompt": lambda c: (torch.ones(4, 6), torch.ones(5 if c else 3))},
            "different widths.*same text encoders",
        ),
    ],
)
def test_errors_name_the_culprit(options: dict, message: str) -> None:
    settings = {"images": [picture(0), picture(1)], "captions": ["x", "y"], "names": ["a.png", "b.png"], **options}
    with pytest.raises(DataError, match=message):
        run(settings.pop("images"), settings.pop("captions"), **settings)


@pytest.mark.parametrize("share", [-0.1, 0.95, math.nan])
def test_held_out_share_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match="held_out_share must be from 0 to 0.9"):
        run([picture(0)], held_out_share=share)


def test_the_mirrored_picture_is_named_as_such() -> None:
    def mirrored_fails(pixels: Tensor) -> tuple[Tensor, None]:
        return pooled_pixels(pixels) * (math.nan if torch.equal(pixels, picture(0).flip(1)[None]) else 1.0), None

    with pytest.raises(DataError, match=r"Picture '0.png' \(mirrored\): the VAE gave a mean"):
        run([picture(0)], encode_image=mirrored_fails, flip=True)


# Statistics


def known(means: list[Tensor], held_out: tuple[int, ...] = ()) -> RealLatents:
    """A dataset of these latents."""
    prompt = Prompt("", torch.zeros(1, 1), torch.zeros(1))
    samples = tuple(LatentSample(f"{i}", mean, None, None, None, None, 0) for i, mean in enumerate(means))
    return RealLatents(samples, (prompt,), prompt, held_out, "known")


def test_the_training_deviation_is_that_within_channels() -> None:
    """torch.std of each channel's places in all training pictures, of several sizes; squares are averaged.

    Neither the channels' means nor held-out pictures count.
    """
    generator = torch.Generator().manual_seed(0)
    spread, offset = torch.linspace(0.3, 2.5, 16)[:, None, None], torch.linspace(-6, 9, 16)[:, None, None]
    sizes = [(4, 4), (8, 2), (6, 10), (2, 2), (5, 3)]
    means = [spread * torch.randn(16, *size, generator=generator) + offset for size in sizes]
    means[1] += 50
    data = known(means, held_out=(1,))
    places = torch.cat([mean.double().flatten(1) for i, mean in enumerate(means) if i != 1], 1)
    expected = torch.std(places, 1, correction=0).square().mean().sqrt().item()
    assert data.training_deviation == pytest.approx(expected, rel=1e-5)
    assert torch.std(places, correction=0) > 2 * expected, "the channels' means would not be noticed"
    assert known([2 * mean + 1 for mean in means], (1,)).training_deviation == pytest.approx(2 * expected, rel=1e-5)


def test_the_deviation_of_pictures_of_one_value_is_no_division_by_zero() -> None:
    assert 0 < known([torch.full((16, 4, 4), 0.5)] * 3).training_deviation < 1e-3


def test_what_is_drawn_stands_for_a_sorted_folder():
    """The share of the first half is that of a fair draw, which the first ones and a regular grid would fail."""
    indices = range(1000, 1400)
    found = [drawn(indices, 16, f"use {number}") for number in range(50)]
    for places in found:
        assert len(set(places)) == 16 and list(places) == sorted(places) and set(places) <= set(indices)
    assert len(set(found)) == 50, "each use has draws of its own"
    assert found[0] == drawn(indices, 16, "use 0")
    first_half = sum(place < 1200 for places in found for place in places) / 800
    assert 0.43 < first_half < 0.57
    odd = sum(place % 2 for places in found for place in places) / 800
    assert 0.43 < odd < 0.57
    assert drawn(indices[:16], 16, "use 0") == tuple(indices[:16]) and drawn((), 3, "use 0") == ()
