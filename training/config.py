"""Every setting of a training run, and the only place where a default lives.

The graph's widgets, the headless run and the documents read ranges, defaults and help texts from the
fields below (``dataclasses.fields(cls)[i].metadata``), so that none of them can drift apart.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# The name of the built-in base where a checkpoint is asked for.
TINY_BASE = "tiny"
# Of the frozen base; ``training.base.formats`` says what they are.
PRECISIONS = ("bf16", "fp32", "int8", "int8_convrot")
# In place of one of them: whichever fits the card.
AUTO = "auto"
# What it chooses from: exact first, then half as large.
AUTOMATIC = ("bf16", "int8_convrot")
# The solvers of ComfyUI's KSampler that pictures can be sampled with, by its names; ``base.solvers`` has them.
SAMPLERS = ("euler", "heun", "deis", "dpmpp_2m", "res_multistep", "ipndm", "ipndm_v", "gradient_estimation")
# Whether an evaluation also samples beside its settings; auto: where that takes no longer than the rest.
NEIGHBOURS = ("auto", "on", "off")

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_LARGEST = sys.float_info.max


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    step: float | None = None,
    advanced: bool = False,
    shapes_result: bool = True,
    lines: bool = False,
) -> Any:
    """A dataclass field that carries its range and its help text.

    ``low`` and ``high`` are inclusive, ``choices`` lists the allowed strings, ``step`` is the increment of
    a widget, ``advanced`` marks what most people never touch. ``shapes_result`` is False for what leaves the trained
    LoRA as it is, up to rounding: a run may go on with another value of it. ``lines``: a text of several lines.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "step": step, "lines": lines}
    metadata |= {"advanced": advanced, "shapes_result": shapes_result}
    return dataclasses.field(default=default, metadata=metadata)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}..."


