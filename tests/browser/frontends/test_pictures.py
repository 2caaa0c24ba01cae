"""The pictures in ``docs/``: the panel while stage 2 trains, the wipe, the sheet, and the whole graph after its run.

They are taken where ``FLUXDUEL_SHOTS`` names a folder, ``docs`` for those that are published.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from fluxduel.tests.browser.drawn import wait_until_still
from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.film import WIDGETS
from fluxduel.tests.browser.frontends.cells import WINDOW, Cell
from fluxduel.tests.browser.frontends.template_list import open_from_list
from fluxduel.tests.browser.frontends.walk import TINY, box, cached, curve, press_run, until
from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.get_frontends import VERSIONS

SHOTS = os.environ.get("FLUXDUEL_SHOTS")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SHOTS, reason="FLUXDUEL_SHOTS names no folder for pictures")]

CELL = Cell(VERSIONS[-1], "nodes2", "dark")
COMPARE = "FluxDuelCompareFluxLoRAs"
COLOURS = 192
MARGIN = 8

_FIT = "() => app.extensionManager.command.execute('Comfy.Canvas.FitView')"
_LOOK_AT = """types => {
    const nodes = app.graph.nodes.filter(node => types.includes(node.type));
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [90 - Math.min(...nodes.map(n => n.pos[0])), 130 - Math.min(...nodes.map(n => n.pos[1]))];
    app.canvas.setDirty(true, true);
}"""


def take(visit: Editor, name: str, area: tuple[float, float, float, float]) -> None:
    """A picture of a part of the page. ``area``: left, top, right, bottom."""
    left, top, right, bottom = area
    picture = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
    ratio = picture.width / visit.page.viewport_size["width"]
    cut = (left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)
    picture = picture.crop(tuple(round(max(0, side) * ratio) for side in cut))
    # Few colours: a graph has no more, and the file a fifth of the bytes.
    picture.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(Path(SHOTS) / f"{name}.png", optimize=True)


def look_at(visit: Editor, kind: str) -> tuple[float, float, float, float]:
    """Bring a node to the window's upper left, at its full size; where it is."""
    visit.page.evaluate(_LOOK_AT, [kind])
    wait_until_still(visit)
    return box(visit, kind)


def test_pictures_of_a_run(browser: Browser, host_of: Callable[[str], ComfyHost]) -> None:
    tall = Editor(browser, host_of(CELL.frontend), nodes2=True, size=(WINDOW[0], 1500))
    open_from_list(tall, TINY)
    tall.set_widgets(WIDGETS)
    account = press_run(tall)
    until(tall, lambda: curve(tall, "adversarial").get("step", 0) > 80, 600)
    area = look_at(tall, TRAINING_NODES["adversarial"])
    assert curve(tall, "adversarial")["state"] == "running"
    take(tall, "panel", area)
    until(tall, account, 600)
    cached(account())

    area = look_at(tall, COMPARE)
    wipe = tall.page.get_by_role("group", name="Wipe between two pictures")
    until(tall, lambda: wipe.locator("img").count() == 2)
    take(tall, "compare", area)
    # In a second tab of the usual size, which has it all from the server.
    usual = Editor(browser, tall.host, nodes2=True, size=WINDOW, window=tall.window)
    usual.page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
    usual.open(tall.page.evaluate("() => app.graph.serialize()"))
    wipe = usual.page.get_by_role("group", name="Wipe between two pictures")
    until(usual, lambda: wipe.locator("img").count() == 2 and curve(usual, "adversarial").get("state") == "finished")
    usual.page.evaluate(_FIT)
    usual.page.mouse.move(5, 990)
    nodes = wait_until_still(usual)
    lefts, tops, rights, bottoms = zip(*(node.box for node in nodes), strict=True)
    take(usual, "two_stage_graph", (min(lefts), min(tops) - 30, max(rights), max(bottoms)))
    assert not tall.problems and not usual.problems
    usual.page.close()
    tall.page.close()
