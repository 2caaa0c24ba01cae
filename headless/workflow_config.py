"""From a ComfyUI workflow with the pack's training nodes to the configuration of the same run without ComfyUI."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from ..training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    Config,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    EncodersConfig,
    LoRAConfig,
)
from .run_config import BaseConfig, ImagesConfig, OutputConfig, RunConfig, StartConfig

LOAD = "FluxDuelLoadFluxLoRA"
IMAGES = "FluxDuelLoadTrainingImages"
ENCODE = "FluxDuelEncodeRealLatents"
DIFFUSION = "FluxDuelTrainDiffusionStage"
DISCRIMINATOR = "FluxDuelLatentDiscriminator"
ADVERSARIAL = "FluxDuelTrainAdversarialStage"
SAVE = "FluxDuelSaveLoRA"
TINY_ENCODERS = "FluxDuelLoadTinyFluxEncoders"
STAGES = (DIFFUSION, ADVERSARIAL)

# What the nodes' lists call these; headless/ cannot ask nodes/, which needs ComfyUI.
TINY_BASE_LABEL = "tiny base (built in)"
NO_LORA = "none"
NEW_DISCRIMINATOR = "new"

_NAMES = {
    LOAD: "Load FLUX LoRA",
    IMAGES: "Load Training Images",
    ENCODE: "Encode Real Latents",
    DIFFUSION: "Train Diffusion Stage",
    DISCRIMINATOR: "Latent Discriminator",
    ADVERSARIAL: "Train Adversarial Stage",
    SAVE: "Save FLUX LoRA",
}
# The options that are widgets of each node, and the widgets that become something else.
_OPTIONS: dict[str, tuple[type[Config], ...]] = {
    LOAD: (BaseConfig, LoRAConfig),
    IMAGES: (ImagesConfig,),
    ENCODE: (DataConfig,),
    DIFFUSION: (DiffusionStageConfig,),
    DISCRIMINATOR: (DiscriminatorConfig,),
    ADVERSARIAL: (AdversarialStageConfig,),
    SAVE: (OutputConfig,),
}
_OTHER_WIDGETS = {"lora", "continue_from", "prefix"}
_CHECKPOINT_FOLDERS = ("diffusion_models", "unet", "checkpoints")
_PRIMITIVE, _REROUTE = "PrimitiveNode", "Reroute"
_MUTED, _BYPASSED = 2, 4
_PNG = b"\x89PNG\r\n\x1a\n"
_EXPECTED = (
    "Expected a workflow of ComfyUI: what its menu saves under File > Save or Export (API), or a PNG picture that it "
    "saved with its workflow."
)

ConfigType = TypeVar("ConfigType", bound=Config)
Source = tuple[str, int]


@dataclass(frozen=True)
class _Node:
    """A node that runs: its widgets' values by name, and where its linked inputs come from (node id, output)."""

    id: str
    kind: str
    values: Mapping[str, Any]
    sources: Mapping[str, Source]

    @property
    def label(self) -> str:
        return f"{_NAMES.get(self.kind, self.kind)} (node {self.id})"


Graph = dict[str, _Node]


@dataclass(frozen=True)
class _Chain:
    """The nodes that a LoRA comes through, from its file or its start: loader, stages, and who saves it."""

    load: _Node | None
    stages: tuple[_Node, ...]
    save: _Node | None
    stopped_at: _Node | None

    def last(self, kind: str) -> _Node | None:
        return next((node for node in reversed(self.stages) if node.kind == kind), None)


@dataclass
class _Reading:
    """What is being gathered: the graph, where ComfyUI's files are, and what the user is to be told."""

    graph: Graph
    models: Path | None
    notes: list[str] = field(default_factory=list)

    def source(self, node: _Node | None, name: str) -> _Node | None:
        """The node behind an input of ``node``."""
        return None if node is None or name not in node.sources else self.graph.get(node.sources[name][0])

    def options(self, node: _Node | None, config: type[ConfigType]) -> dict[str, Any]:
        """The values of those widgets of ``node`` that are options of ``config``, wired ones included."""
        if node is None:
            return {}
        found = {}
        for each in dataclasses.fields(config):
            if each.name in node.values or each.name in node.sources:
                found[each.name] = _fitted(self.value(node, each.name, each.default), each.default)
        return found

    def value(self, node: _Node, name: str, default: Any) -> Any:
        """The value of a widget, from the node that is wired to it where there is one."""
        own = node.values.get(name, default)
        if name not in node.sources:
            return own
        source = self.source(node, name)
        if source is not None and not source.sources and "value" in source.values:
            return source.values["value"]
        origin = "a node that does not run" if source is None else source.label
        self.notes.append(f"{node.label}: {name} is wired to {origin}, which is not followed. It is left at {own!r}.")
        return own

    def config(self, node: _Node | None, config: type[ConfigType]) -> ConfigType:
        """``config`` with the widgets of ``node``. Raises ``ValueError`` that names the node."""
        return config() if node is None else _made(node, config, self.options(node, config))

    def in_models(self, *places: str) -> Path | None:
        """The first of ``places``, paths below the models folder, that is there."""
        return _first_there(self.models, places)

    def beside_models(self, *places: str) -> Path | None:
        """The first of ``places``, paths below the folder that the models folder is in, that is there."""
        return _first_there(self.models and self.models.absolute().parent, places)

    def note_unknown(self) -> None:
        """Notes the widgets that no option belongs to, as of a newer version of the pack."""
        for node in self.graph.values():
            known = {each.name for config in _OPTIONS.get(node.kind, ()) for each in dataclasses.fields(config)}
            unknown = sorted(set(node.values) - known - _OTHER_WIDGETS)
            if node.kind in _OPTIONS and unknown:
                self.notes.append(f"{node.label}: there is no option for {', '.join(unknown)}, which is left out.")


