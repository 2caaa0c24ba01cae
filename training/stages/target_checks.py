"""Whether stage 2's settings go together, and with the data: asked before anything is loaded."""

from __future__ import annotations

from ..base.base_model import read_transformer_config
from ..config import AdversarialStageConfig, DiscriminatorConfig
from ..data.data_error import DataError
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA


def check_target(
    start: FluxLoRA, data: RealLatents, judge: DiscriminatorConfig, config: AdversarialStageConfig
) -> None:
    """Raises ``DataError`` or ``ValueError`` where the stage's settings do not go together, or not with the data."""
    if judge.architecture == "flux_features":
        if not config.renoise:
            raise ValueError(
                "flux_features cannot judge clean latents, which the base has never seen at a noise level. Turn "
                "renoise on, or choose patch_cnn."
            )
        if judge.loss == "wgan-gp":
            raise ValueError(
                "wgan-gp needs second derivatives, which the base's attention does not give. Choose the relativistic "
                "loss (r1 and r2 take the penalty's place), or patch_cnn."
            )
    elif judge.mismatched_share:
        raise ValueError(
            f"{judge.architecture} does not look at prompts, so it cannot learn from mismatched ones. Set "
            "mismatched_share to 0, or choose flux_features."
        )
    if data.practice_prompts and config.practice_share:
        if config.target == "two_samplers":
            raise ValueError(
                "practice_prompts and two_samplers do not go together: a practice prompt does not say which sampler it "
                "is for. Set practice_share to 0, or choose another target."
            )
        masked = next((sample.name for sample in data.samples if sample.masked), None)
        if masked is not None:
            raise DataError(
                f"'{masked}' has a mask, and practice_prompts do not go with masks: what the LoRA draws for them is "
                "compared with whole pictures. Set practice_share to 0, or leave the masks away."
            )
    if config.balance == "gradient_ratio" and config.objective == "hybrid":
        causes = {
            "anchor is start": config.anchor == "start",
            "practice_share is 1": config.practice_share == 1 and bool(data.practice_prompts),
        }
        for cause, holds in causes.items():
            if holds:
                raise ValueError(
                    f"balance is gradient_ratio and {cause}: the flow loss then begins at 0, and a share of its "
                    "gradient is no weight. Set balance to fixed."
                )
    if config.target != "two_samplers":
        return
    if config.few_step_guidance:
        if not read_transformer_config(start.base.path)["guidance_embeds"]:
            raise ValueError(
                f"{start.base.name} has no guidance embedding, so few_step_guidance cannot tell it the sampler. Set it "
                "to 0, and few_step_phrase in Encode Real Latents."
            )
    elif not data.few_step_prompts:
        raise DataError(
            "two_samplers needs a way to tell the LoRA which sampler it serves. Set few_step_phrase in Encode Real "
            "Latents, or few_step_guidance in Stage 2: Train LoRA with GAN."
        )
