"""Whether stage 2's settings go together, and with the data: asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..base.base_model import BaseReference, read_transformer_config
from ..base.families import family_of
from ..config import AdversarialStageConfig, DiscriminatorConfig
from ..data.data_error import DataError
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS


class DataFacts(NamedTuple):
    """What the settings have to go together with. ``masked``: the name of a picture with a mask; empty for none."""

    practice_prompts: bool
    few_step_prompts: bool
    masked: str = ""


class Fault(NamedTuple):
    """What does not go together. ``options``: those that it is about, the one to change first."""

    options: tuple[str, ...]
    error: ValueError


def check_target(
    start: FluxLoRA, data: RealLatents, judge: DiscriminatorConfig, config: AdversarialStageConfig
) -> None:
    """Raises ``DataError`` or ``ValueError`` where the stage's settings do not go together, or not with the data."""
    masked = next((sample.name for sample in data.samples if sample.masked), "")
    facts = DataFacts(bool(data.practice_prompts), bool(data.few_step_prompts), masked)
    for fault in target_faults(start.base, facts, judge, config):
        raise fault.error


def target_faults(
    base: BaseReference, data: DataFacts, judge: DiscriminatorConfig, config: AdversarialStageConfig
) -> Iterator[Fault]:
    """All that does not go together, in the order in which ``check_target`` would raise it."""
    if judge.architecture == "flux_features":
        if not config.renoise:
            yield Fault(
                ("renoise", "architecture"),
                ValueError(
                    "flux_features cannot judge clean latents, which the base has never seen at a noise level. Turn "
                    "renoise on, or choose patch_cnn."
                ),
            )
        if judge.loss == "wgan-gp":
            yield Fault(
                ("loss", "architecture"),
                ValueError(
                    "wgan-gp needs second derivatives, which the base's attention does not give. Choose the "
                    "relativistic loss (r1 and r2 take the penalty's place), or patch_cnn."
                ),
            )
    elif judge.mismatched_share:
        yield Fault(
            ("mismatched_share", "architecture"),
            ValueError(
                f"{judge.architecture} does not look at prompts, so it cannot learn from mismatched ones. Set "
                "mismatched_share to 0, or choose flux_features."
            ),
        )
    if config.target == "distilled":
        if config.target_steps > FEW_STEPS:
            yield Fault(
                ("target_steps", "target"),
                ValueError(
                    f"target is distilled, and target_steps is {config.target_steps}: what is drawn from noise takes "
                    f"{FEW_STEPS} steps at most. Set target_steps to what the distilled model takes, such as 4."
                ),
            )
        if data.masked:
            yield Fault(
                ("target",),
                DataError(
                    f"'{data.masked}' has a mask, and target is distilled: what the LoRA draws from noise is compared "
                    "with whole pictures. Choose another target, or leave the masks away."
                ),
            )
    if data.practice_prompts and config.practice_share:
        if config.target == "two_samplers":
            yield Fault(
                ("practice_share", "target", "practice_prompts"),
                ValueError(
                    "practice_prompts and two_samplers do not go together: a practice prompt does not say which "
                    "sampler it is for. Empty practice_prompts, set practice_share to 0 (Judged Sample Options), or "
                    "choose another target."
                ),
            )
        if data.masked:
            yield Fault(
                ("practice_share", "practice_prompts"),
                DataError(
                    f"'{data.masked}' has a mask, and practice_prompts do not go with masks: what the LoRA draws for "
                    "them is compared with whole pictures. Set practice_share to 0, or leave the masks away."
                ),
            )
    if config.balance == "gradient_ratio" and config.objective == "hybrid":
        causes = {
            ("anchor is start", ("balance", "objective", "anchor")): config.anchor == "start",
            ("target is distilled", ("balance", "objective", "target")): config.target == "distilled",
            ("practice_share is 1", ("balance", "objective", "practice_share", "practice_prompts")): (
                config.practice_share == 1 and data.practice_prompts
            ),
        }
        for (cause, options), holds in causes.items():
            if holds:
                yield Fault(
                    options,
                    ValueError(
                        f"balance is gradient_ratio and {cause}: the flow loss then begins at 0, and a share of its "
                        "gradient is no weight. Set balance to fixed."
                    ),
                )
    if config.target != "two_samplers":
        return
    if config.few_step_guidance:
        transformer = read_transformer_config(base.path)
        if not family_of(transformer).guidance_embeds(transformer):
            yield Fault(
                ("few_step_guidance", "target"),
                ValueError(
                    f"{base.name} has no guidance embedding, so few_step_guidance cannot tell it the sampler. Set it "
                    "to 0, and few_step_phrase in Encode Real Latents."
                ),
            )
    elif not data.few_step_prompts:
        yield Fault(
            ("target", "few_step_guidance", "few_step_phrase"),
            DataError(
                "target two_samplers needs a way to tell the LoRA which sampler it serves. Set few_step_phrase in "
                "Encode Real Latents, or few_step_guidance in Judged Sample Options."
            ),
        )
