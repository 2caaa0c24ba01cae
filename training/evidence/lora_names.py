"""What LoRAs are called beside each other, by how they came to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..lora.adapter import FluxLoRA
from ..lora.value import UP

STAGE_NAMES = {"diffusion": "stage 1", "adversarial": "stage 2"}


def row_names(loras: Sequence[FluxLoRA]) -> list[str]:
    """A name for each LoRA by how it came to be: base, stage 1, stage 2, or its file's name.

    A LoRA that changes nothing is the base. One of unknown origin is called LoRA. A name that comes again gets a
    number, as in ``stage 2 (2)``.
    """
    seen: Counter[str] = Counter()
    names = []
    for lora in loras:
        name = _origin(lora)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def changes_nothing(lora: FluxLoRA) -> bool:
    """Whether the LoRA's B is zero, as that of a new one is."""
    return not any(bool(tensor.any()) for key, tensor in lora.tensors.items() if key.endswith(UP))


def _origin(lora: FluxLoRA) -> str:
    if changes_nothing(lora):
        return "base"
    if lora.file:
        return lora.file
    if not lora.provenance:
        return "LoRA"
    stage = str(lora.provenance[-1]["stage"])
    return STAGE_NAMES.get(stage, stage)


def last_config(lora: FluxLoRA) -> dict[str, Any]:
    """The settings of the stage that the LoRA was last trained in; empty where there was none."""
    return dict(lora.provenance[-1].get("config", {})) if lora.provenance else {}
