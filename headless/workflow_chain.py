"""Which of a workflow's nodes make the run: those that a saved LoRA comes through, and what feeds them."""

from __future__ import annotations

from dataclasses import dataclass

from .workflow_graph import ADVERSARIAL, DIFFUSION, DISCRIMINATOR, ENCODE, LOAD, SAVE, STAGES, Node
from .workflow_reading import Reading


@dataclass(frozen=True)
class Chain:
    """The nodes that a LoRA comes through, from its file or its start: loader, stages, and who saves it."""

    load: Node | None
    stages: tuple[Node, ...]
    save: Node | None
    stopped_at: Node | None

    def last(self, kind: str) -> Node | None:
        return next((node for node in reversed(self.stages) if node.kind == kind), None)


def choose_chain(reading: Reading) -> Chain:
    nodes = reading.graph.values()
    saved = [_chain(reading, node) for node in nodes if node.kind == SAVE]
    chains = [chain for chain in saved if chain.stages]
    if not chains:
        chains = [_chain(reading, node) for node in nodes if node.kind in STAGES]
        reading.notes.append("No Save FLUX LoRA node gets a trained LoRA, so the output section has its defaults.")
    chosen = max(chains, key=lambda chain: (len({node.kind for node in chain.stages}), len(chain.stages)))
    _note_unused(reading, chosen)
    return chosen


def _chain(reading: Reading, end: Node) -> Chain:
    """Follows flux_lora back from ``end``."""
    stages: list[Node] = []
    node: Node | None = end if end.kind in STAGES else reading.source(end, "flux_lora")
    while node is not None and node.kind in STAGES and node not in stages:
        stages.insert(0, node)
        node = reading.source(node, "flux_lora")
    load = node if node is not None and node.kind == LOAD else None
    stopped_at = node if load is None else None
    return Chain(load, tuple(stages), end if end.kind == SAVE else None, stopped_at)


def _note_unused(reading: Reading, chain: Chain) -> None:
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


def encode_node(reading: Reading, adversarial: Node | None, diffusion: Node | None) -> Node | None:
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


def discriminator_node(reading: Reading, adversarial: Node | None) -> Node | None:
    node = reading.source(adversarial, "discriminator")
    if adversarial is None or (node is not None and node.kind == DISCRIMINATOR):
        return node
    reading.notes.append(
        f"{adversarial.label} gets its discriminator from no Latent Discriminator that runs, so the discriminator "
        "section has its defaults."
    )
    return None
