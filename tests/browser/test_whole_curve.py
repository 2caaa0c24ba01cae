"""A page that opens, reloads or looks in from a second tab in mid-training shows the whole curve, every time.

``FLUXDUEL_RELOADS=20`` reloads so often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route

from fluxduel.tests.browser.editor import SCRIPTS, Editor
from fluxduel.tests.browser.test_resumed_run import graph_of, records
from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import write_pictures

RELOADS = int(os.environ.get("FLUXDUEL_RELOADS", "3"))
_SHOWN = """async path => {
    const { shownRecord } = await import(path);
    const record = shownRecord(app.graph.nodes[0]);
    return record && { run: record.run, state: record.state, steps: record.steps, whole: record.whole };
}"""


def shown(editor: Editor) -> dict[str, Any]:
    """What the chart of the only node shows."""
    return editor.page.evaluate(_SHOWN, f"{SCRIPTS}/training_chart.js")


def wait(condition: Callable[[], Any], editor: Editor, seconds: float = 60) -> None:
    """Until ``condition()``, with the page at work meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{shown(editor)}"
        editor.page.wait_for_timeout(50)


def missing(editor: Editor, host: ComfyHost, node: str) -> list[int]:
    """Steps that the server had before the chart's latest one and that the chart has not."""
    chart = set(shown(editor)["steps"])
    history = [int(record["step"]) for record in host.get(f"/fluxduel/history?node={node}")["records"]]
    # Since the page was open, only as many steps are sent as an eye can follow: at least one in each second.
    assert max(chart) >= 1
    return [step for step in history if step < min(chart)]


@pytest.fixture
def running(classic: Editor, comfy_host: ComfyHost, request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    """The node of a run of stage 1 that is going on, and the folder of its pictures."""
    folder = write_pictures(comfy_host.base / "input" / request.node.name.strip("]").replace("[", "-"))
    (node,) = classic.add("diffusion")
    prompt = comfy_host.queue(graph_of(folder, node, steps=100_000, seed=3))
    try:
        records(comfy_host, node, 30)
        yield node, folder
    finally:
        # Left running, it would hold up every test after it.
        comfy_host.interrupt()
        comfy_host.wait(prompt)


def test_every_reload_shows_the_whole_curve(classic: Editor, comfy_host: ComfyHost, running: tuple[str, Path]) -> None:
    node, _ = running
    # The editor keeps the graph over a reload only once it was changed and stored.
    graph = classic.page.evaluate("() => app.graph.serialize()")
    for number in range(RELOADS):
        classic.reload()
        classic.open(graph)
        wait(lambda: shown(classic) and len(shown(classic)["steps"]) > 5, classic)
        before = max(shown(classic)["steps"])
        # Also after some events more, of which the first may be here before what was asked for.
        wait(lambda before=before: max(shown(classic)["steps"]) > before and shown(classic)["whole"], classic)
        record = shown(classic)
        assert record["state"] == "running", number
        assert record["steps"][: before // 2] == list(range(1, before // 2 + 1)), number
        assert missing(classic, comfy_host, node) == []


@pytest.mark.parametrize("nodes2", [False, True])
def test_a_second_tab_shows_the_whole_curve(
    classic: Editor, browser: Browser, comfy_host: ComfyHost, running: tuple[str, Path], nodes2: bool
) -> None:
    graph = classic.page.evaluate("() => app.graph.serialize()")
    second = Editor(browser, comfy_host, nodes2=nodes2)
    try:
        second.open(graph)
        wait(lambda: shown(second) and len(shown(second)["steps"]) > 20, second)
        assert shown(second)["steps"][:20] == list(range(1, 21)) and shown(second)["whole"]
        assert not second.problems
    finally:
        second.page.close()
        comfy_host.post("/settings/Comfy.VueNodes.Enabled", False)


class SlowNetwork:
    """The server is asked for each history at once, and the page gets the answers when they are let go."""

    def __init__(self, editor: Editor) -> None:
        self.held: list[tuple[Route, Any]] = []
        self.slow = True
        editor.page.route("**/fluxduel/history*", self._answer)

    def let_go(self) -> None:
        self.slow = False
        for route, answer in self.held:
            route.fulfill(response=answer)

    def _answer(self, route: Route) -> None:
        if self.slow:
            self.held.append((route, route.fetch()))
        else:
            route.continue_()


def test_history_that_arrives_after_events_is_merged(classic: Editor, running: tuple[str, Path]) -> None:
    network = SlowNetwork(classic)
    graph = classic.page.evaluate("() => app.graph.serialize()")
    classic.reload()
    classic.open(graph)
    # Events alone: the beginning is missing.
    wait(lambda: network.held and shown(classic) and len(shown(classic)["steps"]) > 3, classic)
    assert shown(classic)["steps"][0] > 1 and not shown(classic)["whole"]
    network.let_go()
    wait(lambda: shown(classic)["whole"], classic)
    assert shown(classic)["steps"][:30] == list(range(1, 31))
    classic.page.unroute("**/fluxduel/history*")


def test_a_late_answer_does_not_bring_an_older_run_back(
    classic: Editor, comfy_host: ComfyHost, running: tuple[str, Path]
) -> None:
    node, folder = running
    network = SlowNetwork(classic)
    graph = classic.page.evaluate("() => app.graph.serialize()")
    classic.reload()
    classic.open(graph)
    wait(lambda: len(network.held) > 0, classic)
    first = comfy_host.get(f"/fluxduel/history?node={node}")["run"]
    comfy_host.interrupt()
    again = comfy_host.queue(graph_of(folder, node, steps=100_000, seed=4))
    wait(lambda: shown(classic)["run"] not in ("", first) and len(shown(classic)["steps"]) > 3, classic)
    assert network.held[0][1].json()["run"] == first
    network.let_go()
    before = max(shown(classic)["steps"])
    wait(lambda: max(shown(classic)["steps"]) > before and shown(classic)["whole"], classic)
    assert shown(classic)["run"] != first and shown(classic)["steps"][0] == 1
    classic.page.unroute("**/fluxduel/history*")
    comfy_host.interrupt()
    comfy_host.wait(again)