def _made(node: _Node, config: type[ConfigType], options: Mapping[str, Any]) -> ConfigType:
    try:
        return config(**options)
    except ValueError as error:
        raise ValueError(f"{node.label}: {error}") from error


def _first_there(folder: Path | None, places: Sequence[str]) -> Path | None:
    if folder is None:
        return None
    # A graph that was saved on Windows separates by backslashes.
    paths = (folder / PureWindowsPath(place).as_posix() for place in places)
    return next((path for path in paths if path.exists()), None)


def read_workflow(path: Path | str) -> str:
    """The workflow in a .json file, or in a PNG picture saved by ComfyUI, as JSON text for ``from_workflow``.

    Of the two formats that a picture carries, the one that was run. Raises ``ValueError`` for a file that cannot be
    read or holds no workflow.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if not content.startswith(_PNG):
            return content.decode("utf-8")
        with Image.open(path) as picture:
            chunks = getattr(picture, "text", {})
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is neither text nor a PNG picture. {_EXPECTED}") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(f"{path} cannot be read: {error}. {_EXPECTED}") from error
    for name in ("prompt", "workflow"):
        if name in chunks:
            return chunks[name]
    raise ValueError(f"{path} carries no workflow: it may have been saved with --disable-metadata. {_EXPECTED}")


def from_workflow(text: str, models: Path | None = None) -> tuple[RunConfig, list[str]]:
    """The configuration of the run that a workflow's training nodes describe, and notes on it, each a sentence or two.

    ``text`` is JSON in the editor's format or in the API's. ``models`` is ComfyUI's models folder; with it, and with
    the input and output folders beside it, the graph's names of files and folders become paths.

    The run is the one whose LoRA reaches a Save FLUX LoRA node, through the most stages where there are several. A
    stage that is not on its way is switched off in ``start``. Muted and bypassed nodes are left out, as in ComfyUI.
    Notes say what has to be filled in, and what could not be carried over.

    Raises ``ValueError`` for a text that is no workflow, a workflow without training nodes, and a value out of range.
    """
    graph = _read_graph(text)
    if not any(node.kind in STAGES for node in graph.values()):
        raise ValueError(
            "This workflow has no Train Diffusion Stage and no Train Adversarial Stage that runs (muted and bypassed "
            "nodes do not), so there is nothing to train."
        )
    reading = _Reading(graph, models)
    reading.note_unknown()
    chain = _choose_chain(reading)
    diffusion, adversarial = chain.last(DIFFUSION), chain.last(ADVERSARIAL)
    encode = _encode_node(reading, adversarial, diffusion)
    discriminator = _discriminator_node(reading, adversarial)
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


# The two formats.


def _read_graph(text: str) -> Graph:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"This is no JSON: {error}. {_EXPECTED}") from error
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict) and not _is_api_node(content["prompt"]):
        content = content["prompt"]  # what the API's own POST /prompt takes
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        return _editor_graph(content)
    if isinstance(content, dict) and content and all(_is_api_node(node) for node in content.values()):
        return {key: _api_node(key, node) for key, node in content.items()}
    raise ValueError(f"This JSON is no workflow. {_EXPECTED}")


def _is_api_node(node: Any) -> bool:
    return (
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs", {}), dict)
    )


def _api_node(key: str, node: Mapping[str, Any]) -> _Node:
    values, sources = {}, {}
    for name, value in node.get("inputs", {}).items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
            sources[name] = (str(value[0]), value[1])
        else:
            values[name] = value
    return _Node(key, node["class_type"], values, sources)


def _editor_graph(content: Mapping[str, Any]) -> Graph:
    try:
        raw = {str(node["id"]): node for node in content["nodes"]}
        links = dict(_link(each) for each in content.get("links") or [])
        graph = {
            key: _editor_node(key, node, raw, links)
            for key, node in raw.items()
            if node.get("mode", 0) not in (_MUTED, _BYPASSED) and node["type"] != _REROUTE
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"This workflow is damaged ({type(error).__name__}: {error}). {_EXPECTED}") from error
    if not any(node.kind in STAGES for node in graph.values()) and _in_subgraphs(content):
        raise ValueError(
            "The training nodes of this workflow are inside a subgraph. Use File > Export (API), which has none, or "
            "unpack the subgraph and save again."
        )
    return graph


def _link(link: Any) -> tuple[int, Source]:
    """Link id -> (node id, output), in the older format a list, in the newer an object."""
    if isinstance(link, Mapping):
        return link["id"], (str(link["origin_id"]), int(link["origin_slot"]))
    return link[0], (str(link[1]), int(link[2]))


def _editor_node(key: str, node: Mapping[str, Any], raw: Mapping[str, Any], links: Mapping[int, Source]) -> _Node:
    inputs = node.get("inputs") or []
    ends = {each["name"]: _origin(links.get(each.get("link")), raw, links) for each in inputs}
    sources = {name: end for name, end in ends.items() if end is not None}
    return _Node(key, node["type"], _editor_values(key, node), sources)


def _editor_values(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Widget -> value. The editor saves values in order, and the names with the inputs."""
    kind, saved = node["type"], node.get("widgets_values") or []
    if isinstance(saved, Mapping):
        return dict(saved)
    names = [each["widget"]["name"] for each in node.get("inputs") or [] if each.get("widget")]
    if kind == _PRIMITIVE:
        names = ["value"]
    if kind in _NAMES and len(names) < len(saved):
        raise ValueError(
            f"{_NAMES[kind]} (node {key}) has {len(saved)} values and names for {len(names)}: the workflow was saved "
            "by an older version of ComfyUI. Open it in a current one and save again, or use File > Export (API)."
        )
    return dict(zip(names, saved, strict=False))


