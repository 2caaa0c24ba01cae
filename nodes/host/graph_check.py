"""The check of a whole graph, asked for as the host takes it, and told as the host looks at each node."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import folder_paths
import psutil
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer

import nodes as host_nodes

from ...training.graph.known import Known, Memory
from ...training.graph.problems import OURS, Checking
from ...training.graph.prompt_graph import PromptGraph
from .folders import (
    checkpoints,
    discriminator_files,
    lora_files,
    prefix_problem,
    runs_folder,
    training_folder_problem,
    training_folders,
    written_folders,
)

# The host answers nothing else meanwhile.
MOST_SECONDS = 10.0
# Class -> the input that its ``validate_inputs`` names, and what to give where a graph may leave it out: hosts tell the
# answer at inputs that are named and given. Of a widget that is named they check nothing; ``problems`` does. From there
# ``refusals`` takes each problem to the input that it is about.
SHOWN_AT: dict[str, tuple[str, Any]] = {
    "FluxDuelLoadFluxLoRA": ("checkpoint", None),
    "FluxDuelLoadTrainingImages": ("folder", None),
    "FluxDuelEncodeRealLatents": ("vae", None),
    "FluxDuelTrainDiffusionStage": ("flux_lora", None),
    "FluxDuelTrainAdversarialStage": ("flux_lora", None),
    "FluxDuelLatentDiscriminator": ("continue_from", "new"),
    "FluxDuelSaveLoRA": ("prefix", None),
    "FluxDuelSampleFluxLoRA": ("steps", None),
    "FluxDuelEvaluateFluxLoRA": ("step_counts", None),
    "FluxDuelCompareFluxLoRAs": ("step_counts", None),
    "FluxDuelOptimiserOptions": ("lr_schedule", "constant"),
    "FluxDuelNoiseOptions": ("timestep_sampling", "shifted"),
    "FluxDuelAdversarialOptions": ("balance", "fixed"),
    "FluxDuelJudgedSampleOptions": ("renoise", True),
    "FluxDuelWatchOptions": ("watch", True),
    "FluxDuelPreviewOptions": ("preview_sampler", "euler"),
    "FluxDuelMemoryOptions": ("gradient_checkpointing", True),
}
# The host asks for graphs one request a task, and looks at its nodes in the same one.
_found: ContextVar[Mapping[str, list[str]]] = ContextVar("fluxduel_problems")

# One check at a time: what one has counted the next one knows.
_at_it = threading.Lock()

log = logging.getLogger(__name__)

Graph = dict[str, dict[str, Any]]


def forget() -> None:
    """What was found in the graph before this one is no longer told: a connection may ask for several."""
    _found.set({})


def checked(graph: Graph, targets: Collection[str] | None, page: object) -> Graph:
    """``graph``, whose problems ``problem_here`` tells from now on, so that none of it runs where it has some.

    ``targets``: the output nodes that are to run; ``None``: all. The host would still run the outputs that do not
    depend on a problem, and train for them: where there is one, those that need a node of this pack are left out.
    ``page``: the name of the client that asks, as it says; it is told where the time was too short for all.
    """
    try:
        return _checked(graph, targets, page)
    except Exception:
        log.warning("The check before the run failed, and is left out.", exc_info=True)
        forget()
        return graph


def _checked(graph: Graph, targets: Collection[str] | None, page: object) -> Graph:
    if not any(str(node.get("class_type", None)).startswith(OURS) for node in graph.values()):
        return graph
    wires = PromptGraph(graph)
    outputs = [key for key in wires.nodes if _is_output(wires.nodes[key].kind) and (targets is None or key in targets)]
    above = {key: wires.above(key) for key in outputs}
    run = set().union(*above.values())
    told = _told({key: graph[key] for key in wires.nodes if key in run}, page)
    found = {key: texts for key, texts in told.items() if graph[key]["class_type"] in SHOWN_AT}
    if not found:
        return graph
    _found.set(found)
    shown = dict(graph)
    for key in found:
        name, value = SHOWN_AT[graph[key]["class_type"]]
        if value is not None:
            shown[key] = {**graph[key], "inputs": {name: value, **graph[key]["inputs"]}}
    needed = set().union(*(above[key] - {key} for key in outputs))
    for key in outputs:
        trains = any(wires.nodes[each].kind.startswith(OURS) for each in above[key])
        if trains and above[key].isdisjoint(found) and key not in needed:
            del shown[key]
    return shown


def _told(graph: Graph, page: object) -> dict[str, list[str]]:
    """What is found within the time there is. The rest is looked at all the same, for the next Run to know it."""
    checking = Checking(graph, _known())

    def work() -> None:
        with _at_it:
            checking.run()

    thread = threading.Thread(target=work, name="FluxDuel's check", daemon=True)
    thread.start()
    thread.join(MOST_SECONDS)
    left = checking.left
    if left:
        parts = [f"{_name(part.node.kind)} (node {part.node.key}): {part.what}" for part in left]
        log.warning("Run did not wait for all of its check, which took too long. Not checked: %s.", "; ".join(parts))
        if isinstance(page, str):
            PromptServer.instance.send_sync("fluxduel.unchecked", {"parts": parts}, page)
    return checking.found


def _name(kind: str) -> str:
    return host_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(kind, kind)


def problem_here() -> bool | str:
    """What the ``validate_inputs`` of the node that the host looks at answers: ``True``, or what is wrong with it."""
    context = get_executing_context()
    texts = found().get(context.node_id, ()) if context else ()
    return "\n".join(texts) or True


def found() -> Mapping[str, list[str]]:
    """Node -> what was found there, in the graph that the request at hand has brought."""
    return _found.get({})


def _is_output(kind: str) -> bool:
    return getattr(host_nodes.NODE_CLASS_MAPPINGS.get(kind), "OUTPUT_NODE", False) is True


def _known() -> Known:
    return Known(
        checkpoints=cache(checkpoints),
        loras=cache(lora_files),
        discriminators=cache(discriminator_files),
        folders=cache(training_folders),
        vae=_vae_file,
        folder_problem=training_folder_problem,
        prefix_problem=prefix_problem,
        left_out=written_folders,
        memory=_memory,
        runs=runs_folder(),
        output=Path(folder_paths.get_output_directory()),
    )


def _vae_file(label: str) -> Path | None:
    path = folder_paths.get_full_path("vae", label)
    return None if path is None else Path(path)


def _memory() -> Memory:
    device = memory.get_torch_device()
    if device.type not in ("cuda", "xpu"):
        return Memory(psutil.virtual_memory().total, device.type != "cpu")
    module = torch.get_device_module(device)
    # What this process holds the host gives back before a stage begins.
    return Memory(module.mem_get_info(device)[0] + module.memory_reserved(device), True)
