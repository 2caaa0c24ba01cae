"""The host's own FLUX before and after both stages, in one graph, queue after queue: same pictures, steady memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import Graph, lora_node, node, options
from fluxduel.tests.inside_host import host_or_skip
from fluxduel.tests.true_width import write_flux
from fluxduel.training.config import AdversarialStageConfig, DataConfig, DiffusionStageConfig, DiscriminatorConfig

# The tiny base's encoders serve a FLUX of the true width.
CONTEXT, POOLED = 128, 64
QUEUES = 3
# Of anonymous memory from the second queue to the third. The base is 535 MB in int8, the host's model 1070.
MOST_GROWTH_MB = 100
SHARED = {"steps": 2, "validate_every": 0, "caption_dropout": 0.0}


def graph(seed: int) -> Graph:
    """The host's FLUX draws four pictures, both stages train on them, and the host's FLUX draws with the LoRA."""
    stage_1 = options(DiffusionStageConfig, **SHARED, seed=seed)
    stage_2 = options(AdversarialStageConfig, **SHARED, seed=seed, discriminator_warmup=1, watch=False)
    data = options(DataConfig, resolution=64, held_out_share=0.0)

    def sampler(model: str) -> dict:
        given = {"model": [model, 0], "positive": ["text", 0], "negative": ["unasked", 0], "latent_image": ["empty", 0]}
        fixed = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        return node("KSampler", given | fixed)

    return {
        "unet": node("UNETLoader", {"unet_name": "flux.safetensors", "weight_dtype": "default"}),
        "encoders": node("FluxDuelLoadTinyFluxEncoders"),
        "text": node("CLIPTextEncode", {"clip": ["encoders", 0], "text": "a picture"}),
        # Another one each time, so that the host draws anew; at cfg 1 it is not asked.
        "unasked": node("CLIPTextEncode", {"clip": ["encoders", 0], "text": f"queue {seed}"}),
        "empty": node("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 4}),
        "first": sampler("unet"),
        "save first": node("SaveLatent", {"samples": ["first", 0], "filename_prefix": f"first{seed}"}),
        "pictures": node("VAEDecode", {"samples": ["first", 0], "vae": ["encoders", 1]}),
        "caption": node("PrimitiveString", {"value": "a picture"}),
        "latents": node(
            "FluxDuelEncodeRealLatents",
            {
                "images": ["pictures", 0],
                "captions": ["caption", 0],
                "clip": ["encoders", 0],
                "vae": ["encoders", 1],
            }
            | data,
        ),
        "lora": lora_node(checkpoint="flux.safetensors", precision="int8"),
        "stage 1": node(
            "FluxDuelTrainDiffusionStage", {"flux_lora": ["lora", 0], "real_latents": ["latents", 0]} | stage_1
        ),
        "judge": node("FluxDuelLatentDiscriminator", options(DiscriminatorConfig, width=8) | {"continue_from": "new"}),
        "stage 2": node(
            "FluxDuelTrainAdversarialStage",
            {"flux_lora": ["stage 1", 0], "real_latents": ["latents", 0], "discriminator": ["judge", 0]} | stage_2,
        ),
        "apply": node("FluxDuelApplyFluxLoRA", {"model": ["unet", 0], "flux_lora": ["stage 2", 0], "strength": 1.0}),
        "second": sampler("apply"),
        "save second": node("SaveLatent", {"samples": ["second", 0], "filename_prefix": f"second{seed}"}),
    }  # fmt: skip


@dataclass(frozen=True)
class Queues:
    """What each queue gave: latents of the first and of the second sampler, and the memory after it (MB)."""

    first: list[Tensor]
    second: list[Tensor]
    anonymous: list[float]
    log: str


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    host_or_skip()
    found = Queues([], [], [], "")
    with ComfyHost(tmp_path_factory.mktemp("beside")) as host:
        folder = host.base / "models" / "diffusion_models"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = write_flux(folder / "flux.safetensors", context=CONTEXT, pooled=POOLED)
        for seed in range(QUEUES):
            host.run(graph(seed), timeout=600)
            found.first.append(_latents(host, f"first{seed}"))
            found.second.append(_latents(host, f"second{seed}"))
            found.anonymous.append(host.anonymous_memory() / 1e6)
        log = host.log
        checkpoint.unlink()
    yield Queues(found.first, found.second, found.anonymous, log)


def _latents(host: ComfyHost, name: str) -> Tensor:
    (path,) = Path(host.base / "output").glob(f"{name}_*.latent")
    return load_file(path)["latent_tensor"]


def test_the_hosts_own_sampler_draws_the_same_before_training(queues: Queues) -> None:
    assert queues.first[0].shape == (4, 16, 8, 8) and queues.first[0].isfinite().all()
    assert all(torch.equal(latents, queues.first[0]) for latents in queues.first[1:])


def test_the_trained_lora_changes_what_it_draws(queues: Queues) -> None:
    """And another seed in training changes that."""
    assert not any(torch.equal(latents, queues.first[0]) for latents in queues.second)
    assert not torch.equal(queues.second[0], queues.second[1])


def test_the_base_is_loaded_once_for_all_queues(queues: Queues) -> None:
    assert queues.log.count("Loading flux.safetensors (int8)") == 1
    assert queues.log.count("flux.safetensors (int8) is still loaded") == 2 * QUEUES - 1


def test_memory_does_not_grow_from_queue_to_queue(queues: Queues) -> None:
    told = ", ".join(f"{each:.0f} MB" for each in queues.anonymous)
    growth = queues.anonymous[-1] - queues.anonymous[-2]
    print(f"Anonymous memory after each queue: {told}; growth from the second to the third {growth:+.1f} MB")
    assert growth < MOST_GROWTH_MB