def _shown(value: float) -> str:
    return f"{value:g}" if abs(value) <= _LARGEST else "a number of more than 300 digits"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Validation and JSON for all the configurations below."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check(field)

    def _check(self, field: dataclasses.Field) -> None:
        value = getattr(self, field.name)
        where = f"{type(self).__name__}.{field.name}"
        expected = type(field.default)
        if expected is float and type(value) is int:
            if abs(value) > _LARGEST:
                raise ValueError(f"{where} must be a finite number, got a larger one than there are.")
            object.__setattr__(self, field.name, float(value))
            value = float(value)
        if type(value) is not expected:
            raise ValueError(f"{where} must be {_KINDS[expected]}, got {_short(value)}.")
        if expected is float and not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {value!r}.")
        low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
        if choices is not None and value not in choices:
            raise ValueError(f"{where} must be one of {', '.join(choices)}; got {_short(value)}.")
        if low is not None and value < low:
            raise ValueError(f"{where} must be at least {low:g}, got {_shown(value)}.")
        if high is not None and value > high:
            raise ValueError(f"{where} must be at most {high:g}, got {_shown(value)}.")

    @classmethod
    def unchecked(cls, values: Mapping[str, Any]) -> Self:
        """A configuration of values that are not asked whether they go together, the rest at its defaults."""
        config = cls()
        for name, value in values.items():
            object.__setattr__(config, name, value)
        return config

    @classmethod
    def fault_of(cls, name: str, value: Any) -> str:
        """What is wrong with one option's value, whatever the others are; empty where nothing is."""
        field = next(field for field in dataclasses.fields(cls) if field.name == name)
        try:
            cls.unchecked({name: value})._check(field)
        except ValueError as error:
            return str(error)
        return ""

    def to_json(self) -> str:
        """The configuration as a JSON object, fields in order of declaration."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration that ``to_json`` wrote. Missing fields take their defaults.

        Raises ``ValueError`` for a text that is not a JSON object, for an unknown field and for a value out
        of range.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__}: expected a JSON object, got {type(values).__name__}.")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{cls.__name__} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(Config):
    """The adapter: its size and the linear layers it sits on."""

    rank: int = option(16, "Width of the adapter. More can learn more, and overfits sooner.", low=1, high=1024)
    alpha: float = option(
        16.0,
        "The adapter's output is scaled by alpha / rank. Equal to rank is the common choice.",
        low=1e-3,
        high=4096.0,
        step=0.5,
    )
    targets: str = option(
        "attention+mlp",
        "Which linear layers of the transformer blocks are adapted: attention alone, attention and MLP, all "
        "linear layers of the blocks (modulation too), or those whose name matches target_regex.",
        choices=("attention", "attention+mlp", "all", "regex"),
    )
    target_regex: str = option(
        "",
        "With targets = regex: a regular expression that a layer's full name must match, for example "
        r"single_transformer_blocks\.\d+\.proj_mlp",
        advanced=True,
    )
    seed: int = option(0, "Seed of the adapter's initial weights.", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if self.targets != "regex":
            return
        if not self.target_regex:
            raise ValueError("LoRAConfig.target_regex is empty, but targets is 'regex'. Give an expression.")
        try:
            re.compile(self.target_regex)
        except re.error as error:
            raise ValueError(
                f"LoRAConfig.target_regex {self.target_regex!r} is no valid expression: {error}."
            ) from error


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """How pictures become the dataset of both stages."""

    resolution: int = option(
        512,
        "Side of a square picture in pixels; other shapes get about the same area. 128 for the tiny base, 512 to 1024 "
        "for a real FLUX.",
        low=16,
        high=2048,
        step=16,
    )
    flip: bool = option(
        False,
        "Train on each picture's mirror image as well. Not for writing, faces or anything with a left and a right.",
    )
    held_out_share: float = option(
        0.1,
        "Share of the pictures that is never trained on, and on which held_out_loss is measured.",
        low=0.0,
        high=0.9,
        step=0.05,
    )
    seed: int = option(0, "Decides which pictures are held out.", low=0, high=2**63 - 1)
    bucket_step: int = option(
        64,
        "Sides of buckets are multiples of this many pixels. Smaller crops less and makes more buckets. At most "
        "resolution.",
        low=16,
        high=256,
        step=16,
        advanced=True,
    )
    few_step_phrase: str = option(
        "",
        "A phrase that tells the LoRA which sampler it serves, for target = two_samplers of the adversarial stage. "
        "Each caption is then also encoded with the phrase at its front. Empty: none.",
    )
    practice_prompts: str = option(
        "",
        "Prompts without pictures, one a line (a new line is \\n in a settings file), such as those that the LoRA is "
        "made for: the adversarial stage has the LoRA draw them from noise, and judges the style. A change of them "
        "trains stage 2 alone anew. Empty: none.",
        lines=True,
    )
    preview_prompts: str = option(
        "",
        "Prompts of the preview pictures of both stages, one a line, 16 at most. A change of them trains nothing anew. "
        "Empty: two captions, of held-out pictures where there are any.",
        advanced=True,
        shapes_result=False,
        lines=True,
    )
    outside_prompts: str = option(
        "",
        "Prompts of what the LoRA is not for, one a line: the adversarial stage holds the LoRA to the base there, so "
        "that a distilled model keeps its few steps. A change of them trains stage 2 alone anew. Empty: none.",
        advanced=True,
        lines=True,
    )
    negative_prompt: str = option(
        "",
        "What previews, the watch and evaluations are led away from, where their cfg is not 1: FLUX.1 and distilled "
        "models take none. Empty: the empty prompt.",
        advanced=True,
        lines=True,
    )


@dataclass(frozen=True, kw_only=True)
class EncodersConfig(Config):
    """VAE and text encoders. Not needed for the tiny base, which has its own."""

    folder: str = option(
        "",
        "A folder of FLUX.1 in diffusers' layout, with vae, text_encoder, text_encoder_2, tokenizer and tokenizer_2, "
        "or of FLUX.2, with vae, text_encoder and tokenizer. Empty: that of base.checkpoint, where it is such a "
        "folder.",
    )
    vae: str = option(
        "",
        "The VAE as a file of its own (ae.safetensors, flux2-vae.safetensors), in place of the folder's.",
        advanced=True,
    )
    precision: str = option(
        "bf16", "Number type of the text encoders.", choices=("bf16", "fp32"), advanced=True
    )
    max_tokens: int = option(
        512,
        "The most tokens of T5's encoding (FLUX.1). A caption takes 256, or more where it needs them, and is cut "
        "beyond this. FLUX.2's are always 512.",
        low=16,
        high=512,
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class StageConfig(Config):
    """What both stages share."""

    steps: int = option(1000, "Number of updates of the LoRA.", low=1, high=1_000_000)
    learning_rate: float = option(1e-4, "Learning rate of the LoRA (AdamW).", low=1e-8, high=1.0, step=1e-6)
    batch_size: int = option(1, "Images per forward pass.", low=1, high=256)
    gradient_accumulation: int = option(
        1,
        "Forward passes per update. batch_size 1 with 4 of these equals batch_size 4, in less memory.",
        low=1,
        high=1024,
    )
    seed: int = option(0, "Seed of noise, timesteps and data order. Same seed, same LoRA.", low=0, high=2**63 - 1)
    timestep_sampling: str = option(
        "shifted",
        "How noise levels are drawn. uniform; logit_normal; sigmoid (logit_normal without timestep_mean); "
        "shifted: logit_normal, then FLUX's shift for the picture's own number of tokens.",
        choices=("uniform", "logit_normal", "sigmoid", "shifted"),
        advanced=True,
    )
    timestep_mean: float = option(
        0.0, "Mean of the normal inside logit_normal and shifted.", low=-5.0, high=5.0, step=0.1, advanced=True
    )
    timestep_std: float = option(
        1.0,
        "Deviation of the normal inside logit_normal, sigmoid and shifted.",
        low=0.01,
        high=5.0,
        step=0.1,
        advanced=True,
    )
    guidance: float = option(
        1.0,
        "Value of FLUX-dev's guidance embedding while training. 1.0 keeps the guidance that you sample with.",
        low=0.0,
        high=100.0,
        step=0.1,
        advanced=True,
    )
    caption_dropout: float = option(
        0.0, "Share of samples that are trained with an empty prompt.", low=0.0, high=1.0, step=0.01, advanced=True
    )
    lr_schedule: str = option(
        "constant",
        "Course of the learning rate after the warm-up.",
        choices=("constant", "linear", "cosine"),
        advanced=True,
    )
    lr_warmup_steps: int = option(
        0,
        "Updates over which the learning rate rises, evenly, to its value. Keep it to a tenth of steps.",
        low=0,
        high=1_000_000,
        advanced=True,
    )
    weight_decay: float = option(0.01, "AdamW's weight decay.", low=0.0, high=1.0, step=0.01, advanced=True)
    max_grad_norm: float = option(
        1.0, "The LoRA's gradient is scaled down to this norm. 0 turns it off.", low=0.0, high=1e6, advanced=True
    )
    ema_decay: float = option(
        0.99,
        "Decay of the running average of the LoRA, which is what a stage delivers. 0 delivers the raw weights.",
        low=0.0,
        high=0.99999,
        step=0.001,
        advanced=True,
    )
    gradient_checkpointing: bool = option(
        True,
        "Recompute in the backward pass what the card has no room to keep: nothing, the feed-forward parts, or every "
        "block, which takes much less memory and a third more time. On a CPU every block. The result is the same.",
        advanced=True,
        shapes_result=False,
    )
    preview_every: int = option(
        -1,
        "Updates between two previews, the first of which shows the start and the last what is delivered. -1: as often "
        "as 2 % of the training's time allow, at most ten. 0: none.",
        low=-1, high=1_000_000, shapes_result=False,
    )
    preview_steps: int = option(
        0,
        "Sampling steps of a preview in stage 1. Stage 2 shows what it trains for, target_steps with euler; of two "
        "samplers the ordinary one takes these steps. 0: the 4 of a model that is distilled for few, else 8.",
        low=0, high=100, advanced=True, shapes_result=False,
    )
    validate_every: int = option(
        100,
        "Updates between two measurements of the flow loss on the held-out images. 0: none.",
        low=0,
        high=1_000_000,
        advanced=True,
    )


    checkpoint_every: int = option(
        100,
        "Updates between two checkpoints, from which a run goes on that was cut off. Cancel always leaves one. 0: only "
        "then, and at the end.",
        low=0,
        high=1_000_000,
        advanced=True,
        shapes_result=False,
    )
    keep_last: int = option(
        2, "Number of checkpoints that are kept, the best one apart.", low=1, high=1000, advanced=True,
        shapes_result=False,
    )
    keep_every: int = option(
        0,
        "Checkpoints at multiples of this number of updates are kept for good. 0: none.",
        low=0,
        high=1_000_000,
        advanced=True,
        shapes_result=False,
    )
    preview_sampler: str = option(
        "euler",
        "The sampler of previews, by ComfyUI's name, where preview_steps counts.",
        choices=SAMPLERS,
        advanced=True,
        shapes_result=False,
    )
    streamed_share: float = option(
        0.0,
        "Share of the frozen base's blocks that stay in the computer's memory, and are copied to the card each time "
        "that they compute. The result is the same to the last bit; a step takes the longer the more there are. Needs "
        "gradient_checkpointing. 0: the whole base is on the card. 1: next to nothing of it.",
        low=0.0, high=1.0, step=0.05, advanced=True, shapes_result=False,
    )
    compile_blocks: bool = option(
        False,
        "Have torch compile the frozen base's blocks: faster steps, after some minutes at the first ones. For long "
        "runs on a GPU. Where torch cannot compile, a note says why and blocks run as they are.",
        advanced=True, shapes_result=False,
    )

    memory_limit_gb: float = option(
        0.0,
        "The most of the card's memory, in GiB, that this stage is planned to take, to leave room for others. 0: all "
        "that is free.",
        low=0.0, high=4096.0, step=0.5, advanced=True, shapes_result=False,
    )
    preview_seed: int = option(
        0,
        "Seed of the noise that previews are drawn from, the same for each prompt and at each update.",
        low=0, high=2**63 - 1, advanced=True, shapes_result=False,
    )
    preview_guidance: float = option(
        0.0,
        "Value of FLUX-dev's guidance embedding in previews. 0: that of training, or the usual 3.5 where that is 1.",
        low=0.0, high=100.0, step=0.1, advanced=True, shapes_result=False,
    )
    preview_cfg: float = option(
        0.0,
        "Classifier-free guidance of previews: how far they are led from negative_prompt. Two passes a step. 1: off. "
        "0: as the base needs it, 4 for FLUX.2 and FLUX.3 klein base, else 1; and 1 at the few steps of stage 2.",
        low=0.0, high=100.0, step=0.1, advanced=True, shapes_result=False,
    )

    def check_streaming(self, where: str = "") -> None:
        """Raises ``ValueError`` where blocks are to be streamed and cannot be. ``where`` leads the option's name."""
        if self.streamed_share and not self.gradient_checkpointing:
            raise ValueError(
                f"{where}streamed_share is {self.streamed_share:g} and gradient_checkpointing is off: a block that has "
                "left the card has to be computed anew for its gradient. Turn gradient_checkpointing on, or set "
                "streamed_share to 0."
            )


