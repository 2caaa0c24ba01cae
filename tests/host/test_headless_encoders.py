"""A headless run's encoders beside the graph's own, run inside the host's modules by ``host_encoders.py``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fluxduel.tests.engine.flux_encoders import CLIP_SIZES, T5_SIZES, make_folder
from fluxduel.tests.inside_host import host_or_skip, run_inside
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.config import TINY_BASE, EncodersConfig
from fluxduel.training.data.encoders import Encoders, load_encoders
from fluxduel.training.data.text_readers import clip_tokens, t5_tokens

SIZES = [(64, 96), (128, 128), (70, 83)]
CAPTIONS = [
    "",
    "a photo of a small red cat by the sea",
    "Ünïcode, punctuation; and 1234 numbers -- all on\nseveral lines",
    "one sentence that is longer than what CLIP can read, " * 8,
    "and one that is longer than the least that T5 is given, " * 30,
]


@dataclass(frozen=True)
class FromHost:
    base: Path
    tensors: dict[str, Tensor]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def from_host(tmp_path_factory: pytest.TempPathFactory) -> FromHost:
    folder = host_or_skip()
    base = tmp_path_factory.mktemp("encoders")
    make_folder(
        base / "flux",
        clip_tokenizer=folder / "comfy" / "sd1_tokenizer",
        t5_tokenizer=folder / "comfy" / "text_encoders" / "t5_tokenizer",
    )
    request = {"sizes": SIZES, "seed": 3, "captions": CAPTIONS, "clip": CLIP_SIZES, "t5": T5_SIZES}
    (base / "request.json").write_text(json.dumps(request))
    run_inside("host_encoders.py", base)
    tensors = load_file(base / "encodings.safetensors")
    return FromHost(base, tensors, json.loads((base / "report.json").read_text()))


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(1, height, width, 3, generator=generator) for height, width in SIZES]


def flux(from_host: FromHost, **options: Any) -> Encoders:
    config = EncodersConfig(folder=str(from_host.base / "flux"), vae=str(from_host.base / "ae.safetensors"), **options)
    return load_encoders(config, "flux1-dev.safetensors", "cpu")


def test_the_tiny_base_encodes_pictures_as_the_graph_does_to_the_last_bit(from_host: FromHost) -> None:
    encoders = load_encoders(EncodersConfig(), TINY_BASE, "cpu")
    for number, pixels in enumerate(pictures()):
        mean, std = encoders.encode_image(pixels)
        assert std is None
        assert mean.equal(from_host.tensors[f"tiny_mean_{number}"])


def test_the_tiny_base_encodes_captions_as_the_graph_does_to_the_last_bit(from_host: FromHost) -> None:
    encoders = load_encoders(EncodersConfig(), TINY_BASE, "cpu")
    for number, caption in enumerate(CAPTIONS):
        embeds, pooled = encoders.encode_prompt(caption)
        assert embeds.equal(from_host.tensors[f"tiny_prompt_{number}"])
        assert pooled.equal(from_host.tensors[f"tiny_pooled_{number}"])


def test_the_tiny_base_has_the_keys_of_the_graph_so_that_the_cache_is_shared(from_host: FromHost) -> None:
    encoders = load_encoders(EncodersConfig(), TINY_BASE, "cpu")
    assert encoders.vae_key == from_host.report["tiny_vae_key"]
    assert encoders.text_key == from_host.report["tiny_text_key"]


def test_the_tiny_base_decodes_as_the_graph_does(from_host: FromHost) -> None:
    encoders = load_encoders(EncodersConfig(), TINY_BASE, "cpu")
    for number in range(len(SIZES)):
        latents = FLUX_1.normalise(from_host.tensors[f"tiny_mean_{number}"])
        torch.testing.assert_close(
            encoders.decode(latents), from_host.tensors[f"tiny_decoded_{number}"], atol=2e-5, rtol=0
        )


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_flux_text_encoders_read_a_caption_as_the_graph_does(from_host: FromHost, precision: str) -> None:
    encoders = flux(from_host, precision=precision)
    for number, caption in enumerate(CAPTIONS[:-1]):
        embeds, pooled = encoders.encode_prompt(caption)
        expected = from_host.tensors[f"flux_prompt_{number}"]
        assert embeds.shape == expected.shape and embeds.shape[0] == 256
        torch.testing.assert_close(embeds, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(pooled, from_host.tensors[f"flux_pooled_{number}"], atol=1e-4, rtol=0)


def test_captions_become_the_graphs_tokens(from_host: FromHost) -> None:
    from transformers import CLIPTokenizer, T5TokenizerFast

    clip = CLIPTokenizer.from_pretrained(from_host.base / "flux" / "tokenizer")
    t5 = T5TokenizerFast.from_pretrained(from_host.base / "flux" / "tokenizer_2")
    for caption, tokens in zip(CAPTIONS, from_host.report["tokens"], strict=True):
        assert clip_tokens(clip, caption) == tokens["l"]
        assert t5_tokens(t5, caption, 512) == tokens["t5xxl"]


def test_a_caption_longer_than_256_tokens_is_as_long_as_in_the_graph(from_host: FromHost) -> None:
    length = len(from_host.report["tokens"][-1]["t5xxl"])
    assert 256 < length < 512
    embeds, pooled = flux(from_host).encode_prompt(CAPTIONS[-1])
    assert embeds.shape[0] == length
    torch.testing.assert_close(embeds, from_host.tensors[f"flux_prompt_{len(CAPTIONS) - 1}"], atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled, from_host.tensors[f"flux_pooled_{len(CAPTIONS) - 1}"], atol=1e-4, rtol=0)


def test_flux_vae_in_its_own_file_gives_the_graphs_posterior(from_host: FromHost) -> None:
    encoders = flux(from_host)
    mean, std = encoders.encode_image(pictures()[0])
    scale = from_host.tensors["flux_mean"].std().item()
    torch.testing.assert_close(mean, from_host.tensors["flux_mean"], atol=1e-4 * scale, rtol=1e-4)
    torch.testing.assert_close(std, from_host.tensors["flux_std"], atol=1e-4, rtol=1e-3)
    assert from_host.tensors["flux_std"].std() > 1e-3
    decoded = encoders.decode(FLUX_1.normalise(from_host.tensors["flux_mean"]))
    torch.testing.assert_close(decoded, from_host.tensors["flux_decoded"], atol=1e-3, rtol=0)
    assert from_host.tensors["flux_decoded"].std() > 0.01
