"""Layouts of FLUX.2 LoRA files by other programs: what is in such a file, and what becomes of it on klein 4B.

    python -m fluxduel.tests.unit.lora.foreign_layouts

prints them as the table that docs/REFERENCE.md has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
# What the change of each adapted layer's weight adds to its output for ``inputs``, by diffusers' name.
Changes = dict[str, Tensor]

WIDTH, RANK, ALPHA = 3072, 2, 1.0
BFL = {
    "double_blocks.0.img_attn.qkv": (9216, WIDTH),
    "double_blocks.4.txt_mlp.0": (18432, WIDTH),
    "single_blocks.0.linear1": (27648, WIDTH),
    "single_blocks.19.linear2": (WIDTH, 12288),
}
QKV = tuple(f"transformer_blocks.0.attn.to_{part}" for part in "qkv")
IN_DIFFUSERS = {
    "double_blocks.0.img_attn.qkv": QKV,
    "double_blocks.4.txt_mlp.0": ("transformer_blocks.4.ff_context.linear_in",),
    "single_blocks.0.linear1": ("single_transformer_blocks.0.attn.to_qkv_mlp_proj",),
    "single_blocks.19.linear2": ("single_transformer_blocks.19.attn.to_out",),
}
MODULATION = {
    "double_stream_modulation_img.lin": (6 * WIDTH, WIDTH),
    "single_stream_modulation.lin": (3 * WIDTH, WIDTH),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 97 * shape[0] + shape[1]))


def inputs(width: int) -> Tensor:
    """Three, in float64. Two changes that agree on them are the same."""
    return drawn(width, 3, seed=5).double()


def pair(key: str, shape: tuple[int, int], ends: tuple[str, str], alpha: float | None) -> tuple[Tensors, Tensor]:
    """A pair of matrices and what it adds."""
    down, up = drawn(RANK, shape[1]), drawn(shape[0], RANK)
    tensors = {f"{key}.{ends[0]}.weight": down, f"{key}.{ends[1]}.weight": up}
    if alpha is not None:
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors, up.double() @ (down.double() @ inputs(shape[1])) * (1.0 if alpha is None else alpha / RANK)


def split(names: tuple[str, ...], change: Tensor) -> Changes:
    return dict(zip(names, change.chunk(len(names)), strict=True))


def bfl(
    name_of: Callable[[str], str],
    ends: tuple[str, str],
    alpha: float | None,
    layers: Mapping[str, tuple[int, int]] = BFL,
) -> tuple[Tensors, Changes]:
    """A file with black-forest-labs' layers, q, k and v in one."""
    tensors: Tensors = {}
    changes: Changes = {}
    for layer, shape in layers.items():
        some, change = pair(name_of(layer), shape, ends, alpha)
        names = IN_DIFFUSERS.get(layer, (layer.replace(".lin", ".linear"),))
        tensors, changes = tensors | some, changes | split(names, change)
    return tensors, changes


