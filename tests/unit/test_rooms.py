"""What stands on what: the rooms of the house, read from the imports of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import ROOT

# From the ground up; what stands side by side does not know each other. ``discriminator`` stands on nothing.
FLOORS = (
    ("discriminator", "ground"),
    ("base",),
    ("lora", "data"),
    ("evidence",),
    ("stages",),
    ("runs",),
    ("graph",),
    ("nodes", "headless"),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# Whoever else needs a network asks a stage for it.
KNOWS_DISCRIMINATOR = {"discriminator", "stages"}


def house() -> dict[str, Path]:
    """Dotted name inside the pack -> file, of all that runs for a user."""
    files = [path for top in ("training", "discriminator", "nodes", "headless") for path in (ROOT / top).rglob("*.py")]
    return {str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path for path in sorted(files)}


def room_of(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "training":
        return parts[0]
    return parts[1] if parts[1] in FLOOR_OF else "ground"


def arrows(names: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """(file, file that it imports), by dotted names; imports inside functions and for types alone included."""
    for name, path in names.items():
        package = name.split(".")[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            start = package[: len(package) - node.level + 1]
            target = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{target}.{alias.name}"
                ways = (inside, f"{inside}.__init__", target, f"{target}.__init__")
                found = next((way for way in ways if way in names), None)
                assert found, f"{name}: {ast.unparse(node)} leads nowhere"
                if found != name:
                    yield name, found


def allowed(above: str, below: str) -> bool:
    if below == "discriminator":
        return above in KNOWS_DISCRIMINATOR
    if above == "discriminator":
        return False
    return above == below or FLOOR_OF[above] > FLOOR_OF[below]


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of files that reach each other (Tarjan's strongly connected components of two and more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return found


@pytest.fixture(scope="module")
def drawn() -> tuple[dict[str, Path], set[tuple[str, str]]]:
    names = house()
    return names, set(arrows(names))


def test_every_room_is_known(drawn: tuple[dict[str, Path], set[tuple[str, str]]]) -> None:
    names, _ = drawn
    assert {room_of(name) for name in names} == set(FLOOR_OF)
    folders = {path.name for path in (ROOT / "training").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"base", "lora", "data", "evidence", "stages", "runs", "graph"}


def test_arrows_go_down_only(drawn: tuple[dict[str, Path], set[tuple[str, str]]]) -> None:
    """Prints the house: each room, what it stands on, and the longest file."""
    names, edges = drawn
    up = sorted(f"{a} -> {b}" for a, b in edges if not allowed(room_of(a), room_of(b)))
    for room in FLOOR_OF:
        files = [name for name in names if room_of(name) == room]
        below = sorted({room_of(b) for a, b in edges if room_of(a) == room} - {room}, key=FLOOR_OF.__getitem__)
        print(f"{room:14}{len(files):3} files, stands on {', '.join(below) or 'nothing'}")
    lengths = {name: len(path.read_text().splitlines()) for name, path in names.items()}
    longest = max(lengths, key=lengths.__getitem__)
    print(f"{len(edges)} arrows, {len(up)} up; the longest file is {longest} with {lengths[longest]} lines")
    assert up == []


def test_there_are_no_circles(drawn: tuple[dict[str, Path], set[tuple[str, str]]]) -> None:
    names, edges = drawn
    found = circles({name: {b for a, b in edges if a == name} for name in names})
    print(f"{len(found)} circles")
    assert found == []


def test_a_circle_and_an_arrow_up_would_be_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert not allowed("lora", "data") and not allowed("nodes", "headless") and not allowed("headless", "nodes")
    assert not allowed("base", "lora") and not allowed("runs", "discriminator") and allowed("nodes", "base")
    assert room_of("training.base.families.flux1") == "base" and room_of("training.flow") == "ground"
