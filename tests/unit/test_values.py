"""What goes along wires and through functions is a value: no field of it is ever set anew."""

from __future__ import annotations

import ast

from fluxduel.tests.comfy_host import ROOT

# Filled while something is read, by the one who made it.
COLLECTED = {"folder_files.py", "workflow_reading.py", "run_history.py"}


def test_every_dataclass_is_frozen() -> None:
    found = set()
    for top in ("training", "discriminator", "nodes", "headless"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ClassDef):
                    continue
                for decorator in map(ast.unparse, node.decorator_list):
                    if "dataclass" in decorator:
                        assert "frozen=True" in decorator or path.name in COLLECTED, f"{path.name}: {node.name}"
                        found.add(path.name)
    assert len(found) > 20 and found >= COLLECTED
