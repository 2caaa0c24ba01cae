"""The arms: what each of them does with the same stage-1 LoRA in the same number of generator steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, StageConfig

GENERATOR_STEPS = 300
# A model of 0.4 million weights takes learning rates that FLUX's 12 billion do not; batch and noise levels likewise.
# Of 3e-4, 1e-3 and 2e-3 for the control, the last two are equally good at 4 steps; of the first two for the plain
# method the second is better. Weights of 0.5 and more only over-sharpen.
SCALE: dict[str, Any] = {
    "batch_size": 64,
    "gradient_checkpointing": False,
    "timestep_sampling": "logit_normal",
    "timestep_std": 1.2,
}
STAGE_1: dict[str, Any] = {"learning_rate": 2e-3, "validate_every": 0}
# By number of images: where the loss on held-out pictures stops to fall.
STAGE_1_STEPS = {256: 600, 24: 200}
LORA_RATE, DISCRIMINATOR_RATE = 1e-3, 1e-3
# The published kind: a convolutional network on clean one-step estimates with the original loss, and nothing else.
PLAIN_JUDGE: dict[str, Any] = {
    "architecture": "cnn",
    "loss": "bce",
    "r1": 0.0,
    "r2": 0.0,
    "centring": 0.0,
    "augmentation": "off",
}
PLAIN: dict[str, Any] = {
    "target": "x0",
    "step_share": 0.0,
    "renoise": False,
    "watch": False,
    "discriminator_ratio": "fixed",
}


@dataclass(frozen=True)
class Arm:
    """One way to spend the generator steps; ``judge`` None continues stage 1. All else is the pack's default."""

    title: str
    stage: dict[str, Any] = field(default_factory=dict)
    judge: dict[str, Any] | None = None

    @property
    def two_samplers(self) -> bool:
        return self.stage.get("target") == "two_samplers"

    def stage_config(self, seed: int) -> StageConfig:
        """The stage's configuration."""
        common = {**SCALE, "steps": GENERATOR_STEPS, "seed": seed}
        if self.judge is None:
            return DiffusionStageConfig(**{**common, "validate_every": 0, **self.stage})
        return AdversarialStageConfig(**{**common, "learning_rate": LORA_RATE, **self.stage})

    def judge_config(self, seed: int) -> DiscriminatorConfig:
        """The discriminator's configuration."""
        return DiscriminatorConfig(**{"learning_rate": DISCRIMINATOR_RATE, "seed": seed, **(self.judge or {})})


ARMS = {
    "control": Arm("stage 1 continued", {"learning_rate": 1e-3}),
    "plain": Arm("plain method", {**PLAIN, "adversarial_weight": 0.02}, PLAIN_JUDGE),
    # Without the watch, which would soon stop it and deliver stage 1.
    "pure": Arm("target_steps 4, adversarial loss alone", {"target_steps": 4, "objective": "pure", "watch": False}, {}),
    "target4": Arm("ours, target_steps 4", {"target_steps": 4}, {}),
    "anchored": Arm("ours, target_steps 4, anchor start", {"target_steps": 4, "anchor": "start"}, {}),
    "target25": Arm("ours, target_steps 25", {"target_steps": 25}, {}),
    "both": Arm("ours, two_samplers", {"target": "two_samplers"}, {}),
}
# Shown beside, with one seed.
SHOWN_ONCE = ("plain", "pure", "target25", "both")
