"""The demo graph as a newcomer runs it: open it, press Run, and look at both charts.

``FLUXDUEL_SCREENSHOT=picture.png`` makes it a longer run and writes a picture of the graph at its end.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.test_chart import colours
from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost
from fluxduel.training.evidence.glossary import CURVES

WORKFLOW = "A%20first%20run%20on%20the%20tiny%20base"
SCREENSHOT = os.environ.get("FLUXDUEL_SCREENSHOT")
SHORT = {
    "FluxDuelTrainDiffusionStage": {"steps": 12, "batch_size": 2, "preview_every": 0},
    "FluxDuelTrainAdversarialStage": {"steps": 8, "batch_size": 2, "preview_every": 0},
    # With the demo's own anchor eight steps leave the flow loss on the axis, where no curve shows.
    "FluxDuelAdversarialOptions": {"discriminator_warmup": 4, "anchor": "pictures"},
    "FluxDuelNoiseOptions": {"guidance": 1.0},
    "FluxDuelWatchOptions": {"validate_every": 4},
    "FluxDuelCompareFluxLoRAs": {"step_counts": "1, 2"},
}  # fmt: skip
LONG = {
    "FluxDuelTrainDiffusionStage": {"steps": 300},
    "FluxDuelTrainAdversarialStage": {"steps": 200},
    "FluxDuelAdversarialOptions": {"discriminator_warmup": 50},
    "FluxDuelWatchOptions": {"validate_every": 50},
}
WIDGETS: dict[str, dict[str, Any]] = LONG if SCREENSHOT else SHORT
TIMEOUT = 3600 if SCREENSHOT else 400


@pytest.fixture(scope="module")
def finished(browser: Browser, comfy_host: ComfyHost) -> Iterator[Editor]:
    """The editor after a run of the demo graph, started with the editor's own button."""
    shape = {"size": (1500, 1400), "pixel_ratio": 1.25} if SCREENSHOT else {}
    editor = Editor(browser, comfy_host, nodes2=False, **shape)
    editor.open(comfy_host.get(f"/api/workflow_templates/{PACK_NAME}/{WORKFLOW}.json"))
    editor.chart("adversarial").wait_for()
    editor.set_widgets(WIDGETS)
    before = set(comfy_host.get("/history"))
    editor.press_run()
    wait_for_success(comfy_host, before)
    editor.next_frame()
    if SCREENSHOT:
        editor.screenshot(Path(SCREENSHOT), *TRAINING_NODES.values())
    yield editor
    editor.page.close()


def wait_for_success(host: ComfyHost, before: set[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        new = {key: entry for key, entry in host.get("/history").items() if key not in before}
        if new:
            (entry,) = new.values()
            assert entry["status"]["status_str"] == "success", json.dumps(entry["status"]["messages"][-1])[:2000]
            return
        time.sleep(0.5)
    pytest.fail(f"The graph was not finished after {TIMEOUT} s.\n{host.log_tail()}")


def check_charts(editor: Editor) -> None:
    """Both charts show their whole run, with every curve of its stage."""
    first, second = WIDGETS[TRAINING_NODES["diffusion"]], WIDGETS[TRAINING_NODES["adversarial"]]
    warmup = WIDGETS["FluxDuelAdversarialOptions"]["discriminator_warmup"]
    steps = {"diffusion": first["steps"], "adversarial": second["steps"] + warmup}
    for stage, count in steps.items():
        label = editor.label(stage)
        assert f"finished, update {count} of {count}" in label
        assert "flow loss" in label and "held-out flow loss" in label
    for name in ("adversarial_loss", "discriminator_loss", "real_accuracy", "fake_accuracy", "pair_accuracy", "score"):
        assert CURVES[name].label in editor.label("adversarial")
    # The watch has sampled with the LoRA: the state that is delivered has a line of its own.
    assert re.search(r"best: (the start|update \d+), score ", editor.panel("adversarial").inner_text())
    colour = colours(editor)
    assert editor.columns("diffusion", colour["diffusion_loss"]) > 0.5
    # Curves may hide each other in part, the accuracies of a small batch above all.
    for name in ("diffusion_loss", "adversarial_loss", "discriminator_loss"):
        assert editor.columns("adversarial", colour[name]) > 0.2, name


def test_both_charts_show_the_run(finished: Editor) -> None:
    check_charts(finished)
    # What the stage says of sampling. Eight updates may leave stage 1 the better, which is then delivered.
    improved = "best: update" in finished.panel("adversarial").inner_text()
    advice = "Sample with 4 steps, sampler euler, scheduler simple, " if improved else "Sample as with the base alone"
    assert advice in finished.page.locator("body").inner_text()
    assert not finished.problems


def test_the_curves_survive_a_reload(finished: Editor) -> None:
    """The editor restores the graph, and the charts fetch their runs from the server."""
    finished.reload()
    finished.page.wait_for_function(
        "() => document.querySelectorAll('canvas[aria-label*=\"finished\"]').length === 2"
    )
    check_charts(finished)
    assert not finished.problems


def test_the_curves_show_in_nodes_2(finished: Editor, browser: Browser, comfy_host: ComfyHost) -> None:
    """Another page, in the other renderer, opens the graph later and sees the same run."""
    editor = Editor(browser, comfy_host, nodes2=True)
    try:
        editor.open(finished.page.evaluate("() => app.graph.serialize()"))
        editor.page.wait_for_function(
            "() => document.querySelectorAll('canvas[aria-label*=\"finished\"]').length === 2"
        )
        editor.next_frame()
        check_charts(editor)
        assert editor.label("diffusion") == finished.label("diffusion")
        assert not editor.problems
    finally:
        editor.page.close()
