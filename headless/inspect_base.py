"""What a base is, from its header alone: which model, in which format, and what training on it takes of a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..training.base.base_model import BaseReference
from ..training.base.checkpoint_files import read_transformer_config, weight_files
from ..training.base.families import family_of
from ..training.base.memory import USABLE
from ..training.base.variants import variant
from ..training.base.weights import check_weights, weights_layout
from ..training.config import AUTOMATIC, DiscriminatorConfig, LoRAConfig
from ..training.lora import adapter
from ..training.stages.rehearsal import Demand, rehearse

GIB = 2**30
SIDES = (512, 1024)
RANK, TOKENS = 16, 512
# From the largest; those on one line differ by nothing.
PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "int8_convrot": "int8, int8_convrot"}


def is_base(path: Path) -> bool:
    """Whether ``path`` can be nothing but a base: a GGUF file, or a folder in diffusers' layout."""
    return path.suffix == ".gguf" or any((path / part / "config.json").is_file() for part in (".", "transformer"))


def base_json(path: Path) -> dict[str, Any]:
    """What lies at ``path``, as values that JSON can hold. Reads no weights.

    ``memory``: by precision the bytes of the weights, and of the peak of stage 2 by the side of the pictures, counted
    for a LoRA of rank 16, one picture an update and gradient checkpointing. ``free``: bytes of this machine's card,
    ``None`` without one. Raises ``BaseModelError`` for what is not there, damaged, or of no family.
    """
    config = read_transformer_config(str(path))
    family = family_of(config)
    check_weights(str(path))
    layout = weights_layout(str(path))
    start = adapter.create(BaseReference(str(path)), LoRAConfig(rank=RANK, alpha=float(RANK)))
    memory = {}
    for precision in PRECISIONS:
        peaks, weights = {}, 0
        for side in SIDES:
            latents = side // family.space.factor
            demand = Demand((latents, latents), family.text_tokens, discriminator=DiscriminatorConfig())
            counted = rehearse(start, precision, demand)
            weights = sum(counted.blocks) + counted.outside
            peaks[str(side)] = {"whole": counted.with_streamed(0), "streamed": counted.with_streamed(1)}
        memory[precision] = {"weights": weights, "peaks": peaks}
    return {
        "kind": "base",
        "file": str(path),
        "bytes": sum(file.stat().st_size for file in weight_files(str(path))),
        "family": family.name,
        "model": variant(str(path)),
        "format": layout.kind,
        "names": layout.naming,
        "blocks": {"double": config["num_layers"], "single": config["num_single_layers"]},
        "width": config["num_attention_heads"] * config["attention_head_dim"],
        "memory": memory,
        "free": torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None,
    }


def base_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The same in lines for people."""
    blocks = told["blocks"]
    yield f"{told['file']}: a {told['family']} base ({told['model']}), {told['bytes'] / 1e9:.2f} GB."
    yield f"Weights: {told['format']}, under the names of {told['names']}; precision says what they are brought into."
    yield f"Blocks: {blocks['double']} double, {blocks['single']} single, width {told['width']}."
    yield f"GiB of a card in stage 2 (counted: rank {RANK}, batch size 1, gradient checkpointing), stage 1 takes less:"
    yield f"  {'precision':18}" + "".join(f"{head:>10}" for head in ("weights", *(f"{side} px" for side in SIDES)))
    for precision, each in told["memory"].items():
        cells = [each["weights"], *(peak["whole"] for peak in each["peaks"].values())]
        yield f"  {PRECISIONS[precision]:18}" + "".join(f"{cell / GIB:10.1f}" for cell in cells)
    least = [peak["streamed"] for peak in told["memory"]["int8_convrot"]["peaks"].values()]
    yield f"  {'all int8 streamed':18}{'':10}" + "".join(f"{cell / GIB:10.1f}" for cell in least)
    if told["free"] is None:
        yield "This machine has no card to compare that with."
        return
    yield f"This machine's card has {told['free'] / GIB:.1f} GiB free:"
    for side in SIDES:
        yield f"  {side} px: {_verdict(told, str(side))}"


def _verdict(told: Mapping[str, Any], side: str) -> str:
    usable = USABLE * told["free"]
    peaks = {precision: each["peaks"][side] for precision, each in told["memory"].items()}
    for precision in AUTOMATIC:
        if peaks[precision]["whole"] <= usable:
            return f"precision auto takes {precision}."
    if peaks["int8_convrot"]["streamed"] <= usable:
        return "precision auto takes int8_convrot, with a part of the blocks streamed."
    return "nothing fits. Close other programs, or train on smaller pictures."
