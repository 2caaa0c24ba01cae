"""What is measured: FLUX.1's transformer with random weights on the device, both stages on it, and their costs."""

from __future__ import annotations

import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch import nn

from fluxduel.benchmarks.step import synthetic_data
from fluxduel.training.base.base_model import BaseReference, FluxBase, empty_transformer, read_transformer_config
from fluxduel.training.base.base_shelf import BaseShelf
from fluxduel.training.base.formats import PRECISIONS, place
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage

RANK = 16
WARM_UP, TIMED = 2, 5
PIXELS_PER_LATENT = 8
PICTURES, HELD_OUT = 24, 16
# Small numbers of the gates: a block then adds little to its input, as a trained one does, however many there are.
GATES = 0.1


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a FLUX.1 transformer: FLUX.1-dev's own unless told otherwise."""

    doubles: int = 19
    singles: int = 38
    heads: int = 24
    head_dim: int = 128
    axes: tuple[int, int, int] = (16, 56, 56)
    context: int = 4096
    pooled: int = 768
    tokens: int = 512

    def config(self) -> dict[str, Any]:
        """The arguments of diffusers' ``FluxTransformer2DModel``."""
        return {
            "in_channels": 64,
            "num_layers": self.doubles,
            "num_single_layers": self.singles,
            "attention_head_dim": self.head_dim,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.context,
            "pooled_projection_dim": self.pooled,
            "guidance_embeds": True,
            "axes_dims_rope": list(self.axes),
        }


TINY = Shape(doubles=2, singles=5, heads=4, head_dim=32, axes=(8, 12, 12), context=128, pooled=64, tokens=16)


class Subject:
    """The base, and what is built on it for each measurement.

    ``shelf``: where stages get the base, which is made anew for each number format, and kept for the next one in the
    same. ``alone``: seconds of a stage-1 step with the whole base on the device, by precision and side of the pictures,
    as far as they are measured.
    """

    def __init__(self, shape: Shape, device: torch.device, folder: Path) -> None:
        """``folder``: where the configuration is written by which the engine knows the base."""
        self.shape, self.device = shape, device
        (folder / "config.json").write_text(json.dumps(shape.config()))
        save_file({}, folder / "weights.safetensors")
        self.reference = BaseReference(str(folder), "bf16")
        self.shelf = BaseShelf(self._made)
        self.alone: dict[tuple[str, int], float] = {}
        self._start = lora.create(self.reference, LoRAConfig(rank=RANK, alpha=RANK))

    def start(self, precision: str) -> FluxLoRA:
        """The LoRA that both stages start from, on the base in this precision."""
        return dataclasses.replace(self._start, base=dataclasses.replace(self.reference, precision=precision))

    def _made(
        self, reference: BaseReference, device: torch.device | str, home: torch.device | str | None = None
    ) -> FluxBase:
        """As ``load_base``, of random weights in place of a file's: each is made on ``device``, and rounded there."""
        transformer = empty_transformer(read_transformer_config(reference.path))
        for name, weight in random_weights(transformer, torch.device(device)):
            place(transformer, name, weight, PRECISIONS[reference.precision], home or device)
        return FluxBase(transformer, reference)

    def transformer(self) -> FluxTransformer2DModel:
        """A transformer in bf16 of its own, to do with as one likes; none is kept besides it."""
        self.shelf.clear()
        self.settle()
        return self._made(self.reference, self.device).transformer

    def data(self, pixels: int) -> RealLatents:
        """Square pictures of this side, some of them held out."""
        side = pixels // PIXELS_PER_LATENT
        return synthetic_data(
            side, self.shape.context, self.shape.pooled, length=self.shape.tokens, count=PICTURES, held_out=HELD_OUT
        )

    def stage_1(self, pixels: int, precision: str = "bf16", **changes: Any) -> DiffusionStage:
        """Stage 1 with its defaults."""
        config = DiffusionStageConfig(**changes)
        return DiffusionStage(
            self.start(precision), self.data(pixels), config, device=self.device, load=self.shelf
        )

    def stage_2(self, pixels: int, precision: str = "bf16", **changes: Any) -> AdversarialStage:
        """Stage 2 with its defaults, past the discriminator's warm-up."""
        config = AdversarialStageConfig(discriminator_warmup=0, **changes)
        return AdversarialStage(
            self.start(precision),
            self.data(pixels),
            DiscriminatorConfig(),
            config,
            device=self.device,
            load=self.shelf,
        )

    # Measuring

    def settle(self) -> None:
        """Let go of all that nothing refers to any more."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def cost(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """What ``work`` gives; its seconds, and on a GPU the memory in GiB: before it, at its peak, and reserved."""
        cuda = self.device.type == "cuda"
        if cuda:
            self.settle()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        started = time.perf_counter()
        given = work()
        if not cuda:
            return given, {"seconds": round(time.perf_counter() - started, 4)}
        torch.cuda.synchronize()
        return given, {
            "seconds": round(time.perf_counter() - started, 4),
            "before": gib(before),
            "peak": gib(torch.cuda.max_memory_allocated()),
            "reserved": gib(torch.cuda.max_memory_reserved()),
        }

    def each(self, work: Callable[[], Any], count: int) -> list[tuple[float, Any]]:
        """Seconds, to the end of the device's work, and result of each of ``count`` calls."""
        found = []
        for _ in range(count):
            started = time.perf_counter()
            given = work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            found.append((time.perf_counter() - started, given))
        return found

    def median(self, work: Callable[[], Any], count: int = TIMED) -> float:
        """Median seconds of a call."""
        return statistics.median(seconds for seconds, _ in self.each(work, count))


def gib(size: int) -> float:
    """Bytes as GiB."""
    return round(size / 2**30, 3)


def random_weights(transformer: nn.Module, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights in bf16 on ``device`` for what ``transformer`` holds, that keep activations finite through any number of
    blocks. The same each time."""
    generator = torch.Generator(device).manual_seed(0)
    for name, shape in [(name, weight.shape) for name, weight in transformer.named_parameters()]:
        weight = torch.empty(shape, dtype=torch.bfloat16, device=device)
        if "norm_" in name and weight.ndim == 1:
            weight.fill_(1.0)
        elif weight.ndim == 1:
            weight.zero_()
        else:
            gate = ".norm1" in name or ".norm." in name
            weight.normal_(std=(GATES if gate else 1.0) / weight.shape[1] ** 0.5, generator=generator)
        yield name, weight
