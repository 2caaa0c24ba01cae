"""Each family at a small size, for tests of the mathematics that hold whatever the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import nn

from fluxduel.training.base.base_model import FluxBase, read_transformer_config
from fluxduel.training.base.families import family_of
from fluxduel.training.base.families.family import Family
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.base.families.flux3 import FLUX3
from fluxduel.training.lora.adapter import FluxLoRA

CONTEXT, LENGTH = 24, 5


@dataclass(frozen=True)
class Small:
    """A small transformer of a family: diffusers' configuration of it, without the numbers of blocks."""

    family: Family
    config: Mapping[str, Any]

    @property
    def channels(self) -> int:
        """Of its latents."""
        return self.family.space.channels

    @property
    def pooled(self) -> int:
        """Width of the pooled prompt."""
        return self.family.pooled_dim(self.config)

    def accepted(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """``settings`` of stage 2 but for those that a base without a guidance embedding refuses."""
        told = self.family.guidance_embeds(self.config)
        return {name: value for name, value in settings.items() if told or name != "few_step_guidance"}

    def transformer(self, doubles: int = 2, singles: int = 2, **changes: Any) -> nn.Module:
        """With the weights that diffusers gives to a new one."""
        blocks = {"num_layers": doubles, "num_single_layers": singles}
        return self.family.transformer_class()(**{**self.config, **blocks, **changes})

    def save(self, folder: Path, doubles: int = 2, singles: int = 2) -> Path:
        """Write one in diffusers' layout, every weight of it random (also those that start at zero)."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformer = self.transformer(doubles, singles)
            for weight in transformer.parameters():
                torch.nn.init.normal_(weight, std=0.2)
        transformer.save_pretrained(folder)
        return folder


SMALL_FLUX_1 = Small(
    FLUX1,
    {
        "in_channels": 64, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": CONTEXT,
        "pooled_projection_dim": 12, "guidance_embeds": True, "axes_dims_rope": (4, 6, 6),
    },
)  # fmt: skip
SMALL_FLUX_2 = Small(
    FLUX2,
    {
        "in_channels": 128, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": CONTEXT,
        "guidance_embeds": True, "axes_dims_rope": (4, 4, 4, 4),
    },
)  # fmt: skip
SMALL_FLUX_3 = Small(
    FLUX3,
    {
        "in_channels": 128, "cond_in_channels": 128, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": CONTEXT, "axes_dims_rope": (4, 4, 4, 4),
    },
)  # fmt: skip
ALL = (SMALL_FLUX_1, SMALL_FLUX_2, SMALL_FLUX_3)


def _in_turn(small: Small) -> ParameterSet:
    known = hasattr(diffusers, small.family.class_name)
    skip = pytest.mark.skipif(not known, reason=f"{small.family.name} needs {small.family.requirement}")
    return pytest.param(small, marks=skip, id=small.family.name)


each_family = pytest.mark.parametrize("family", [_in_turn(small) for small in ALL], indirect=True)


def small_of(what: FluxBase | FluxLoRA) -> Small:
    """That whose base this is, or is for."""
    family = what.family if isinstance(what, FluxBase) else family_of(read_transformer_config(what.base.path))
    return next(small for small in ALL if small.family is family)
