"""From a ComfyUI workflow with the pack's training nodes to the configuration of the same run without ComfyUI."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from ..training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    EncodersConfig,
    LoRAConfig,
)
from ..training.data.demo_pictures import DEMO_FOLDER, DEMO_LABEL
from .run_config import BaseConfig, ImagesConfig, OutputConfig, RunConfig, StartConfig
from .workflow_chain import Chain, choose_chain, discriminator_node, encode_node
from .workflow_graph import ADVERSARIAL, DIFFUSION, IMAGES, LOAD, STAGES, TINY_ENCODERS, Node, read_graph
from .workflow_reading import Reading, made

# What the nodes' lists call these; headless/ cannot ask nodes/, which needs ComfyUI.
TINY_BASE_LABEL = "tiny base (built in)"
NO_LORA = "none"
NEW_DISCRIMINATOR = "new"

_CHECKPOINT_FOLDERS = ("diffusion_models", "unet", "checkpoints")


def from_workflow(text: str, models: Path | None = None) -> tuple[RunConfig, list[str]]:
    """The configuration of the run that a workflow's training nodes describe, and notes on it, each a sentence or two.

    ``text`` is JSON in the editor's format or in the API's. ``models`` is ComfyUI's models folder; with it, and with
    the input and output folders beside it, the graph's names of files and folders become paths.

    The run is the one whose LoRA reaches a Save FLUX LoRA node, through the most stages where there are several. A
    stage that is not on its way is switched off in ``start``. Muted and bypassed nodes are left out, as in ComfyUI.
    Notes say what has to be filled in, and what could not be carried over.

    Raises ``ValueError`` for a text that is no workflow, a workflow without training nodes, and a value out of range.
    """
    graph = read_graph(text)
    if not any(node.kind in STAGES for node in graph.values()):
        raise ValueError(
            "This workflow has no Stage 1: Train LoRA and no Stage 2: Train LoRA with GAN that runs (muted and "
            "bypassed nodes do not), so there is nothing to train."
        )
    reading = Reading(graph, models)
    reading.note_unknown()
    chain = choose_chain(reading)
    diffusion, adversarial = chain.last(DIFFUSION), chain.last(ADVERSARIAL)
    encode = encode_node(reading, adversarial, diffusion)
    discriminator = discriminator_node(reading, adversarial)
    base = _base(reading, chain)
    config = RunConfig(
        base=base,
        start=StartConfig(
            diffusion=diffusion is not None,
            adversarial=adversarial is not None,
            lora=_start_lora(reading, chain.load),
            discriminator=_start_discriminator(reading, discriminator),
        ),
        lora=reading.config(chain.load, LoRAConfig),
        images=_images(reading, encode),
        encoders=_encoders(reading, encode, base),
        data=reading.config(encode, DataConfig),
        diffusion=reading.config(diffusion, DiffusionStageConfig),
        discriminator=reading.config(discriminator, DiscriminatorConfig),
        adversarial=reading.config(adversarial, AdversarialStageConfig),
        output=_output(reading, chain.save),
    )
    return config, list(dict.fromkeys(reading.notes))


# The sections that are more than a node's widgets.


def _base(reading: Reading, chain: Chain) -> BaseConfig:
    load = chain.load
    if load is None:
        origin = "nowhere" if chain.stopped_at is None else chain.stopped_at.label
        reading.notes.append(
            f"The LoRA comes from {origin}, not from Load FLUX LoRA: fill in base.checkpoint and the lora section."
        )
        return BaseConfig()
    label = str(reading.value(load, "checkpoint", TINY_BASE_LABEL))
    bases = {"checkpoint": _checkpoint(reading, label), "sampling_base": _sampling_base(reading, chain)}
    return made(load, BaseConfig, reading.options(load, BaseConfig) | bases)


def _sampling_base(reading: Reading, chain: Chain) -> str:
    stages = [stage for stage in (chain.last(ADVERSARIAL), chain.last(DIFFUSION)) if stage is not None]
    having = [stage for stage in stages if "sampling_base" in stage.sources]
    if not having:
        return ""
    first = reading.source(having[0], "sampling_base")
    if first is None or first.kind != LOAD:
        origin = "a node that does not run" if first is None else f"{first.label}, which is not followed"
        reading.notes.append(
            f"{having[0].label}: its sampling_base comes from {origin}. Put the file's path into base.sampling_base."
        )
        return ""
    if any(reading.source(stage, "sampling_base") is not first for stage in stages):
        reading.notes.append(f"base.sampling_base is that of {having[0].label}, and counts for both stages.")
    label = str(reading.value(first, "checkpoint", TINY_BASE_LABEL))
    return _checkpoint(reading, label, "base.sampling_base")


def _checkpoint(reading: Reading, label: str, option: str = "base.checkpoint") -> str:
    if label == TINY_BASE_LABEL:
        return TINY_BASE
    name, folders = label, _CHECKPOINT_FOLDERS
    for kind in ("diffusion_models", "checkpoints"):
        if label.endswith(f" [{kind}]"):
            name, folders = label.removesuffix(f" [{kind}]"), (kind, "unet") if kind != "checkpoints" else (kind,)
    found = reading.in_models(*(f"{folder}/{name}" for folder in folders))
    if found is not None:
        return str(found)
    reading.notes.append(
        f"{option} is {name!r}, a name in ComfyUI's models folder"
        + (f" that is in none of {', '.join(folders)} of {reading.models}" if reading.models else "")
        + ". Put the file's path in its place."
    )
    return name


def _start_lora(reading: Reading, load: Node | None) -> str:
    label = NO_LORA if load is None else str(reading.value(load, "lora", NO_LORA))
    if label == NO_LORA:
        return ""
    found = reading.in_models(f"loras/{label}") or reading.beside_models(f"output/loras/{label}")
    if found is None:
        reading.notes.append(
            f"start.lora is {label!r}, a name in ComfyUI's models/loras. Put the file's path in its place."
        )
    return label if found is None else str(found)


def _start_discriminator(reading: Reading, discriminator: Node | None) -> str:
    label = NEW_DISCRIMINATOR
    if discriminator is not None:
        label = str(reading.value(discriminator, "continue_from", NEW_DISCRIMINATOR))
    if label == NEW_DISCRIMINATOR:
        return ""
    found = reading.beside_models(f"output/fluxduel/{label}")
    if found is None:
        reading.notes.append(
            f"start.discriminator is {label!r}, below output/fluxduel of ComfyUI. Put the file's path in its place."
        )
    return label if found is None else str(found)


def _images(reading: Reading, encode: Node | None) -> ImagesConfig:
    node = reading.source(encode, "images")
    if encode is None or node is None or node.kind != IMAGES:
        if encode is not None:
            origin = "no node that runs" if node is None else node.label
            reading.notes.append(
                f"The pictures come from {origin}, not from Load Dataset Images: fill in the images section."
            )
        return ImagesConfig()
    options = reading.options(node, ImagesConfig)
    options["folder"] = _image_folder(reading, str(options.get("folder", "")))
    if options.get("mask_rule", "none") != "none" and reading.source(encode, "masks") is None:
        reading.notes.append(
            f"images.mask_rule is none and not {options['mask_rule']!r}, because the masks of {node.label} are "
            "connected to nothing."
        )
        options["mask_rule"] = "none"
    _note_captions(reading, encode, node)
    return made(node, ImagesConfig, options)


def _image_folder(reading: Reading, label: str) -> str:
    if label == DEMO_LABEL:
        return str(DEMO_FOLDER)
    kind = " [datasets]"
    if label.endswith(kind):
        name = label.removesuffix(kind)
        found, parent = reading.in_models(f"datasets/{name}") or reading.beside_models(f"datasets/{name}"), "datasets"
    else:
        name = label
        found, parent = reading.beside_models(f"input/{name}") if name else None, "input"
    if found is not None:
        return str(found)
    reading.notes.append(
        f"images.folder is {name!r}, the name of a folder in ComfyUI's {parent} folder. Put its path in its place."
    )
    return name


def _note_captions(reading: Reading, encode: Node, images: Node) -> None:
    if "conditioning" in encode.sources:
        origin = reading.source(encode, "conditioning")
        reading.notes.append(
            f"{encode.label} gets encoded prompts from {origin.label if origin else 'a node'}, which is not carried "
            "over: give the prompt as captions (images.caption_rule, images.trigger_word)."
        )
    elif reading.source(encode, "captions") is not images:
        reading.notes.append(
            f"The captions of {encode.label} are not those of {images.label}, and are not carried over: write them "
            "into text files beside the pictures, or set images.caption_rule and images.trigger_word."
        )


def _encoders(reading: Reading, encode: Node | None, base: BaseConfig) -> EncodersConfig:
    loader = reading.source(encode, "vae")
    is_tiny = base.checkpoint == TINY_BASE
    if is_tiny:
        if loader is not None and loader.kind != TINY_ENCODERS:
            reading.notes.append(
                f"The graph encodes with {loader.label}; a headless run on the tiny base uses the tiny base's own "
                "encoders."
            )
        return EncodersConfig()
    reading.notes.append(
        "Set encoders.folder to a folder of the base's family in diffusers' layout: text encoders and tokenizers are "
        "read from there, while the graph has files of its own for them."
    )
    name = loader.values.get("vae_name") if loader is not None else None
    found = reading.in_models(f"vae/{name}") if isinstance(name, str) else None
    return EncodersConfig(vae="" if found is None else str(found))


def _output(reading: Reading, save: Node | None) -> OutputConfig:
    if save is None:
        return OutputConfig()
    options = reading.options(save, OutputConfig)
    prefix = str(reading.value(save, "prefix", "loras/fluxduel"))
    name = PureWindowsPath(prefix).name
    if "%" in name:
        reading.notes.append(
            f"output.name is {name!r}: a headless run does not fill in the parts between percent signs. Choose a plain "
            "name."
        )
    reading.notes.append(
        f"The graph saves as {prefix!r} in ComfyUI's output folder; the run writes {name!r} into output.folder."
    )
    return made(save, OutputConfig, options | ({"name": name} if name else {}))
