"""The arms: what each of them does with the same stage-1 LoRA of a style, all but one in the same number of steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.stages.adversarial_stage import AdversarialStage

from ..rivals import DistilStage, MmdStage

GENERATOR_STEPS = 150
# As many updates of stage 1 as cost what the others' steps and their discriminators do.
EQUAL_COMPUTE_STEPS = 500
RANK = 32
# A model of 2.7 million weights takes learning rates that FLUX's 12 billion do not.
SCALE: dict[str, Any] = {"batch_size": 8, "gradient_checkpointing": False, "checkpoint_every": 0}
STAGE_1: dict[str, Any] = {"learning_rate": 4e-4, "lr_schedule": "cosine", "lr_warmup_steps": 20, "validate_every": 0}
STAGE_1_STEPS = {24: 200, 60: 300}
LORA_RATE, DISCRIMINATOR_RATE = 2e-4, 3e-3
VALIDATE_EVERY = 50
# The guidance at which FLUX.1-dev is sampled; stage 2 trains for it, held by the anchor.
GUIDANCE = 3.5
# The published kind: a convolutional network on clean one-step estimates with the original loss, and nothing else.
PLAIN_JUDGE: dict[str, Any] = {
    "architecture": "cnn", "loss": "bce", "r1": 0.0, "r2": 0.0, "centring": 0.0, "augmentation": "off",
    "learning_rate": 2e-4,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "target": "x0", "step_share": 0.0, "renoise": False, "discriminator_ratio": "fixed", "adversarial_weight": 0.1,
}  # fmt: skip
OURS: dict[str, Any] = {"target_steps": 4, "anchor": "start", "guidance": GUIDANCE, "adversarial_weight": 3.0}


@dataclass(frozen=True)
class Arm:
    """One way to spend the generator steps. All of them are watched, and deliver the best state by the same score.

    ``practice``: on captions of subjects that it is not measured on, too.
    """

    title: str
    config: dict[str, Any] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    stage: type[AdversarialStage] = AdversarialStage
    practice: bool = True

    def stage_config(self, seed: int) -> AdversarialStageConfig:
        common = {"steps": GENERATOR_STEPS, "validate_every": VALIDATE_EVERY, "learning_rate": LORA_RATE, "seed": seed}
        return AdversarialStageConfig(**{**SCALE, **common, **self.config})

    def judge_config(self, seed: int) -> DiscriminatorConfig:
        return DiscriminatorConfig(**{"learning_rate": DISCRIMINATOR_RATE, "seed": seed, **self.judge})


_NO_DUEL: dict[str, Any] = {"adversarial_weight": 0.0, "discriminator_warmup": 0}
_RIVAL: dict[str, Any] = {**OURS, "discriminator_warmup": 0, "discriminator_ratio": "fixed"}
ARMS = {
    "ours": Arm("ours", OURS),
    "distil": Arm("regression on stage 1's sub-steps", _RIVAL, stage=DistilStage),
    "mmd": Arm("discrepancy of features", {**_RIVAL, "adversarial_weight": 3.0}, stage=MmdStage),
    "control": Arm("stage 1 continued", _NO_DUEL, practice=False),
    "longer": Arm(
        "stage 1 continued for equal compute", {**_NO_DUEL, "steps": EQUAL_COMPUTE_STEPS}, practice=False
    ),
    "captions": Arm("ours, on the pictures' captions alone", OURS, practice=False),
    "unguided": Arm("ours, trained at guidance 1", {**OURS, "guidance": 1.0}),
    "pictures": Arm("ours, at guidance 1 and held to the pictures", {**OURS, "guidance": 1.0, "anchor": "pictures"}),
    "pure": Arm("ours, adversarial loss alone", {**OURS, "objective": "pure"}),
    "plain": Arm("plain method", PLAIN, PLAIN_JUDGE, practice=False),
}
# Stage 1 alone, sampled with whichever stock solver and guidance is best.
CONTINUED = ("control", "longer")