def _origin(source: Source | None, raw: Mapping[str, Any], links: Mapping[int, Source]) -> Source | None:
    """Where a link starts once reroutes and bypassed nodes are passed; ``None`` at a node that does not run."""
    seen = set()
    while source is not None and source not in seen:
        seen.add(source)
        node = raw.get(source[0])
        if node is None or node.get("mode", 0) == _MUTED:
            return None
        if node.get("mode", 0) != _BYPASSED and node["type"] != _REROUTE:
            return source
        source = links.get(_passed(node, source[1]))
    return None


def _passed(node: Mapping[str, Any], output: int) -> Any:
    """The link that a reroute or a bypassed node hands through: that of the first input of the output's type."""
    linked = [each for each in node.get("inputs") or [] if each.get("link") is not None]
    if node["type"] == _REROUTE:
        return linked[0]["link"] if linked else None
    kind = node["outputs"][output]["type"]
    return next((each["link"] for each in linked if each.get("type") == kind), None)


def _in_subgraphs(content: Mapping[str, Any]) -> bool:
    subgraphs = (content.get("definitions") or {}).get("subgraphs") or []
    return any(node.get("type") in STAGES for subgraph in subgraphs for node in subgraph.get("nodes") or [])


# Which nodes make the run.


def _choose_chain(reading: _Reading) -> _Chain:
    nodes = reading.graph.values()
    saved = [_chain(reading, node) for node in nodes if node.kind == SAVE]
    chains = [chain for chain in saved if chain.stages]
    if not chains:
        chains = [_chain(reading, node) for node in nodes if node.kind in STAGES]
        reading.notes.append("No Save FLUX LoRA node gets a trained LoRA, so the output section has its defaults.")
    chosen = max(chains, key=lambda chain: (len({node.kind for node in chain.stages}), len(chain.stages)))
    _note_unused(reading, chosen)
    return chosen


def _chain(reading: _Reading, end: _Node) -> _Chain:
    """Follows flux_lora back from ``end``."""
    stages: list[_Node] = []
    node: _Node | None = end if end.kind in STAGES else reading.source(end, "flux_lora")
    while node is not None and node.kind in STAGES and node not in stages:
        stages.insert(0, node)
        node = reading.source(node, "flux_lora")
    load = node if node is not None and node.kind == LOAD else None
    stopped_at = node if load is None else None
    return _Chain(load, tuple(stages), end if end.kind == SAVE else None, stopped_at)


