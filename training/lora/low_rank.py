"""What a file does to one layer, as a product of two thin matrices: LoRA, LoHa and LoKr."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import LoRAConfig
from .value import LoRAError

MOST = next(int(field.metadata["high"]) for field in dataclasses.fields(LoRAConfig) if field.name == "rank")


@dataclass(frozen=True)
class Change:
    """A layer's weight changes by ``up @ down * scale``; ``down`` (rank, in), ``up`` (out, rank), fp32."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Rows of ``down``."""
        return self.down.shape[0]


def size_of(parts: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """(out, in) of the layer that these tensors change, by their shapes alone; ``None`` where they do not tell it."""
    shapes = {part: tensor.shape for part, tensor in parts.items() if tensor.ndim >= 2}
    for first, last in (("up", "down"), ("hada_w1_a", "hada_w1_b")):
        if first in shapes and last in shapes:
            return shapes[first][0], shapes[last][1]
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        first, last = (shapes.get(key, shapes.get(name)) for key in (f"{name}_a", f"{name}_b"))
        if first is None or last is None:
            return None
        factors.append((first[0], last[1]))
    return factors[0][0] * factors[1][0], factors[0][1] * factors[1][1]


def change_of(where: str, parts: Mapping[str, Tensor], alpha_over_rank: Callable[[int], float]) -> Change:
    """The change of one layer, exactly, from its tensors by part (``keys.split_key``).

    ``alpha_over_rank``: the scale for the rank that the file was trained with. LoHa's change is ``(w1_a @ w1_b) * (w2_a
    @ w2_b)``, of the product of both ranks at most; LoKr's is the Kronecker product of its two factors, whose ranks
    multiply too (LyCORIS, arXiv:2309.14859, sections 3.2 and 3.3). ``where`` names file and layer in messages.

    Raises ``LoRAError`` for a part that lacks or has the wrong shape, a number that is not finite, and a change of a
    higher rank than a LoRA of FluxDuel may have.
    """
    for part, tensor in parts.items():
        if not bool(torch.isfinite(tensor).all()):
            raise LoRAError(f"{where} holds NaN or infinity in {part}. The file is of no use: choose another one.")
    if any(part.startswith("hada_") for part in parts):
        down, up, scale = _loha(where, parts, alpha_over_rank)
    elif any(part.startswith("lokr_") for part in parts):
        down, up, scale = _lokr(where, parts, alpha_over_rank)
    else:
        down, up = _matrix(where, parts, "down"), _matrix(where, parts, "up")
        if down.shape[0] != up.shape[1] or not down.shape[0]:
            raise LoRAError(
                f"{where} is {tuple(down.shape)} and {tuple(up.shape)}, not (rank, in) and (out, rank): no LoRA "
                "of a linear layer. Choose a plain LoRA."
            )
        scale = alpha_over_rank(down.shape[0])
    if "scalar" in parts:
        scale *= number(where, "scalar", parts["scalar"])
    return Change(down.float(), up.float(), scale)


def number(where: str, part: str, tensor: Tensor) -> float:
    """The one number in a tensor. Raises ``LoRAError`` for several, and for one that is not finite."""
    value = float(tensor.flatten()[0]) if tensor.numel() == 1 else math.nan
    if not math.isfinite(value):
        raise LoRAError(f"{where}: {part} is no finite number. The file is damaged: download it again.")
    return value


def _matrix(where: str, parts: Mapping[str, Tensor], part: str) -> Tensor:
    if part not in parts:
        there = " and ".join(sorted(parts))
        raise LoRAError(f"{where} has {there} only, and no {part}. Download the complete file again.")
    tensor = parts[part]
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        # Some programs write a linear layer as a convolution of one pixel.
        tensor = tensor.flatten(1)
    if tensor.ndim != 2:
        raise LoRAError(
            f"{where}: {part} is {tuple(tensor.shape)}, no matrix: no LoRA of a linear layer. Choose a plain LoRA."
        )
    return tensor


def _loha(
    where: str, parts: Mapping[str, Tensor], alpha_over_rank: Callable[[int], float]
) -> tuple[Tensor, Tensor, float]:
    w1_a, w1_b, w2_a, w2_b = (
        _matrix(where, parts, f"hada_{name}").double() for name in ("w1_a", "w1_b", "w2_a", "w2_b")
    )
    fits = w1_a.shape[1] == w1_b.shape[0] and w2_a.shape[1] == w2_b.shape[0]
    if not fits or w1_a.shape[0] != w2_a.shape[0] or w1_b.shape[1] != w2_b.shape[1]:
        shapes = ", ".join(str(tuple(each.shape)) for each in (w1_a, w1_b, w2_a, w2_b))
        raise LoRAError(f"{where} is a LoHa whose parts do not fit each other: {shapes}. Download it again.")
    _check_rank(where, "LoHa", w1_a.shape[1] * w2_a.shape[1])
    # (sum_i a_i b_i) * (sum_j c_j d_j) = sum_ij (a_i * c_j) (b_i * d_j).
    up = (w1_a[:, :, None] * w2_a[:, None, :]).flatten(1)
    down = (w1_b[:, None, :] * w2_b[None, :, :]).flatten(0, 1)
    return down, up, alpha_over_rank(w1_b.shape[0])


def _lokr(
    where: str, parts: Mapping[str, Tensor], alpha_over_rank: Callable[[int], float]
) -> tuple[Tensor, Tensor, float]:
    first, second = (_factor(where, parts, f"lokr_{name}") for name in ("w1", "w2"))
    _check_rank(where, "LoKr", first[0].shape[1] * second[0].shape[1])
    # (A B) x (C D) = (A x C) (B x D), x being the Kronecker product.
    up, down = torch.kron(first[0], second[0]), torch.kron(first[1], second[1])
    trained = [parts[f"lokr_{name}_b"].shape[0] for name in ("w2", "w1") if f"lokr_{name}_b" in parts]
    # Of two whole factors there is no rank that alpha could be divided by; LyCORIS and ComfyUI take no notice of it.
    return down, up, alpha_over_rank(trained[0]) if trained else 1.0


def _factor(where: str, parts: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """A factor as a product of the lowest rank that is plain to see."""
    if name in parts:
        whole = _matrix(where, parts, name).double()
    else:
        left, right = (_matrix(where, parts, f"{name}_{side}").double() for side in "ab")
        if left.shape[1] != right.shape[0]:
            raise LoRAError(f"{where}: {name}_a is {tuple(left.shape)} and {name}_b {tuple(right.shape)}: no product.")
        if left.shape[1] <= min(left.shape[0], right.shape[1]):
            return left, right
        whole = left @ right
    rows, columns = whole.shape
    if rows < columns:
        return torch.eye(rows, dtype=whole.dtype), whole
    return whole, torch.eye(columns, dtype=whole.dtype)


def _check_rank(where: str, kind: str, rank: int) -> None:
    if rank > MOST:
        raise LoRAError(
            f"{where} is a {kind} whose change has rank {rank}. A LoRA would need that rank, and {MOST} is the most. "
            "Start a new LoRA; or merge the file into the checkpoint with another program, and train on that."
        )
