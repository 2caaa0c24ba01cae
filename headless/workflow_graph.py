"""A saved ComfyUI workflow, in the format of the editor or of the API: the nodes that run, and their wires."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..training.failure_words import reason
from .json_text import JSONTextError, decoded, parsed

LOAD = "FluxDuelLoadFluxLoRA"
IMAGES = "FluxDuelLoadTrainingImages"
ENCODE = "FluxDuelEncodeRealLatents"
DIFFUSION = "FluxDuelTrainDiffusionStage"
DISCRIMINATOR = "FluxDuelLatentDiscriminator"
ADVERSARIAL = "FluxDuelTrainAdversarialStage"
SAVE = "FluxDuelSaveLoRA"
TINY_ENCODERS = "FluxDuelLoadTinyFluxEncoders"
STAGES = (DIFFUSION, ADVERSARIAL)
OPTIONS = {
    "FluxDuelOptimiserOptions": "Optimiser Options",
    "FluxDuelNoiseOptions": "Noise Level Options",
    "FluxDuelAdversarialOptions": "Adversarial Options",
    "FluxDuelJudgedSampleOptions": "Judged Sample Options",
    "FluxDuelWatchOptions": "Watch Options",
    "FluxDuelPreviewOptions": "Preview Options",
    "FluxDuelMemoryOptions": "Memory Options",
    "FluxDuelSavingOptions": "Saving Options",
}

NAMES = {
    LOAD: "Load FLUX LoRA",
    IMAGES: "Load Dataset Images",
    ENCODE: "Encode Real Latents",
    DIFFUSION: "Stage 1: Train LoRA",
    DISCRIMINATOR: "Latent Discriminator",
    ADVERSARIAL: "Stage 2: Train LoRA with GAN",
    SAVE: "Save FLUX LoRA",
    **OPTIONS,
}
_PRIMITIVE, _REROUTE = "PrimitiveNode", "Reroute"
_MUTED, _BYPASSED = 2, 4
_PNG = b"\x89PNG\r\n\x1a\n"
_EXPECTED = (
    "Expected a workflow of ComfyUI: what its menu saves under File > Save or Export (API), or a PNG picture that it "
    "saved with its workflow."
)


Source = tuple[str, int]


@dataclass(frozen=True)
class Node:
    """A node that runs: its widgets' values by name, and where its linked inputs come from (node id, output)."""

    id: str
    kind: str
    values: Mapping[str, Any]
    sources: Mapping[str, Source]

    @property
    def label(self) -> str:
        return f"{NAMES.get(self.kind, self.kind)} (node {self.id})"


Graph = dict[str, Node]


def read_workflow(path: Path | str) -> str:
    """The workflow in a .json file, or in a PNG picture saved by ComfyUI, as JSON text for ``from_workflow``.

    Of the two formats that a picture carries, the one that was run. Raises ``ValueError`` for a file that cannot be
    read or holds no workflow.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if not content.startswith(_PNG):
            return decoded(content)
        with Image.open(path) as picture:
            chunks = getattr(picture, "text", {})
    except JSONTextError as error:
        raise ValueError(f"{path} is neither text nor a PNG picture. {_EXPECTED}") from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's own words are of its reader's insides.
        told = isinstance(error, OSError) and error.errno is not None
        words = reason(error) if told else "it is a damaged PNG picture"
        raise ValueError(f"{path} cannot be read: {words}. {_EXPECTED}") from error
    for name in ("prompt", "workflow"):
        if name in chunks:
            return chunks[name]
    raise ValueError(f"{path} carries no workflow: it may have been saved with --disable-metadata. {_EXPECTED}")


def read_graph(text: str) -> Graph:
    try:
        content = parsed(text).value
    except JSONTextError as error:
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


def _api_node(key: str, node: Mapping[str, Any]) -> Node:
    values, sources = {}, {}
    for name, value in node.get("inputs", {}).items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
            sources[name] = (str(value[0]), value[1])
        else:
            values[name] = value
    return Node(key, node["class_type"], values, sources)


def _editor_graph(content: Mapping[str, Any]) -> Graph:
    try:
        raw = {str(node["id"]): node for node in content["nodes"]}
        links = dict(_link(each) for each in content.get("links") or [])
        graph = {
            key: _editor_node(key, node, raw, links)
            for key, node in raw.items()
            if node.get("mode", 0) not in (_MUTED, _BYPASSED) and node["type"] != _REROUTE
        }
        nested = _in_subgraphs(content)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"This workflow is damaged: a part that ComfyUI writes is missing. {_EXPECTED}") from error
    if nested and not any(node.kind in STAGES for node in graph.values()):
        raise ValueError(
            "The training nodes of this workflow are inside a subgraph. Use File > Export (API), which has none, or "
            "unpack the subgraph and save again."
        )
    return graph


def _link(link: Any) -> tuple[int, Source]:
    """Link id -> (node id, output), in the older format a list, in the newer an object."""
    if isinstance(link, Mapping):
        return link["id"], (str(link["origin_id"]), operator.index(link["origin_slot"]))
    return link[0], (str(link[1]), operator.index(link[2]))


def _editor_node(key: str, node: Mapping[str, Any], raw: Mapping[str, Any], links: Mapping[int, Source]) -> Node:
    inputs = node.get("inputs") or []
    ends = {each["name"]: _origin(links.get(each.get("link")), raw, links) for each in inputs}
    sources = {name: end for name, end in ends.items() if end is not None}
    return Node(key, node["type"], _editor_values(key, node), sources)


def _editor_values(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Widget -> value. The editor saves values in order, and the names with the inputs."""
    kind, saved = node["type"], node.get("widgets_values") or []
    if isinstance(saved, Mapping):
        return dict(saved)
    names = [each["widget"]["name"] for each in node.get("inputs") or [] if each.get("widget")]
    if kind == _PRIMITIVE:
        names = ["value"]
    if kind in NAMES and len(names) < len(saved):
        raise ValueError(
            f"{NAMES[kind]} (node {key}) has {len(saved)} values and names for {len(names)}: the workflow was saved "
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
