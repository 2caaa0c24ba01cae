"""What a host would say of its files, for the check of graphs without one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from fluxduel.tests.host.two_stage_graph import Graph
from fluxduel.training.config import TINY_BASE
from fluxduel.training.graph.known import Known, Memory
from fluxduel.training.graph.problems import problems

TINY = "tiny base (built in)"


def changed(graph: Graph, key: str, **inputs: Any) -> Graph:
    graph = copy.deepcopy(graph)
    graph[key]["inputs"] |= inputs
    return graph


class Machine:
    """A host's folders ``input`` and ``output`` below ``root``, and what tests say that it lists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints, self.loras, self.discriminators, self.vaes = {TINY: TINY_BASE}, {}, {}, {}
        self.folders = {path.name: path for path in (root / "input").iterdir()}
        self.memory = Memory(64 * 2**30, False)

    def known(self) -> Known:
        output = self.root / "output"
        return Known(
            checkpoints=lambda: self.checkpoints,
            loras=lambda: self.loras,
            discriminators=lambda: self.discriminators,
            folders=lambda: self.folders,
            vae=self.vaes.get,
            folder_problem=lambda label: None if label in self.folders else f"no folder {label}",
            prefix_problem=lambda prefix: None if prefix.strip() else "no prefix",
            left_out=lambda: [output],
            memory=lambda: self.memory,
            runs=output / "fluxduel",
            output=output,
        )

    def check(self, graph: Graph) -> dict[str, list[str]]:
        return problems(graph, self.known())
