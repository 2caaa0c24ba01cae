"""The chart of a run that goes on: a page that never saw its beginning shows all of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.test_chart import colours
from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import STAGE_1, Graph, training_graph, write_pictures


def graph_of(folder: Path, page_node: str, **stage: Any) -> Graph:
    """Stage 1 under the id that its node has in the page, all other nodes under ids that the page has not."""
    graph = training_graph(folder.name, validate_every=0, batch_size=1, **stage)
    new = {old: page_node if old == STAGE_1 else f"api{old}" for old in graph}
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = [new[value[0]], value[1]]
    return {new[old]: node for old, node in graph.items()}


def records(host: ComfyHost, node: str, least: int) -> list[dict[str, float]]:
    """What the server has of the run of ``node``, once that is up to step ``least``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            found = host.get(f"/fluxduel/history?node={node}")["records"]
        except json.JSONDecodeError:  # no content: it has not begun
            found = []
        if found and found[-1]["step"] >= least:
            return found
        time.sleep(0.1)
    raise AssertionError(f"The training did not reach step {least}.\n{host.log_tail()}")


def test_the_page_fetches_what_it_did_not_see(classic: Editor, comfy_host: ComfyHost) -> None:
    folder = write_pictures(comfy_host.base / "input" / "resumed-test")
    (node,) = classic.add("diffusion")
    cancelled = comfy_host.queue(graph_of(folder, node, steps=100_000, seed=11))
    records(comfy_host, node, 40)
    comfy_host.interrupt()
    assert failure(comfy_host.wait(cancelled)) == f"interrupted in FluxDuelTrainDiffusionStage (node {node})"
    done = int(records(comfy_host, node, 40)[-1]["step"])
    # Another run takes its place, in the server's memory as in the page's.
    assert failure(comfy_host.wait(comfy_host.queue(graph_of(folder, node, steps=2, seed=12)))) is None
    classic.next_frame()
    assert "finished, update 2 of 2" in classic.label("diffusion")

    # While it goes on: at its end a page asks anyway for what was sent too densely.
    asked: list[str] = []
    classic.page.on("request", lambda request: asked.append(request.url))
    again = comfy_host.queue(graph_of(folder, node, steps=200_000, seed=11))
    found = records(comfy_host, node, done + 10)
    classic.page.wait_for_function(
        "text => document.querySelector('canvas[aria-label*=\"Training chart\"]').ariaLabel.includes(text)",
        arg="of 200000",
    )
    assert any(f"/fluxduel/history?node={node}&" in url for url in asked)
    assert [record["step"] for record in found] == list(range(1, len(found) + 1))
    classic.next_frame()
    assert classic.columns("diffusion", colours(classic)["diffusion_loss"]) > 0.5
    comfy_host.interrupt()
    assert failure(comfy_host.wait(again)) == f"interrupted in FluxDuelTrainDiffusionStage (node {node})"
