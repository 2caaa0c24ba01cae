"""Every option of the dataset reaches what it configures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fluxduel.tests.unit.data.test_real_latents import picture, run
from fluxduel.training.config import DataConfig
from fluxduel.training.data.real_latents import RealLatents

SMALL = DataConfig(resolution=64, bucket_step=16, held_out_share=0.25)
# Option -> (another value, what has to differ in the dataset).
CASES: dict[str, tuple[Any, Any]] = {
    "resolution": (96, lambda data: [sample.shape for sample in data.samples]),
    "flip": (True, lambda data: [sample.flippable for sample in data.samples]),
    "held_out_share": (0.5, lambda data: len(data.held_out)),
    "seed": (1, lambda data: data.held_out),
    "bucket_step": (64, lambda data: {sample.shape for sample in data.samples}),
    "few_step_phrase": ("fast", lambda data: len(data.few_step_prompts)),
}


def encoded(config: DataConfig) -> RealLatents:
    """Eight pictures of three shapes."""
    images = [picture(seed, 64, (64, 96, 128)[seed % 3]) for seed in range(8)]
    return run(images, **dataclasses.asdict(config))[0]


def test_every_option_has_a_case() -> None:
    assert set(CASES) == {field.name for field in dataclasses.fields(DataConfig)}


@pytest.mark.parametrize("option", CASES)
def test_every_option_changes_the_dataset_and_tells_it_apart(option: str) -> None:
    value, seen = CASES[option]
    one, other = encoded(SMALL), encoded(dataclasses.replace(SMALL, **{option: value}))
    assert seen(one) != seen(other)
    assert one.fingerprint != other.fingerprint
    again = encoded(SMALL)
    assert again.fingerprint == one.fingerprint and seen(again) == seen(one)


def test_a_flipped_picture_is_its_mirror_image() -> None:
    data = encoded(dataclasses.replace(SMALL, flip=True))
    for sample in data.samples:
        torch.testing.assert_close(sample.flipped_mean, sample.mean.flip(-1), rtol=1e-3, atol=1e-2)
