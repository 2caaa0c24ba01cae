"""The chart in each language that the nodes are translated to, with every text whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.test_chart import records, scored
from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.locales import LANGUAGES

# Names and units that are the same everywhere.
EVERYWHERE = {"LoRA", "GiB", "step", "ComfyUI", "stats", "jsonl", "min"}
_ADD = """type => {
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    node.pos = [120, 60];
    app.graph.add(node);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    return String(node.id);
}"""
_CUT_OFF = """panel => [...panel.querySelectorAll('span, div, button')].filter(element => {
    if (!element.offsetParent || !element.textContent || element.children.length) return false;
    const scrolls = getComputedStyle(element).overflowY === "auto";
    return element.scrollWidth > element.clientWidth + 1 && element.tagName !== "SPAN"
        || element.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1
        || !scrolls && element.scrollHeight > element.clientHeight + 1 && element.tagName !== "SPAN"
        || getComputedStyle(element).textOverflow === "ellipsis";
}).map(element => element.textContent)"""


@pytest.fixture(params=["en", *LANGUAGES])
def language(request: pytest.FixtureRequest, comfy_host: ComfyHost) -> Iterator[str]:
    comfy_host.post("/settings/Comfy.Locale", request.param)
    yield request.param
    comfy_host.post("/settings/Comfy.Locale", "en")


@pytest.mark.parametrize("nodes2", [False, True], ids=["classic", "nodes2"])
def test_the_panel_is_translated_and_nothing_is_cut_off(
    browser: Browser, comfy_host: ComfyHost, language: str, nodes2: bool
) -> None:
    editor = Editor(browser, comfy_host, nodes2=nodes2)
    try:
        node = editor.page.evaluate(_ADD, TRAINING_NODES["adversarial"])
        panel = editor.page.locator('canvas[role="img"]').first.locator("xpath=../..")
        told = [panel.inner_text()]
        facts = {"warmup": 3, "images": 123456, "peak_memory": 11.2 * 2**30, "best_step": 5, "best_score": 0.7812}
        run = records("adversarial", 8)
        for step in (2, 5, 8):
            run[step - 1] |= scored(1.234 / step)
        editor.train(node, "adversarial", run, total=123456, facts=facts)
        editor.state(node, "adversarial", notes=[[2, "1", True], [3, "2", True], [4, "3", False]], records=8)
        told += [panel.inner_text(), panel.locator("canvas").get_attribute("aria-label") or ""]
        assert panel.evaluate(_CUT_OFF) == []
        early = {"early": 123000, "reused": 1}
        editor.state(node, "adversarial", "finished", notes_before=3, facts=early, records=8)
        told.append(panel.inner_text())
        assert panel.evaluate(_CUT_OFF) == []
        titles = panel.evaluate("panel => [...panel.querySelectorAll('button')].map(each => each.title).join('\\n')")
        words = set(re.findall(r"[A-Za-z]{3,}", "\n".join([*told, titles]))) - EVERYWHERE
        assert (words == set()) == (language != "en"), words
        assert not editor.problems
    finally:
        editor.page.close()
        comfy_host.post("/settings/Comfy.VueNodes.Enabled", False)
