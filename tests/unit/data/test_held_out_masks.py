"""Held-out pictures are measured as they are: never mirrored, each with its own mask and its plain caption."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fluxduel.tests.engine.conftest import make_data, with_phrase
from fluxduel.training.data.batches import held_out_batches
from fluxduel.training.data.latent_cache import DamagedEncoding, LatentCache, read_tensors


def test_masks_and_captions_are_the_pictures_own() -> None:
    data = with_phrase(make_data(count=6, held_out=3))
    generator = torch.Generator().manual_seed(0)
    samples = tuple(
        dataclasses.replace(
            sample, flipped_mean=sample.mean.flip(-1), flipped_std=sample.std,
            mask=None if number == 4 else torch.rand(1, 4, 4, generator=generator),
        )
        for number, sample in enumerate(data.samples)
    )  # fmt: skip
    data = dataclasses.replace(data, samples=samples)
    (batch,) = held_out_batches(data, 8)
    for row, index in enumerate(data.held_out):
        sample = samples[index]
        assert torch.equal(batch.x0[row], sample.mean)
        assert torch.equal(batch.mask[row], torch.ones(1, 4, 4) if sample.mask is None else sample.mask)
        assert torch.equal(batch.prompt_embeds[row], data.prompts[sample.prompt].prompt_embeds)
    assert batch.few_step == ()


def test_a_cached_encoding_whose_header_tells_another_type_is_damaged(tmp_path) -> None:
    """Its names, shapes and hashes are as written; as the type that it now tells, its bytes do not suffice."""
    cache = LatentCache(tmp_path)
    cache.store("key", {"mean": torch.ones(16, 4, 4)})
    path = cache.path("key")
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F64"'))
    with pytest.raises(DamagedEncoding):
        read_tensors(path)
    assert cache.load("key") is None
