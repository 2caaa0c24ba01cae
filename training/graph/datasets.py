"""The pictures and prompts of a graph, and what encodes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..base.base_model import BaseReference, read_transformer_config
from ..base.families import family_of
from ..base.families.flux1 import FLUX1
from ..base.families.flux2 import FLUX2
from ..base.families.latent_space import FLUX_1, FLUX_2, LatentSpace
from ..config import TINY_BASE, DataConfig
from ..data.buckets import buckets
from ..data.captions import CAPTION_RULES
from ..data.data_error import DataError, ImageFolderError
from ..data.encode import lines_of
from ..data.encoding_checks import check_previews, texts_without_encoder
from ..data.folder_files import scan
from ..data.masks import MASK_RULES
from ..data.other_vaes import BY_CHANNELS
from ..data.tiny_text import TinyTextEncoder
from .known import Known
from .prompt_graph import UNKNOWN, Node, PromptGraph, Settings, settings

IMAGES, ENCODE, TINY_ENCODERS = (
    "FluxDuelLoadTrainingImages", "FluxDuelEncodeRealLatents", "FluxDuelLoadTinyFluxEncoders",
)  # fmt: skip
NODE = "Encode Real Latents"
# A weight of every VAE of FLUX's kind, and one that only FLUX.2's has, whose latents are patches of 2 x 2.
LATENTS_IN, NORMALISER, FLUX_2_PATCH = "decoder.conv_in.weight", "bn.running_mean", 4
# Text encoders of the host's loader for two files -> widths of prompt and pooled vector. Of the other types more than
# one pair of files may come to FLUX's widths.
BY_TYPE = {"sdxl": (2048, 1280), "sd3": (4096, 2048)}
FLUX_WIDTHS = (4096, 768)
# The host's loaders of FLUX's text encoders, by the type that is chosen there -> whose those are.
BY_LOADER = {("DualCLIPLoader", "flux"): FLUX1, ("CLIPLoader", "flux2"): FLUX2}
# The first weight of a video model's VAE, which the host tells it by.
VIDEO_KEYS = {
    "decoder.middle.0.residual.0.gamma": "Wan 2.1's or Qwen-Image's",
    "decoder.conv_in.conv.weight": "HunyuanVideo's",
}


def data_settings(node: Node) -> Settings[DataConfig]:
    """The settings of an Encode Real Latents node."""
    return settings(DataConfig, [node], complete=True)


def check_images(node: Node, known: Known) -> Iterator[str]:
    """What is wrong with a Load Dataset Images node. Pictures are not opened."""
    rules = {"caption_rule": CAPTION_RULES, "mask_rule": MASK_RULES}
    for name, choices in rules.items():
        value = node.value(name, choices[0])
        if value is not UNKNOWN and value not in choices:
            yield f"Load Dataset Images: {name} must be one of {', '.join(choices)}; got {value!r}."
    rule, trigger = node.value("caption_rule", CAPTION_RULES[0]), node.value("trigger_word", "")
    if rule == "trigger word only" and trigger is not UNKNOWN and not trigger.strip():
        yield "The caption rule 'trigger word only' needs a trigger word, and trigger_word is empty."
    label = node.value("folder", "")
    if label is UNKNOWN:
        return
    problem = known.folder_problem(label)
    if problem:
        yield problem
        return
    try:
        scan(known.folders()[label], known.left_out())
    except (ImageFolderError, DataError) as error:
        yield str(error)


def check_encoding(graph: PromptGraph, node: Node, known: Known) -> Iterator[str]:
    """What is wrong with an Encode Real Latents node."""
    data = data_settings(node)
    encoded = node.has("conditioning")
    if encoded and node.has("captions"):
        yield f"{NODE}: both captions and conditioning are connected. Remove one of them."
    if encoded:
        yield from texts_without_encoder(data.config, NODE)
    elif not node.has("clip"):
        yield f"{NODE}: connect clip and captions, or conditioning."
    elif not node.has("captions"):
        yield (
            f"{NODE}: there are no captions. Connect the captions of Load Dataset Images, or one text for all."
        )
    if data.knows("resolution", "bucket_step"):
        try:
            buckets(data.config.resolution, data.config.bucket_step)
        except ValueError as error:
            yield f"{NODE}: {error}"
    try:
        check_previews(lines_of(data.config.preview_prompts))
    except DataError as error:
        yield f"{NODE}: {error}"
    yield from _check_vae(graph.source(node, "vae"), known)


def _check_vae(loader: Node | None, known: Known) -> Iterator[str]:
    if loader is None or loader.kind != "VAELoader":
        return
    label = loader.value("vae_name", "")
    file = None if label is UNKNOWN else known.vae(label)
    fault = "" if file is None else _vae_fault(file)
    if fault:
        yield (
            f"{NODE}: vae: {label} {fault}. Connect FLUX's own VAE ({FLUX_1.file}; {FLUX_2.file} for FLUX.2), or the "
            "VAE of Load Tiny FLUX Encoders for the tiny base."
        )


def vae_fault(graph: PromptGraph, encoding: Node, base: BaseReference, known: Known) -> str:
    """Why the VAE of an Encode Real Latents node does not fit a base; empty where it does, or it cannot be told."""
    loader = graph.source(encoding, "vae")
    if loader is None or loader.kind != "VAELoader" or base.path == TINY_BASE:
        return ""
    label = loader.value("vae_name", "")
    file = None if label is UNKNOWN else known.vae(label)
    found = None if file is None else _space_of(file)
    wanted = family_of(read_transformer_config(base.path)).space
    if found in (None, wanted):
        return ""
    return (
        f"{NODE}: vae: {label} is {found.name}'s, and {base.name} takes latents of {wanted.name}'s. Connect "
        f"{wanted.vae} ({wanted.file})."
    )


def _space_of(file: Path) -> LatentSpace | None:
    """Whose latents the VAE in a file makes; ``None`` where it is no FLUX's, or cannot be told."""
    names, shape = _vae_weights(file)
    if len(shape) != 4:
        return None
    if NORMALISER in names:
        return FLUX_2 if shape[1] * FLUX_2_PATCH == FLUX_2.channels else None
    return FLUX_1 if shape[1] == FLUX_1.channels else None


