"""Graphs for the API from before options had nodes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..training.themes import THEMES

STAGES = ("FluxDuelTrainDiffusionStage", "FluxDuelTrainAdversarialStage")
NODE_OF_THEME = {
    "optimiser": "FluxDuelOptimiserOptions",
    "noise": "FluxDuelNoiseOptions",
    "adversarial": "FluxDuelAdversarialOptions",
    "judged_sample": "FluxDuelJudgedSampleOptions",
    "watch": "FluxDuelWatchOptions",
    "preview": "FluxDuelPreviewOptions",
    "memory": "FluxDuelMemoryOptions",
    "saving": "FluxDuelSavingOptions",
}

Graph = dict[str, dict[str, Any]]


def with_option_nodes(graph: Mapping[str, Mapping[str, Any]]) -> Graph:
    """``graph``, in the API's format, with what training nodes had inputs for in version 0.1 on option nodes.

    Hosts drop inputs that a node does not have without a word, and a run would go on with defaults. The values given
    at a stage hold over those of its ``options``, as its widgets do.
    """
    moved: Graph = {}
    for key, node in graph.items():
        inputs = node.get("inputs")
        if node.get("class_type") not in STAGES or not isinstance(inputs, Mapping):
            moved[key] = dict(node)
            continue
        left = dict(inputs)
        for theme, names in THEMES.items():
            own = {name: left.pop(name) for name in names if name in left}
            if not own:
                continue
            place = f"{key}.{theme}"
            before = {"options": left["options"]} if "options" in left else {}
            moved[place] = {"class_type": NODE_OF_THEME[theme], "inputs": own | before}
            left["options"] = [place, 0]
        moved[key] = {**node, "inputs": left}
    return moved
