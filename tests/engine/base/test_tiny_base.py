"""Both stages on the built-in base, with real photographs it has not seen: stage 1 learns, stage 2 stays whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file
from skimage.data import hubble_deep_field

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder
from fluxduel.training.base.base_model import TINY_BASE_FOLDER, BaseReference, load_base
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.base.sampler import sample
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.data.encode import encode
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.data.tiny_text import TinyTextEncoder
from fluxduel.training.evidence import metrics
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.usual_cfg import advice_for
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage

SIDE = 96
PICTURES = TINY_BASE_FOLDER.parent / "demo_pictures"
FLAT = Path(__file__).parent / "flat"


@pytest.fixture(scope="module")
def vae() -> AutoencoderTiny:
    """The built-in VAE in diffusers' class for its layout; the decoder there does not count its clamp as a layer."""
    weights = load_file(TINY_BASE_FOLDER / "vae.safetensors")
    renamed = {}
    for key, weight in weights.items():
        part, _, rest = key.partition(".")
        if part == "taesd_encoder":
            renamed[f"encoder.layers.{rest}"] = weight.float()
        elif part == "taesd_decoder":
            index, _, name = rest.partition(".")
            renamed[f"decoder.layers.{int(index) - 1}.{name}"] = weight.float()
    vae = AutoencoderTiny(latent_channels=16)
    vae.load_state_dict(renamed)
    return vae.eval().requires_grad_(False)


def crops(count: int) -> list[torch.Tensor]:
    """Crops (SIDE, SIDE, 3) in [0, 1] of the deep field, which is not among the base's training pictures."""
    picture = torch.from_numpy(np.asarray(hubble_deep_field())).float() / 255
    generator = torch.Generator().manual_seed(0)
    corners = [
        [int(torch.randint(0, size - SIDE, (1,), generator=generator)) for size in picture.shape[:2]]
        for _ in range(count)
    ]
    return [picture[y : y + SIDE, x : x + SIDE] for y, x in corners]


@pytest.fixture(scope="module")
def data(vae: AutoencoderTiny) -> RealLatents:
    text = TinyTextEncoder.load(TINY_BASE_FOLDER / "text_encoder.safetensors")

    def encode_image(pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        z = vae.encode(pixels.permute(0, 3, 1, 2) * 2 - 1).latents
        return FLUX_1.denormalise(z), None

    def encode_prompt(caption: str) -> tuple[torch.Tensor, torch.Tensor]:
        embeds, pooled = text.encode([caption])
        return embeds[0].detach(), pooled[0].detach()

    pictures = crops(24)
    real, _ = encode(
        pictures,
        ["stars and galaxies"] * len(pictures),
        names=[f"crop {i}" for i in range(len(pictures))],
        masks=None,
        encode_image=encode_image,
        encode_prompt=encode_prompt,
        vae_key="tiny",
        text_key="tiny",
        resolution=SIDE,
        bucket_step=16,
        flip=False,
        held_out_share=0.25,
        seed=0,
        cache_folder=None,
    )
    return real


@pytest.fixture(scope="module")
def start() -> lora.FluxLoRA:
    return lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=8, alpha=8))


@pytest.fixture(scope="module")
def stage1(start, data):
    config = DiffusionStageConfig(
        steps=60, learning_rate=2e-3, batch_size=4, gradient_checkpointing=False, validate_every=30
    )
    return train_diffusion_stage(start, data, config, device=DEVICE, reporter=Recorder())


def pictures(folder: Path) -> torch.Tensor:
    """The pictures of a folder by name, (n, 3, 128, 128) in [0, 1]."""
    found = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.webp"))]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255


def held_out(result) -> list[float]:
    return [record["held_out_loss"] for record in result.log.records if "held_out_loss" in record]