def _vae_weights(file: Path) -> tuple[set[str], list[int]]:
    """The names of a VAE's weights, and the shape of the one that takes the latents; both empty where there is none."""
    if file.suffix not in (".safetensors", ".sft"):
        return set(), []
    try:
        with safe_open(file, framework="pt") as weights:
            names = set(weights.keys())
            return names, weights.get_slice(LATENTS_IN).get_shape() if LATENTS_IN in names else []
    except (OSError, SafetensorError):  # the host says so when it loads the file
        return set(), []


def _vae_fault(file: Path) -> str:
    names, shape = _vae_weights(file)
    other = next((whose for key, whose in VIDEO_KEYS.items() if key in names), "")
    if other:
        return f"is {other}, not FLUX's"
    if len(shape) != 4 or _space_of(file) is not None:
        return ""
    whose = BY_CHANNELS.get(shape[1], "another model's")
    return f"makes latents of {shape[1]} channels, as {whose} does; FLUX.1 needs {FLUX_1.channels}"


def prompt_fault(graph: PromptGraph, node: Node, name: str, base: BaseReference, where: str) -> str:
    """Why prompts of the text encoder at an input do not fit a base; empty where they do, or it cannot be told."""
    loader = graph.source(node, name)
    if loader is None:
        return ""
    config = read_transformer_config(base.path)
    family = family_of(config)
    wanted = (config["joint_attention_dim"], family.pooled_dim(config))
    tiny = (TinyTextEncoder.WIDTH, TinyTextEncoder.POOLED_WIDTH)
    if loader.kind == TINY_ENCODERS and wanted != tiny:
        return (
            f"{where}: clip is the tiny base's, whose prompts are {tiny[0]} wide, and {base.name} takes {wanted[0]}. "
            f"Connect {family.loader}: {family.text}."
        )
    if loader.kind not in ("DualCLIPLoader", "CLIPLoader"):
        return ""
    kind = loader.value("type", "")
    if base.path == TINY_BASE:
        return (
            f"{where}: clip is a real text encoder, and the tiny base has its own. Connect the CLIP of Load Tiny FLUX "
            "Encoders, or choose a FLUX model in Load FLUX LoRA."
        )
    whose = BY_LOADER.get((loader.kind, kind), family)
    if whose is not family or loader.kind == "DualCLIPLoader" and (
        not family.space.pooled or wanted == FLUX_WIDTHS and kind in BY_TYPE
    ):
        return (
            f"{where}: clip comes from {loader.kind} of type {kind}, and {base.name} needs {family.loader}: "
            f"{family.text}."
        )
    return ""
