"""How LoRA files name their tensors."""

from __future__ import annotations

from dataclasses import dataclass

from .modules import DIFFUSERS, ORIGINAL


@dataclass(frozen=True)
class LoRALayout:
    """One layout. ``naming``: whose names its layers have, behind ``prefix``, and ``joint`` where those have a dot.

    ``down``, ``up``: what the keys of a layer's two matrices end in. ``alpha``: whether a layer's alpha is a tensor of
    its own; otherwise its weights are multiplied by alpha / rank. ``doubts``: an expression for names of diffusers'
    layers, and what another program makes of such a layer in this layout.
    """

    name: str
    naming: str
    prefix: str
    joint: str
    down: str
    up: str
    alpha: bool
    doubts: tuple[tuple[str, str], ...] = ()

    def key(self, layer: str) -> str:
        """What all keys of a layer begin with, before a dot."""
        return self.prefix + layer.replace(".", self.joint)


TRANSFORMER = LoRALayout("diffusers", DIFFUSERS, "transformer.", ".", ".lora_A.weight", ".lora_B.weight", True)
KOHYA = LoRALayout("kohya", ORIGINAL, "lora_unet_", "_", ".lora_down.weight", ".lora_up.weight", True)
# diffusers refuses alpha here, ComfyUI takes the rank for it.
DIFFUSION_MODEL = LoRALayout(
    "diffusion_model", ORIGINAL, "diffusion_model.", ".", ".lora_A.weight", ".lora_B.weight", False
)
