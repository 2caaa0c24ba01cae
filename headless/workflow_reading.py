"""What is read from a workflow's nodes: widgets, wired values, files below ComfyUI's folders, notes for the user."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

from ..training.config import (
    AdversarialStageConfig,
    Config,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from .run_config import BaseConfig, ImagesConfig, OutputConfig
from .workflow_graph import ADVERSARIAL, DIFFUSION, DISCRIMINATOR, ENCODE, IMAGES, LOAD, OPTIONS, SAVE, Graph, Node

# The options that are widgets of each node, and the widgets that become something else.
_OPTIONS: dict[str, tuple[type[Config], ...]] = {
    LOAD: (BaseConfig, LoRAConfig),
    IMAGES: (ImagesConfig,),
    ENCODE: (DataConfig,),
    DIFFUSION: (DiffusionStageConfig,),
    DISCRIMINATOR: (DiscriminatorConfig,),
    ADVERSARIAL: (AdversarialStageConfig,),
    SAVE: (OutputConfig,),
    **dict.fromkeys(OPTIONS, (AdversarialStageConfig,)),
}
_OTHER_WIDGETS = {"lora", "continue_from", "prefix"}

ConfigType = TypeVar("ConfigType", bound=Config)


@dataclass
class Reading:
    """What is being gathered: the graph, where ComfyUI's files are, and what the user is to be told."""

    graph: Graph
    models: Path | None
    notes: list[str] = field(default_factory=list)

    def source(self, node: Node | None, name: str) -> Node | None:
        """The node behind an input of ``node``."""
        return None if node is None or name not in node.sources else self.graph.get(node.sources[name][0])

    def options(self, node: Node | None, config: type[ConfigType]) -> dict[str, Any]:
        """The values of those widgets of ``node`` that are options of ``config``, wired ones included.

        What a training node has no widget for is taken from the option nodes before it.
        """
        if node is None:
            return {}
        found: dict[str, Any] = {}
        for holder in reversed([node, *self._option_nodes(node)]):
            for each in dataclasses.fields(config):
                if each.name in holder.values or each.name in holder.sources:
                    found[each.name] = _fitted(self.value(holder, each.name, each.default), each.default)
        return found

    def _option_nodes(self, node: Node) -> list[Node]:
        """Those in front of a training node, the nearest first."""
        found: list[Node] = []
        last = node
        while "options" in last.sources:
            before = self.source(last, "options")
            if before is None or before.kind not in OPTIONS or before in found:
                origin = "a node that does not run" if before is None else f"{before.label}, which is not followed"
                self.notes.append(f"{last.label}: its options come from {origin}.")
                break
            found.append(before)
            last = before
        return found

    def value(self, node: Node, name: str, default: Any) -> Any:
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

    def config(self, node: Node | None, config: type[ConfigType]) -> ConfigType:
        """``config`` with the widgets of ``node``. Raises ``ValueError`` that names the node."""
        return config() if node is None else made(node, config, self.options(node, config))

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
            unknown = sorted(map(str, set(node.values) - known - _OTHER_WIDGETS))
            if node.kind in _OPTIONS and unknown:
                self.notes.append(f"{node.label}: there is no option for {', '.join(unknown)}, which is left out.")


def made(node: Node, config: type[ConfigType], options: Mapping[str, Any]) -> ConfigType:
    try:
        return config(**options)
    except ValueError as error:
        raise ValueError(f"{node.label}: {error}") from error


def _first_there(folder: Path | None, places: Sequence[str]) -> Path | None:
    if folder is None:
        return None
    # A graph that was saved on Windows separates by backslashes; a name may be one that no disk can have.
    paths = (folder / PureWindowsPath(place).as_posix() for place in places)
    return next((path for path in paths if os.path.exists(path)), None)


def _fitted(value: Any, default: Any) -> Any:
    """A number as the page's JSON has it, in the type of ``default``: 4.0 for a whole number is 4."""
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    return value
