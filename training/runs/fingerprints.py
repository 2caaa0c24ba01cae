"""What makes two runs of a stage the same run, and in words what makes them differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..base.base_model import BaseReference
from ..config import Config, DiscriminatorConfig, StageConfig
from ..data.latent_cache import digest
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA

# Raised with each change of the method that makes the same settings give another LoRA: an unfinished run of an older
# version then is not gone on with.
METHOD = {"diffusion": 2, "adversarial": 2}

_OVER_STEPS = ("lr_schedule", "adversarial_schedule", "diffusion_schedule")

_WORDS = {
    "method": "this version's method",
    "base": "the base",
    "precision": "the base's precision",
    "data": "the training data",
    "practice": "the practice prompts",
    "outside": "the outside prompts",
    "sampling_base": "the base that the watch samples with",
    "negative": "the negative prompt",
    "lora": "the LoRA it starts from",
    "discriminator_weights": "the discriminator it goes on with",
}


@dataclass(frozen=True)
class Fingerprint:
    """One run of a stage: all that decides the weights after each step, and the number of ``steps`` asked for.

    ``parts``: name -> JSON value; options of the discriminator have ``discriminator.`` before their names.
    """

    stage: str
    parts: Mapping[str, Any]
    steps: int

    @property
    def total(self) -> int:
        """Calls of the stage's ``step()``: stage 2 begins with the discriminator's warm-up."""
        return self.steps + self.warmup

    @property
    def warmup(self) -> int:
        """How many of them train the discriminator alone."""
        return int(self.parts.get("discriminator_warmup", 0))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """In words what differs from the ``parts`` of an earlier run, such as ``rank (was 16, now 8)``."""
        words = []
        for name in [*self.parts, *(name for name in other if name not in self.parts)]:
            was, now = other.get(name), self.parts.get(name)
            if was != now:
                words.append(_WORDS.get(name) or f"{name} (was {was}, now {now})")
        return words


def fingerprint(
    stage: str,
    lora: FluxLoRA,
    data: RealLatents,
    config: StageConfig,
    discriminator: DiscriminatorConfig | None = None,
    discriminator_weights: Mapping[str, Tensor] | None = None,
    ranks: int = 1,
    sampling_base: BaseReference | None = None,
) -> Fingerprint:
    """That of a run of ``stage`` with these inputs.

    Options that leave the result as it is up to rounding do not count, and of the batch only the number of images in
    an update does, over all ``ranks``: a run may go on with other batches of the same total, or on other GPUs.

    Raises ``BaseModelError`` where the base is gone.
    """
    options = shaping(config)
    steps = options.pop("steps")
    options["images_per_update"] = options.pop("batch_size") * options.pop("gradient_accumulation") * ranks
    parts: dict[str, Any] = {
        "method": METHOD[stage],
        "base": f"{lora.base.name} {lora.base.fingerprint()}",
        "precision": lora.base.precision,
        "lora": identity(lora.tensors),
        "alpha": lora.config.alpha,
        "data": data.fingerprint,
        **options,
    }
    if discriminator is not None:
        if data.practice_fingerprint and parts["practice_share"]:
            parts["practice"] = data.practice_fingerprint
        else:
            # It decides nothing, and an earlier version's run does not have it.
            del parts["practice_share"]
        if data.outside_fingerprint and parts["outside_share"]:
            parts["outside"] = data.outside_fingerprint
        else:
            # As above.
            del parts["outside_share"], parts["outside_weight"]
        if parts["watch_cfg"] == 1 or not parts["watch"]:
            # As above.
            del parts["watch_cfg"]
        elif data.negative_fingerprint:
            parts["negative"] = data.negative_fingerprint
        if sampling_base is not None and config.watch:
            told = f"{sampling_base.name} {sampling_base.fingerprint()}"
            parts["sampling_base"] = f"{told} {sampling_base.precision}"
        parts |= {f"discriminator.{name}": value for name, value in shaping(discriminator).items()}
        parts["discriminator_weights"] = identity(discriminator_weights or {})
    return Fingerprint(stage, parts, steps)


def planned_over_steps(options: Mapping[str, Any]) -> list[str]:
    """The names of those schedules among ``options`` that depend on how many steps are planned.

    Without any, the state after an update is the same for every number of steps.
    """
    return [name for name in _OVER_STEPS if options.get(name, "constant") != "constant"]


def identity(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names and values."""
    return digest(*(part for name in sorted(tensors) for part in (name, tensors[name])))


def shaping(config: Config) -> dict[str, Any]:
    """Those options of ``config`` that decide the result."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata["shapes_result"]
    }