@dataclass(frozen=True, kw_only=True)
class DiffusionStageConfig(StageConfig):
    """Stage 1: domain adaptation with the flow-matching loss."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Config):
    """The judge of stage 2: network, loss and optimiser."""

    architecture: str = option(
        "flux_features",
        "flux_features: small heads on the frozen base's own features. patch_cnn: convolutions at several scales. cnn: "
        "one convolutional network with one verdict per patch. mlp: one verdict per picture.",
        choices=("flux_features", "patch_cnn", "cnn", "mlp"),
    )
    loss: str = option(
        "relativistic",
        "relativistic compares each fake with a real; bce is the original non-saturating loss; lsgan; hinge; wgan-gp.",
        choices=("bce", "lsgan", "wgan-gp", "hinge", "relativistic"),
    )
    width: int = option(
        0,
        "Channels of a head (flux_features) or of the first layer. 0: a twelfth of the base's width, at least 64, for "
        "flux_features, and 64 for the others.",
        low=0,
        high=1024,
        step=4,
    )
    depth: int = option(3, "Number of stages of the network.", low=1, high=6, advanced=True)
    spectral_norm: bool = option(False, "Bound each layer's gain by spectral normalisation.", advanced=True)
    gradient_penalty: float = option(
        10.0, "Weight of wgan-gp's penalty. Other losses do not use it.", low=0.0, high=1e4, advanced=True
    )
    learning_rate: float = option(2e-4, "Learning rate of the discriminator (AdamW).", low=1e-8, high=1.0, step=1e-6)
    beta1: float = option(0.0, "First AdamW beta of the discriminator.", low=0.0, high=0.9999, step=0.01, advanced=True)
    beta2: float = option(
        0.99, "Second AdamW beta of the discriminator.", low=0.0, high=0.99999, step=0.001, advanced=True
    )
    weight_decay: float = option(0.0, "AdamW's weight decay.", low=0.0, high=1.0, step=0.01, advanced=True)
    max_grad_norm: float = option(
        10.0,
        "The discriminator's gradient is scaled down to this norm. 0 turns it off.",
        low=0.0,
        high=1e6,
        advanced=True,
    )
    seed: int = option(0, "Seed of the discriminator's initial weights.", low=0, high=2**63 - 1)
    r1: float = option(
        0.05,
        "Weight of the penalty on the verdict's slope at real latents. It keeps the discriminator from becoming too "
        "sure. 0 turns it off.",
        low=0.0,
        high=1e4,
        step=0.01,
    )
    r2: float = option(
        0.05, "The same at the LoRA's latents. 0 turns it off.", low=0.0, high=1e4, step=0.01
    )
    penalty_sigma: float = option(
        0.05,
        "flux_features measures the slope by a random step of this size, in units of the latents' deviation; the other "
        "architectures compute it. Shorter steps would measure bf16's rounding, longer ones the slope's change.",
        low=0.05,
        high=1.0,
        step=0.01,
        advanced=True,
    )
    penalty_share: float = option(
        0.25,
        "flux_features: share of the samples on which the slope is measured. Less is faster, and weighs the same.",
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    centring: float = option(
        1e-3, "Weight of the squared sum of a pair's logits, which would drift together otherwise.",
        low=0.0, high=1e3, step=0.001, advanced=True,
    )
    lecam: float = option(
        0.0,
        "Weight of the LeCam penalty, which holds logits near the running mean of the other side's. 0.1 to 0.3 for a "
        "few dozen pictures with bce, lsgan or hinge.",
        low=0.0,
        high=1e3,
        step=0.01,
        advanced=True,
    )
    augmentation: str = option(
        "adaptive",
        "Shift and cut out the same parts of real and fake latents before they are judged. adaptive: as often as "
        "held-out pictures show that the discriminator learns the training pictures by heart. fixed: with "
        "augmentation_probability.",
        choices=("off", "fixed", "adaptive"),
    )
    augmentation_probability: float = option(
        0.0,
        "Probability of augmentation: the first one when adaptive, the only one when fixed.",
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    mismatched_share: float = option(
        0.0,
        "flux_features: share of the samples whose real latents are also shown with the caption of another picture of "
        "the dataset, as a fake.",
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    replay_share: float = option(
        0.0,
        "Share of the discriminator's fakes that are taken from earlier updates.",
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    taps: str = option(
        "",
        "flux_features: the blocks whose output is judged, such as d4,d11,s9 for double blocks 4 and 11 and single "
        "block 9, counted from 0. Empty: the family's own.",
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class AdversarialStageConfig(StageConfig):
    """Stage 2: the LoRA against the discriminator."""

    steps: int = option(300, "Number of updates of the LoRA.", low=1, high=1_000_000)
    learning_rate: float = option(2e-5, "Learning rate of the LoRA (AdamW).", low=1e-8, high=1.0, step=1e-6)
    objective: str = option(
        "hybrid",
        "hybrid: diffusion_weight x flow loss + adversarial_weight x adversarial loss. pure: adversarial alone.",
        choices=("hybrid", "pure"),
    )
    adversarial_weight: float = option(
        1.5,
        "Weight of the adversarial loss, with balance = fixed. More sharpens more.",
        low=0.0,
        high=1e4,
        step=0.01,
    )
    adversarial_weight_end: float = option(
        1.5,
        "Weight of the adversarial loss at the last step, where its schedule is not constant.",
        low=0.0,
        high=1e4,
        step=0.01,
        advanced=True,
    )
    adversarial_schedule: str = option(
        "constant",
        "Course of the adversarial weight from its first to its last value.",
        choices=("constant", "linear", "cosine"),
    )
    diffusion_weight: float = option(
        1.0, "Weight of the flow loss in the hybrid objective.", low=0.0, high=1e4, step=0.01
    )
    diffusion_weight_end: float = option(
        1.0,
        "Weight of the flow loss at the last step, where its schedule is not constant.",
        low=0.0,
        high=1e4,
        step=0.01,
        advanced=True,
    )
    diffusion_schedule: str = option(
        "constant",
        "Course of the flow loss's weight from its first to its last value.",
        choices=("constant", "linear", "cosine"),
        advanced=True,
    )
    discriminator_updates: int = option(
        1, "Updates of the discriminator before each update of the LoRA.", low=1, high=100
    )
    discriminator_warmup: int = option(
        50, "Updates of the discriminator alone before the first update of the LoRA.", low=0, high=100_000
    )
    renoise: bool = option(
        True,
        "Show the discriminator real and fake latents at a drawn noise level, instead of clean ones. "
        "It then judges structure and texture, and is harder to fool.",
    )
    renoise_mean: float = option(
        -1.0,
        "x0: the added noise's level is sigmoid(normal(renoise_mean, renoise_std)). Lower judges finer detail.",
        low=-5.0,
        high=5.0,
        step=0.1,
        advanced=True,
    )
    renoise_std: float = option(1.0, "See renoise_mean.", low=0.01, high=5.0, step=0.1, advanced=True)
    beta1: float = option(
        0.0, "First AdamW beta of the LoRA in this stage.", low=0.0, high=0.9999, step=0.01, advanced=True
    )
    beta2: float = option(
        0.99, "Second AdamW beta of the LoRA in this stage.", low=0.0, high=0.99999, step=0.001, advanced=True
    )
    target_steps: int = option(
        4,
        "Number of sampling steps you will use. Up to 8 the LoRA's one-step estimate is judged (x0); above, one step "
        "of a sampler (jump), which keeps sampling with many steps intact.",
        low=1,
        high=1000,
    )
    target: str = option(
        "target_steps",
        "What the discriminator judges. target_steps: x0 or jump, as target_steps says. two_samplers: one LoRA for "
        "both, x0 for prompts with few_step_phrase (or at few_step_guidance), jump for the others. distilled: the base "
        "is a few-step model (FLUX.2 klein, FLUX.1-schnell), and what the LoRA draws with it in target_steps from "
        "noise is judged.",
        choices=("target_steps", "x0", "jump", "two_samplers", "distilled"),
    )
    few_step_guidance: float = option(
        0.0,
        "two_samplers: tell the few-step sampler by this guidance instead of by few_step_phrase. 0: by the phrase.",
        low=0.0,
        high=100.0,
        step=0.5,
        advanced=True,
    )
    jump_steps: int = option(
        4,
        "jump: the number of steps of the sampler of which one is judged. 0: a random length. Short steps leave little "
        "to judge.",
        low=0, high=1000, advanced=True,
    )
    balance: str = option(
        "fixed",
        "fixed: the weights as given. gradient_ratio: the adversarial weight is set at each update so that its "
        "gradient at the predicted velocity is gradient_ratio of the flow loss's.",
        choices=("fixed", "gradient_ratio"),
    )
    gradient_ratio: float = option(
        0.3, "See balance. The weight stays within ten times its first value.",
        low=0.0, high=100.0, step=0.05, advanced=True,
    )
    adversarial_ramp: int = option(
        0, "Updates over which the adversarial weight rises from 0.", low=0, high=1_000_000, advanced=True
    )
    discriminator_ratio: str = option(
        "adaptive",
        "fixed: discriminator_updates at each update of the LoRA. adaptive: one more where the discriminator is weak, "
        "none where it dominates.",
        choices=("fixed", "adaptive"),
        advanced=True,
    )
    watch: bool = option(
        True,
        "At each validation also sample with the LoRA; lower the adversarial weight, go back to the last good state or "
        "stop where high frequencies, diversity or the held-out flow loss go wrong. A stage that ends by itself "
        "delivers the best state.",
    )
    watch_pictures: int = option(
        16, "Pictures sampled at each validation when watch is on.", low=4, high=1024, advanced=True
    )
    jump_renoise_mean: float = option(
        0.0,
        "jump: as renoise_mean, for the noise that is added above the level where a jump ends.",
        low=-5.0,
        high=5.0,
        step=0.1,
        advanced=True,
    )
    step_share: float = option(
        0.65,
        "x0: share of the samples that are a step of the sampler with target_steps steps, instead of a one-step "
        "estimate. Less adds contrast and detail, more keeps both in bounds.",
        low=0.0,
        high=1.0,
        step=0.05,
        advanced=True,
    )
    watch_sampler: str = option(
        "euler",
        "The sampler that the watch samples with, by ComfyUI's name. Steps are trained as euler takes them.",
        choices=SAMPLERS,
        advanced=True,
    )
    anchor: str = option(
        "pictures",
        "What the flow loss of the hybrid objective holds the LoRA to. pictures: the training pictures, as in stage 1. "
        "start: the velocities of the LoRA that the stage starts from, which are not the few pictures themselves: one "
        "more pass through the base. With start, set guidance to what you sample with (3.5 for FLUX.1-dev).",
        choices=("pictures", "start"),
        advanced=True,
    )
    practice_share: float = option(
        0.75,
        "Share of the updates in which the LoRA draws practice_prompts (of Encode Real Latents) from noise, in place "
        "of restoring noised training pictures: it then meets what it meets when sampled. Their flow loss holds to the "
        "LoRA at the start, whatever anchor is, which is one more pass. Without such prompts: none.",
        low=0.0, high=1.0, step=0.05, advanced=True,
    )
    outside_share: float = option(
        0.5,
        "Share of the updates in which the LoRA also draws outside_prompts (of Encode Real Latents), and is held there "
        "to the base without it, by the flow loss. Without such prompts: none.",
        low=0.0, high=1.0, step=0.05, advanced=True,
    )
    outside_weight: float = option(
        1.5,
        "Weight of the flow loss on outside_prompts (of Encode Real Latents). More keeps other prompts as the base "
        "draws them, and takes more updates to bring the style.",
        low=0.1, high=1000.0, step=0.1, advanced=True,
    )
    watch_cfg: float = option(
        1.0,
        "Classifier-free guidance that the watch samples with, away from negative_prompt: two passes a step. 1: off, "
        "as stage 2 trains. 4 or so for a base that needs it and more than 8 target_steps. Not at the few steps of "
        "two_samplers.",
        low=0.0, high=100.0, step=0.1, advanced=True,
    )