def diffusers(
    name_of: Callable[[str], str], ends: tuple[str, str] = ("lora_A", "lora_B"), alpha: float | None = None
) -> tuple[Tensors, Changes]:
    """A file with diffusers' layers."""
    tensors: Tensors = {}
    changes: Changes = {}
    for layer, names in IN_DIFFUSERS.items():
        rows, inputs = BFL[layer]
        for name in names:
            some, changes[name] = pair(name_of(name), (rows // len(names), inputs), ends, alpha)
            tensors |= some
    return tensors, changes


def lokr(key: str, names: tuple[str, ...], first: tuple[int, int], second: tuple[int, int]) -> tuple[Tensors, Changes]:
    """A LoKr with a whole first factor and a second one of ``RANK``."""
    w1, a, b = drawn(*first), drawn(second[0], RANK), drawn(RANK, second[1])
    tensors = {f"{key}.lokr_w1": w1, f"{key}.lokr_w2_a": a, f"{key}.lokr_w2_b": b, f"{key}.alpha": torch.tensor(ALPHA)}
    # The Kronecker product on a vector is one factor on its rows and the other on its columns.
    rows = inputs(first[1] * second[1]).unflatten(0, (first[1], second[1]))
    added = torch.einsum("ij,jnk->ink", w1.double(), torch.einsum("mn,jnk->jmk", a.double() @ b.double(), rows))
    return tensors, split(names, added.flatten(0, 1) * ALPHA / RANK)


def whole_lokr(key: str, first: tuple[int, int], second: tuple[int, int]) -> tuple[Tensors, Changes]:
    return {f"{key}.lokr_w1": drawn(*first), f"{key}.lokr_w2": drawn(*second)}, {}


def dotted(layer: str) -> str:
    return f"diffusion_model.{layer}"


def underscored(prefix: str) -> Callable[[str], str]:
    return lambda layer: prefix + layer.replace(".", "_")


@dataclass(frozen=True)
class Layout:
    """``writers``: programs; ``refused``: words of the refusal, or "" where the file is read exactly."""

    writers: str
    made: tuple[Tensors, Changes]
    refused: str = ""

    @property
    def row(self) -> str:
        """Of the table in the documentation."""
        key = next(iter(self.made[0]))
        return f"| {self.writers} | `{key}` | {f'refused: “{self.refused}”' if self.refused else 'read exactly'} |"


AB, DOWN_UP = ("lora_A", "lora_B"), ("lora_down", "lora_up")
DEFAULT = ("lora_A.default", "lora_B.default")


def layouts() -> dict[str, Layout]:
    """By letter."""
    linear1, fused = "diffusion_model.single_blocks.0.linear1", "attn.to_qkv_mlp_proj"
    nine_billion = {"double_blocks.0.img_attn.proj": (4096, 4096)}
    return {
        "a": Layout("ai-toolkit, FluxDuel", bfl(dotted, AB, None)),
        "b": Layout(
            "ai-toolkit, LoKr of two whole factors",
            whole_lokr(linear1, (16, 16), (1728, 192)),
            "is a LoKr whose change has rank 3072",
        ),
        "b, of low rank": Layout(
            "ai-toolkit, LoKr with a factor of low rank",
            lokr(linear1, (f"single_transformer_blocks.0.{fused}",), (16, 16), (1728, 192)),
        ),
        "c": Layout("musubi-tuner, FluxDuel", bfl(underscored("lora_unet_"), DOWN_UP, ALPHA)),
        "d": Layout("diffusers, SimpleTuner", diffusers("transformer.{}".format)),
        "e": Layout("SimpleTuner, with alpha", diffusers("transformer.{}".format, alpha=ALPHA)),
        "f": Layout("SimpleTuner for ComfyUI, with alpha", bfl(dotted, AB, ALPHA)),
        "f, down and up": Layout("ComfyUI's Train LoRA", bfl(dotted, DOWN_UP, ALPHA)),
        "g": Layout(
            "LyCORIS LoKr",
            lokr("lycoris_transformer_blocks_0_attn_to_q", ("transformer_blocks.0.attn.to_q",), (4, 4), (768, 768)),
        ),
        "h": Layout("DiffSynth", diffusers(str, DEFAULT)),
        "i": Layout("PEFT, hosted trainers", bfl("base_model.model.{}".format, AB, None)),
        "i, diffusers": Layout("PEFT, diffusers' names", diffusers("base_model.model.{}".format)),
        "j": Layout(
            "exports that cut a prefix too long",
            diffusers(lambda name: f"diffusion_model.{name.removeprefix('tran')}"),
        ),
        "k": Layout("modulation, black-forest-labs' names", bfl(dotted, AB, None, MODULATION)),
        "k, diffusers": Layout(
            "modulation, diffusers' names",
            bfl(lambda layer: f"transformer.{layer}ear", AB, None, MODULATION),
        ),
        "k, kohya": Layout("modulation, kohya", bfl(underscored("lora_unet_"), DOWN_UP, ALPHA, MODULATION)),
        "l": Layout(
            "FLUX.3",
            bfl(dotted, AB, None, {"content_mode_blocks.image.0.q_proj": (WIDTH, WIDTH)}),
            "is a LoRA for FLUX.3 Image Klein",
        ),
        "m": Layout(
            "FLUX.1, ComfyUI's names",
            bfl(dotted, AB, None, {"single_blocks.0.linear1": (21504, WIDTH)}),
            "is a LoRA for FLUX.1",
        ),
        "m, diffusers": Layout(
            "FLUX.1, diffusers' names",
            bfl("transformer.{}".format, AB, None, {"transformer_blocks.7.attn.to_q": (WIDTH, WIDTH)}),
            "is a LoRA for FLUX.1",
        ),
        "n": Layout("FLUX.2 klein 9B", bfl(dotted, AB, None, nine_billion), "is a LoRA for FLUX.2 klein 9B"),
        "n, dev": Layout(
            "FLUX.2 dev",
            bfl(underscored("lora_unet_"), DOWN_UP, ALPHA, {"single_blocks.40.linear2": (6144, 24576)}),
            "is a LoRA for FLUX.2 dev",
        ),
    }  # fmt: skip


TABLE = "| written by | keys such as | on FLUX.2 klein 4B |\n|---|---|---|"


def main() -> None:
    print(TABLE, *(layout.row for layout in layouts().values()), sep="\n")


if __name__ == "__main__":
    main()