def test_the_vae_keeps_what_an_unseen_photograph_shows(vae):
    """Correlation of the reconstruction with the picture, over crops of the deep field."""
    pixels = torch.stack(crops(8)).permute(0, 3, 1, 2) * 2 - 1
    again = vae.decode(vae.encode(pixels).latents).sample
    both = torch.stack([pixels.flatten(), again.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9


@pytest.mark.parametrize("folder", ["train", "unseen"])
def test_the_vae_keeps_a_drawing_style_that_it_has_never_seen(vae, folder):
    pixels = pictures(PICTURES / folder)
    with torch.no_grad():
        again = vae.decode(vae.encode(pixels * 2 - 1).latents).sample.clamp(-1, 1) / 2 + 0.5
    psnr = -10 * (again - pixels).square().mean(dim=(1, 2, 3)).log10().mean()
    print(f"{len(pixels)} pictures: {psnr:.1f} dB")
    assert psnr > 32


def test_the_base_draws_what_its_captions_name(vae):
    """Of twenty subjects the sample's nearest is, for most, the one asked for: more of them with guidance."""
    truths = pictures(FLAT)
    captions = [f"flat {path.stem.replace('-', ' ')}" for path in sorted(FLAT.glob("*.webp"))]
    base = load_base(BaseReference(TINY_BASE, "fp32"), "cpu")
    embeds, pooled = TinyTextEncoder.load(TINY_BASE_FOLDER / "text_encoder.safetensors").encode(captions)
    shares = {}
    for guidance in (1.0, 3.5):
        latents = torch.cat(
            [
                sample(base, e.detach(), p.detach(), height=16, width=16, steps=25, seeds=[i], guidance=guidance)
                for i, (e, p) in enumerate(zip(embeds, pooled, strict=True))
            ]
        )
        drawn = vae.decode(latents).sample.clamp(-1, 1) / 2 + 0.5
        apart = torch.cdist(*(torch.nn.functional.avg_pool2d(x, 4).flatten(1) for x in (drawn, truths)))
        shares[guidance] = (apart.argmin(1) == torch.arange(len(truths))).float().mean().item()
    print(f"found among {len(truths)}: {shares}")
    assert shares[3.5] >= 0.6 and shares[1.0] >= 0.4


def test_latents_have_about_unit_variance(data):
    latents = torch.stack([sample.mean for sample in data.samples])
    assert 0.3 < latents.std() < 2.0 and latents.mean().abs() < 1.0


def test_stage_1_lowers_the_held_out_flow_loss(stage1):
    before, *_, after = held_out(stage1)
    print(f"held-out flow loss: {before:.4f} before, {after:.4f} after 60 steps")
    assert after < 0.9 * before


@pytest.mark.parametrize("objective", ["hybrid", "pure"])
def test_stage_2_trains_to_its_end_without_diverging(stage1, data, objective):
    """Finite throughout; the hybrid keeps the flow loss that stage 1 reached; what is delivered is what is said."""
    config = AdversarialStageConfig(
        steps=20,
        learning_rate=1e-4,
        batch_size=4,
        discriminator_warmup=10,
        objective=objective,
        gradient_checkpointing=False,
        validate_every=30,
        watch_pictures=4,
    )
    judge = DiscriminatorConfig(width=32)
    result = train_adversarial_stage(stage1.lora, data, judge, config, device=DEVICE, reporter=Recorder())
    assert not result.stopped and len(result.log.records) == 31
    assert all(math.isfinite(value) for record in result.log.records for value in record.values())
    before, *_, after = held_out(result)
    print(f"{objective}: held-out flow loss {before:.4f} before, {after:.4f} after")
    assert after < (1.05 if objective == "hybrid" else 1.5) * before and after != before
    assert [entry["stage"] for entry in result.lora.provenance] == ["diffusion", "adversarial"]
    moved = any(not torch.equal(result.lora.tensors[key], stage1.lora.tensors[key]) for key in stage1.lora.tensors)
    assert moved == ("is delivered: score" in result.log.notes[-1][1])
    assert moved != ("stage 1's weights are delivered" in result.log.notes[-1][1])
    advice, _ = advice_for(result.lora)
    assert advice.startswith("Sample with 4 steps" if moved else "Sample as with the base alone")


def test_a_learning_rate_that_breaks_the_lora_is_caught(stage1, data):
    """Nothing is scripted: at 1500 times the usual rate the samples fall apart, and none of that is delivered."""
    config = AdversarialStageConfig(
        steps=6, learning_rate=3e-2, batch_size=2, discriminator_warmup=0, gradient_checkpointing=False,
        validate_every=2, watch_pictures=4, target_steps=2, ema_decay=0.0,
    )  # fmt: skip
    result = train_adversarial_stage(
        stage1.lora, data, DiscriminatorConfig(), config, device=DEVICE, reporter=Recorder()
    )
    texts = [text for _, text in result.log.notes]
    assert any("collapse 1" in text and "goes back to the start" in text for text in texts), texts
    before, *others = held_out(result)
    assert max(others) > 1.1 * before
    base = load_base(stage1.lora.base, DEVICE)
    lora.attach(base, result.lora)
    assert metrics.held_out_flow_loss(base, data, config.guidance, batch_size=4) < 1.1 * before
