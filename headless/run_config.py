"""All settings of a headless run: where things lie, and both stages' configurations, as one JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..training.config import (
    AUTO,
    PRECISIONS,
    TINY_BASE,
    AdversarialStageConfig,
    Config,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    EncodersConfig,
    LoRAConfig,
    option,
)


@dataclass(frozen=True, kw_only=True)
class BaseConfig(Config):
    """The frozen FLUX transformer, and where it computes."""

    checkpoint: str = option(
        TINY_BASE,
        "The transformer of FLUX.1, FLUX.2 or FLUX.3: a .safetensors or .gguf file, or a folder in diffusers' layout. "
        "tiny: the built-in base, which trains on a CPU.",
    )
    precision: str = option(
        AUTO,
        "Number format of the frozen base on the card. auto: bf16 where it fits beside what a stage computes, else "
        "int8_convrot, with as many blocks streamed as the card asks for. bf16: 22 GB for FLUX.1. int8: 12 GB, with "
        "a scale for each row; int8_convrot: the same, with inputs rotated so that outliers cost less. fp32 is for the "
        "tiny base and for comparisons.",
        choices=(*PRECISIONS, AUTO),
    )
    device: str = option(
        "auto", "Where to compute. auto: the GPU where there is one.", choices=("auto", "cpu", "cuda"), advanced=True
    )
    shard: bool = option(
        False,
        "With several GPUs: split the frozen base over them, where one card cannot hold it (FSDP). Slower than a copy "
        "on each.",
        advanced=True,
    )
    sampling_base: str = option(
        "",
        "The transformer that previews, the watch, evaluate and sample draw with in place of checkpoint: the sibling "
        "of the same shapes that the LoRA will be used on, such as distilled klein. Of precision as checkpoint is. "
        "Empty: checkpoint itself.",
    )

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if self.shard and self.precision.startswith("int8"):
            raise ValueError(
                f"BaseConfig.shard is on and precision is {self.precision}: a base that is split over cards is split "
                "in one number format. Set precision to bf16, or shard to false."
            )


@dataclass(frozen=True, kw_only=True)
class StartConfig(Config):
    """What a headless run does, and from which LoRA."""

    diffusion: bool = option(True, "Run stage 1, domain adaptation with the flow-matching loss.")
    adversarial: bool = option(True, "Run stage 2, against the discriminator.")
    lora: str = option(
        "",
        "A LoRA file to start from, in this pack's, diffusers' or kohya's format; rank, alpha and target layers then "
        "come from the file. Empty: a new LoRA.",
    )
    discriminator: str = option(
        "", "The discriminator.safetensors that an earlier run of stage 2 left, to go on with. Empty: a new one."
    )


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(Config):
    """The training pictures."""

    folder: str = option("", "The folder of training pictures. Subfolders are read too.")
    caption_rule: str = option(
        "text file",
        "Where captions come from: a .txt file beside each picture, the picture's file name, its folder's name, or the "
        "trigger word alone.",
        choices=("text file", "file name", "folder name", "trigger word only"),
    )
    trigger_word: str = option(
        "", "A word put before every caption, to call up in prompts what was trained. May be empty."
    )
    mask_rule: str = option(
        "none",
        "Train on a part of each picture: none (the whole picture), alpha (where it is opaque), or mask files (white "
        "where to train; name.mask.png beside name.png).",
        choices=("none", "alpha", "mask files"),
    )


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Config):
    """Where a headless run writes."""

    folder: str = option("output", "Folder for the run: its checkpoints, statistics, previews and the finished LoRAs.")
    name: str = option("fluxduel", "Name of the LoRA files.")
    format: str = option(
        "diffusers",
        "Names of the layers in the LoRA file. diffusers: transformer.* for FLUX.1, and for FLUX.2 and FLUX.3 "
        "diffusion_model.*, with alpha in the weights. kohya: lora_unet_*. ComfyUI loads both.",
        choices=("diffusers", "kohya"),
    )
    dtype: str = option(
        "fp32", "Number type in the LoRA file. bf16 and fp16 halve it.", choices=("fp32", "bf16", "fp16")
    )
    cache: str = option(
        "", "Folder for encoded pictures and captions. Empty: cache in the output folder.", advanced=True
    )


@dataclass(frozen=True, kw_only=True)
class TrackersConfig(Config):
    """Where the curves and previews of a headless run also go."""

    trackers: str = option(
        "", "Any of tensorboard, wandb and trackio, separated by commas; each has to be installed. Empty: none."
    )
    project: str = option("fluxduel", "The project's name in the tracker.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of ``python -m fluxduel train``: one section for each of its fields."""

    base: BaseConfig = field(default_factory=BaseConfig)
    start: StartConfig = field(default_factory=StartConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    data: DataConfig = field(default_factory=DataConfig)
    diffusion: DiffusionStageConfig = field(default_factory=DiffusionStageConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    adversarial: AdversarialStageConfig = field(default_factory=AdversarialStageConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    trackers: TrackersConfig = field(default_factory=TrackersConfig)

    @classmethod
    def sections(cls) -> dict[str, type[Config]]:
        """Name -> class of each section, in order."""
        return {section.name: section.default_factory for section in dataclasses.fields(cls)}  # type: ignore[misc]

    @classmethod
    def options(cls) -> Iterator[tuple[str, dataclasses.Field]]:
        """(``section.name``, field) of every option, in order; the field carries range and help."""
        for section, config in cls.sections().items():
            for each in dataclasses.fields(config):
                yield f"{section}.{each.name}", each

    def to_json(self) -> str:
        """The configuration as an indented JSON object of sections, every option written out."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping of sections to mappings of options. What is missing takes its default.

        Raises ``ValueError`` that names section and option for what is unknown, of the wrong type or out of range.
        """
        sections = cls.sections()
        unknown = sorted(set(values) - set(sections))
        if unknown:
            raise ValueError(f"There is no section {', '.join(unknown)}; there are {', '.join(sections)}.")
        made = {}
        for name, given in values.items():
            if not isinstance(given, Mapping):
                raise ValueError(f"Section {name}: expected a JSON object of options, got {given!r}.")
            try:
                made[name] = sections[name].from_json(json.dumps(given))
            except ValueError as error:
                raise ValueError(str(error).replace(sections[name].__name__, name)) from error
        return cls(**made)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration in ``text``. Raises ``ValueError`` as ``from_values`` does, and where it is no JSON."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"This is no JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"Expected a JSON object of sections, got {type(values).__name__}.")
        return cls.from_values(values)