def _note_unused(reading: _Reading, chain: _Chain) -> None:
    used = {node.id for node in chain.stages}
    left_out = [node.label for node in reading.graph.values() if node.kind in STAGES and node.id not in used]
    for kind, what in ((DIFFUSION, "stage 1"), (ADVERSARIAL, "stage 2")):
        several = [node for node in chain.stages if node.kind == kind]
        if len(several) > 1:
            left_out += [node.label for node in several[:-1]]
            reading.notes.append(
                f"{several[-1].label} is taken for {what}. A run has one of each stage; for the others, start it again "
                "from the LoRA it saved (start.lora)."
            )
    if [node.kind for node in chain.stages][-1] == DIFFUSION and chain.last(ADVERSARIAL):
        reading.notes.append("In the graph stage 2 comes before stage 1; a headless run begins with stage 1.")
    end = chain.save or chain.stages[-1]
    if left_out:
        reading.notes.append(f"The run is the one that ends at {end.label}. Not used: {', '.join(left_out)}.")
    others = [node.label for node in reading.graph.values() if node.kind == SAVE and node is not chain.save]
    if chain.save is not None and others:
        reading.notes.append(
            f"The output section is that of {chain.save.label}, not of {', '.join(others)}. A run saves the LoRA of "
            "each of its stages."
        )


def _encode_node(reading: _Reading, adversarial: _Node | None, diffusion: _Node | None) -> _Node | None:
    found = [reading.source(stage, "real_latents") for stage in (adversarial, diffusion) if stage is not None]
    nodes = [node for node in found if node is not None and node.kind == ENCODE]
    if not nodes:
        reading.notes.append(
            "The stages get their real_latents from no Encode Real Latents that runs: fill in images.folder and the "
            "data section."
        )
        return None
    if len({node.id for node in nodes}) > 1:
        reading.notes.append(
            f"The stages train on different data. {nodes[0].label}, stage 2's, is taken for both; for the other, start "
            "two runs."
        )
    return nodes[0]


def _discriminator_node(reading: _Reading, adversarial: _Node | None) -> _Node | None:
    node = reading.source(adversarial, "discriminator")
    if adversarial is None or (node is not None and node.kind == DISCRIMINATOR):
        return node
    reading.notes.append(
        f"{adversarial.label} gets its discriminator from no Latent Discriminator that runs, so the discriminator "
        "section has its defaults."
    )
    return None


# The sections that are more than a node's widgets.


def _base(reading: _Reading, chain: _Chain) -> BaseConfig:
    load = chain.load
    if load is None:
        origin = "nowhere" if chain.stopped_at is None else chain.stopped_at.label
        reading.notes.append(
            f"The LoRA comes from {origin}, not from Load FLUX LoRA: fill in base.checkpoint and the lora section."
        )
        return BaseConfig()
    label = str(reading.value(load, "checkpoint", TINY_BASE_LABEL))
    options = reading.options(load, BaseConfig) | {"checkpoint": _checkpoint(reading, label)}
    return _made(load, BaseConfig, options)


def _checkpoint(reading: _Reading, label: str) -> str:
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
        f"base.checkpoint is {name!r}, a name in ComfyUI's models folder"
        + (f" that is in none of {', '.join(folders)} of {reading.models}" if reading.models else "")
        + ". Put the file's path in its place."
    )
    return name


def _start_lora(reading: _Reading, load: _Node | None) -> str:
    label = NO_LORA if load is None else str(reading.value(load, "lora", NO_LORA))
    if label == NO_LORA:
        return ""
    found = reading.in_models(f"loras/{label}") or reading.beside_models(f"output/loras/{label}")
    if found is None:
        reading.notes.append(
            f"start.lora is {label!r}, a name in ComfyUI's models/loras. Put the file's path in its place."
        )
    return label if found is None else str(found)


def _start_discriminator(reading: _Reading, discriminator: _Node | None) -> str:
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


def _images(reading: _Reading, encode: _Node | None) -> ImagesConfig:
    node = reading.source(encode, "images")
    if encode is None or node is None or node.kind != IMAGES:
        if encode is not None:
            origin = "no node that runs" if node is None else node.label
            reading.notes.append(
                f"The pictures come from {origin}, not from Load Training Images: fill in the images section."
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
    return _made(node, ImagesConfig, options)


def _image_folder(reading: _Reading, label: str) -> str:
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


def _note_captions(reading: _Reading, encode: _Node, images: _Node) -> None:
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


def _encoders(reading: _Reading, encode: _Node | None, base: BaseConfig) -> EncodersConfig:
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
        "Set encoders.folder to a folder of FLUX.1 in diffusers' layout: text encoders and tokenizers are read from "
        "there, while the graph has files of its own for them."
    )
    name = loader.values.get("vae_name") if loader is not None else None
    found = reading.in_models(f"vae/{name}") if isinstance(name, str) else None
    return EncodersConfig(vae="" if found is None else str(found))


def _output(reading: _Reading, save: _Node | None) -> OutputConfig:
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
    return _made(save, OutputConfig, options | ({"name": name} if name else {}))


def _fitted(value: Any, default: Any) -> Any:
    """A number as the page's JSON has it, in the type of ``default``: 4.0 for a whole number is 4."""
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    return value
