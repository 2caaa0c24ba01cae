"""Which base a graph trains on, and with which LoRA it begins: Load FLUX LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..base.base_model import BaseModelError, BaseReference, read_transformer_config
from ..base.checkpoint_files import weight_files
from ..config import AUTO, LoRAConfig
from ..lora.adapter import FluxLoRA, LoRAError, load_file
from ..lora.value import DOWN, UP, base_family, base_layers, target_layers
from .known import Known, absent
from .prompt_graph import UNKNOWN, Node, PromptGraph, settings

LOAD = "FluxDuelLoadFluxLoRA"
STAGES = ("FluxDuelTrainDiffusionStage", "FluxDuelTrainAdversarialStage")
NODE, NO_LORA = "Load FLUX LoRA", "none"
# A LoRA of up to this size is read as the node itself is going to read it; that takes less than a second.
READ_AT_ONCE = 256 * 2**20
Identity = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Start:
    """A Load FLUX LoRA node as far as it is known.

    ``base``: ``None`` where it cannot be told or read; ``lora``: its shapes without numbers, ``None`` likewise.
    """

    base: BaseReference | None
    lora: FluxLoRA | None
    precision_known: bool


class ByShapes:
    """A LoRA as a key: two of the same base and shapes take the same room."""

    def __init__(self, lora: FluxLoRA) -> None:
        self.lora = lora
        self._key = tuple((name, tuple(tensor.shape)) for name, tensor in lora.tensors.items())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByShapes) and self._key == other._key


def start_of(graph: PromptGraph, node: Node, name: str) -> Node | None:
    """The Load FLUX LoRA node that the LoRA at an input began with, through stages; ``None`` where that is not told."""
    found, seen = graph.source(node, name), set()
    while found is not None and found.kind in STAGES and found.key not in seen:
        seen.add(found.key)
        found = graph.source(found, "flux_lora")
    return found if found is not None and found.kind == LOAD else None


def check_start(node: Node, known: Known) -> Iterator[str]:
    """What is wrong with a Load FLUX LoRA node."""
    lora = settings(LoRAConfig, [node], complete=True)
    yield from lora.faults.values()
    valid = lora.knows("targets", "target_regex")
    if valid:
        try:
            LoRAConfig(targets=lora.config.targets, target_regex=lora.config.target_regex)
        except ValueError as error:
            valid = False
            yield str(error)
    label = node.value("checkpoint", "")
    problem = "" if label is UNKNOWN else absent(known.checkpoints(), label, f"{NODE}: checkpoint")
    file_label = node.value("lora", NO_LORA)
    file_problem = ""
    if file_label not in (UNKNOWN, NO_LORA):
        file_problem = absent(known.loras(), file_label, f"{NODE}: lora")
    yield from filter(None, (problem, file_problem))
    if problem or label is UNKNOWN:
        return
    path = known.checkpoints()[label]
    unusable = base_fault(path)
    if unusable:
        yield unusable
    elif file_label == NO_LORA and valid and lora.config.targets == "regex":
        yield from filter(None, [_unmatched(path, lora.config)])
    elif file_label not in (UNKNOWN, NO_LORA) and not file_problem:
        yield from filter(None, [file_fault(known.loras()[file_label], path)])


def start(node: Node, known: Known) -> Start:
    """What a Load FLUX LoRA node is going to give."""
    label, precision = node.value("checkpoint", ""), node.value("precision", AUTO)
    path = None if label is UNKNOWN else known.checkpoints().get(label)
    if path is None or base_fault(path):
        return Start(None, None, False)
    try:
        base = BaseReference(path, AUTO if precision is UNKNOWN else precision)
    except ValueError:  # said of the widget
        return Start(None, None, False)
    return Start(base, _shapes(node, known, base), precision is not UNKNOWN)


def _shapes(node: Node, known: Known, base: BaseReference) -> FluxLoRA | None:
    file_label = node.value("lora", NO_LORA)
    if file_label is UNKNOWN:
        return None
    if file_label != NO_LORA:
        file = known.loras().get(file_label)
        return None if file is None else _of_file(identity(file), base)
    lora = settings(LoRAConfig, [node], complete=True)
    if not lora.knows("rank", "alpha", "targets", "target_regex"):
        return None
    try:
        return new_shapes(base, LoRAConfig(**vars(lora.config)))
    except (LoRAError, ValueError):  # said of the widgets
        return None


def new_shapes(base: BaseReference, config: LoRAConfig) -> FluxLoRA:
    """As ``adapter.create``, without numbers."""
    layers = base_layers(base)
    tensors = {}
    for name in target_layers(layers, config, base_family(base)):
        size_out, size_in = layers[name]
        tensors[name + DOWN] = _shape(config.rank, size_in)
        tensors[name + UP] = _shape(size_out, config.rank)
    return FluxLoRA(base, config, tensors)


def _shape(*size: int) -> Tensor:
    """A tensor that takes no memory."""
    return torch.zeros(()).expand(size)


def identity(*files: Path) -> Identity:
    """Changes when one of the files does. Raises ``OSError``."""
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def base_fault(path: str) -> str:
    """Why a checkpoint cannot be a base, by its headers; empty where it can."""
    try:
        return _base_fault(path, identity(*weight_files(path)))
    except BaseModelError as error:
        return str(error)


@lru_cache(maxsize=32)
def _base_fault(path: str, _: Identity) -> str:
    try:
        read_transformer_config(path)
    except BaseModelError as error:
        return str(error)
    return ""


def _unmatched(path: str, config: LoRAConfig) -> str:
    try:
        target_layers(base_layers(BaseReference(path)), config, base_family(BaseReference(path)))
    except LoRAError as error:
        return str(error)
    return ""


def file_fault(file: Path, base: str) -> str:
    """Why a LoRA file cannot be gone on with on a base; empty where it can, or is too large to be asked quickly."""
    try:
        read = identity(file)
    except OSError:  # said when it is read
        return ""
    return _file_fault(read, base, identity(*weight_files(base)))


@lru_cache(maxsize=32)
def _file_fault(file: Identity, base: str, _: Identity) -> str:
    if file[0][1] > READ_AT_ONCE:
        return ""
    try:
        load_file(Path(file[0][0]), BaseReference(base))
    except LoRAError as error:
        return str(error)
    return ""


@lru_cache(maxsize=8)
def _of_file(file: Identity, base: BaseReference) -> FluxLoRA | None:
    if file[0][1] > READ_AT_ONCE:
        return None
    try:
        lora = load_file(Path(file[0][0]), base)
    except LoRAError:  # said of the widget
        return None
    return FluxLoRA(base, lora.config, {name: _shape(*tensor.shape) for name, tensor in lora.tensors.items()})
