"""A graph in the API's format, read as far as it says things by itself: widgets, and where wires come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..config import Config

ConfigType = TypeVar("ConfigType", bound=Config)


class Unknown:
    """What a wire is going to bring."""


UNKNOWN = Unknown()


def is_link(value: object) -> bool:
    """Whether an input is a wire: (node, output), as the host tells it."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


@dataclass(frozen=True)
class Node:
    """One node: its id, its class, its inputs."""

    key: str
    kind: str
    inputs: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Whether something is given for an input, by a widget or a wire."""
        return name in self.inputs

    def value(self, name: str, default: Any) -> Any:
        """A widget's value in ``default``'s type, as the host converts it; ``UNKNOWN`` where the graph does not say."""
        if name not in self.inputs:
            return default
        value = self.inputs[name]
        if isinstance(value, dict):
            value = value.get("__value__", UNKNOWN)
        if value is UNKNOWN or is_link(value):
            return UNKNOWN
        try:
            return type(default)(value)
        except (TypeError, ValueError, OverflowError):  # the host says so itself
            return UNKNOWN


class PromptGraph:
    """The nodes of a graph by id."""

    def __init__(self, graph: Mapping[str, Mapping[str, Any]]) -> None:
        self.nodes = {
            key: Node(key, node["class_type"], node["inputs"])
            for key, node in graph.items()
            if isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), Mapping)
        }

    def of(self, *kinds: str) -> Iterator[Node]:
        """The nodes of these classes."""
        return (node for node in self.nodes.values() if node.kind in kinds)

    def source(self, node: Node, name: str) -> Node | None:
        """The node that an input is wired to; ``None`` where it is not wired, or to nothing."""
        value = node.inputs.get(name)
        return self.nodes.get(value[0]) if is_link(value) else None

    def above(self, key: str) -> set[str]:
        """The node, and all that it depends on."""
        found: set[str] = set()
        waiting = [key]
        while waiting:
            here = waiting.pop()
            if here in found or here not in self.nodes:
                continue
            found.add(here)
            waiting += [value[0] for value in self.nodes[here].inputs.values() if is_link(value)]
        return found


@dataclass(frozen=True)
class Settings(Generic[ConfigType]):
    """A configuration as far as it is known, the rest at its defaults.

    ``unknown``: options whose value a wire brings, or that are out of range; ``places``: option -> id of the node whose
    widget holds it; ``faults``: option -> what is wrong with its value alone, where a host may not say so itself.
    """

    config: ConfigType
    unknown: frozenset[str]
    places: Mapping[str, str]
    faults: Mapping[str, str]

    def knows(self, *options: str) -> bool:
        return self.unknown.isdisjoint(options)


def settings(kind: type[ConfigType], nodes: list[Node], *, complete: bool) -> Settings[ConfigType]:
    """The configuration that the widgets of ``nodes`` hold, of which the first that has an option counts.

    ``complete``: whether nothing but these nodes can set an option.
    """
    values: dict[str, Any] = {}
    unknown: set[str] = set()
    places: dict[str, str] = {}
    faults: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        name = field.name
        node = next((node for node in nodes if node.has(name)), None)
        if node is None:
            if not complete:
                unknown.add(name)
            continue
        places[name] = node.key
        value = node.value(name, field.default)
        if value is UNKNOWN:
            unknown.add(name)
            continue
        fault = kind.fault_of(name, value)
        if not fault:
            values[name] = value
            continue
        unknown.add(name)
        # Hosts say of every number that it is out of range, but some take any word for a choice.
        if field.metadata["choices"] is not None:
            faults[name] = fault
    return Settings(kind.unchecked(values), frozenset(unknown), places, faults)
