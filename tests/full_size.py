"""FLUX.1 at its full size, on the meta device: every shape is true, and no number is computed.

    python -m fluxduel.tests.full_size

prints how many bytes passes of one and of more samples need at 512 and 1024 px, besides weights, gradients and moments.
"""

from __future__ import annotations

import itertools
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxduel.discriminator.interface import Conditioning
from fluxduel.tests.true_width import write_headers, write_published
from fluxduel.training.base.base_model import BaseReference, FluxBase, empty_transformer, read_transformer_config
from fluxduel.training.base.footprint import Bytes, FlashAttention
from fluxduel.training.config import DiscriminatorConfig, LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages import judges
from fluxduel.training.stages.rehearsal import (
    Demand,
    inputs,
    update_of_stage_1,
    update_of_the_discriminator,
    update_of_the_lora,
)

ASKS = re.compile(r"/training/(evidence|stages|runs)/")
TOKENS, CONTEXT, POOLED = 512, 4096, 768
# 8 pixels a latent.
SIDES = {"512 px": 64, "1024 px": 128}


def full_size_reference(folder: Path, model: str = "") -> BaseReference:
    """A file of a model's header alone: FLUX.1-dev's, or that of a published ``model`` without biases."""
    path = folder / f"{model or 'flux1-dev'}.safetensors"
    return BaseReference(str(write_published(path, model) if model else write_headers(path)), "bf16")


def full_size_transformer(reference: BaseReference) -> Any:
    """Its transformer without memory for its weights, in bf16."""
    return empty_transformer(read_transformer_config(reference.path)).to(torch.bfloat16)


class Metered(FluxBase):
    """FLUX.1 at its full size as a stage on the CPU sees it: ``passes`` are who asked for a pass, and its samples.

    The transformer itself runs once for each shape, on the meta device and without the adapter. The adapter's weights
    and what is returned have numbers, random ones, so that all that is done with them is done.
    """

    def __init__(self, reference: BaseReference) -> None:
        super().__init__(full_size_transformer(reference), reference)
        self.device = torch.device("cpu")
        self.passes: list[tuple[str, int]] = []
        self._seen: dict[tuple[Any, ...], Any] = {}

    def find_adapter(self) -> None:
        super().find_adapter()
        for layer in self._layers:
            for factor in itertools.chain(layer.lora_A.values(), layer.lora_B.values()):
                factor.weight = nn.Parameter(torch.zeros(factor.weight.shape))

    def velocity(self, x_t: Tensor, *given: Any, adapter: bool = True) -> Tensor:
        self.passes.append((_asked_by(), len(x_t)))
        self._once(super().velocity, x_t, *given, adapter=False)
        # The sum is there for its graph: a step takes its gradient.
        weight = lora.parameters(self)[0]
        return torch.randn(x_t.shape) + (weight * 0).sum()

    def features(self, latents: Tensor, *given: Any) -> list[Tensor]:
        self.passes.append((_asked_by(), len(latents)))
        shapes = [each.shape for each in self._once(super().features, latents, *given)]
        return [torch.randn(shape, dtype=self.dtype) + (latents * 0).sum().to(self.dtype) for shape in shapes]

    def _once(self, function: Callable[..., Any], x: Tensor, *given: Any, **named: Any) -> Any:
        key = (function.__name__, *x.shape)
        if key not in self._seen:
            with torch.no_grad():
                moved = [each.to("meta") if isinstance(each, Tensor) else each for each in (x, *given)]
                self._seen[key] = function(*moved, **named)
        return self._seen[key]


def _asked_by() -> str:
    """The nearest function of the engine, above the base and whatever only hands on to it."""
    frame = sys._getframe(2)
    while not ASKS.search(frame.f_code.co_filename) or frame.f_code.co_name in ("velocity", "features", "look"):
        frame = frame.f_back
    return frame.f_code.co_qualname.partition(".<locals>")[0]


def sampling(base: FluxBase, judge: nn.Module, given: list[Tensor]) -> None:
    """A pass of held-out loss, samples or preview."""
    with torch.no_grad():
        base.velocity(*given, 1.0)


def looking(base: FluxBase, judge: nn.Module, given: list[Tensor]) -> None:
    """The discriminator's verdict on reals, by which the augmentation is steered."""
    latents, level, *prompts = given
    with torch.no_grad():
        judge(latents, level, Conditioning(*prompts))


def training(base: FluxBase, judge: nn.Module, given: list[Tensor]) -> None:
    """Forward and backward."""
    update_of_stage_1(base, given)


def duelling(base: FluxBase, judge: nn.Module, given: list[Tensor]) -> None:
    """Both halves of an update of stage 2."""
    update_of_the_discriminator(judge, update_of_the_lora(base, judge, given), given)


ROWS: Sequence[tuple[str, Callable[..., None], Sequence[int]]] = (
    ("held-out loss, samples, preview", sampling, (1, 2, 4, 16)),
    ("look that steers augmentation", looking, (1, 16)),
    ("stage 1, forward and backward", training, (1,)),
    ("stage 2, both halves", duelling, (1,)),
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        reference = full_size_reference(Path(folder))
        base = FluxBase(full_size_transformer(reference), reference)
        lora.attach(base, lora.create(reference, LoRAConfig(rank=16, alpha=16.0)))
        base.checkpointing, base.attention = "blocks", FlashAttention
        judge = judges.build(DiscriminatorConfig(), base, 1.0)
        print(f"{'GiB besides weights, gradients and moments':46}{'samples':>9}" + "".join(f"{s:>10}" for s in SIDES))
        for name, work, counts in ROWS:
            for count in counts:
                peaks = []
                for side in SIDES.values():
                    with Bytes(base.transformer, judge) as counted:
                        work(base, judge, inputs(base, Demand((side, side), TOKENS, count)))
                    peaks.append(counted.peak / 2**30)
                print(f"{name:46}{count:9}" + "".join(f"{peak:10.2f}" for peak in peaks), flush=True)


if __name__ == "__main__":
    main()
