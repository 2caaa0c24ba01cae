"""The templates as they open: nothing missing, nothing over another, all of it in the window, titles that can be read.

``FLUXDUEL_THUMBNAILS=1`` has them write the pictures that the list of templates shows.
"""

from __future__ import annotations

import io
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser

from fluxduel.demo.templates.__main__ import templates
from fluxduel.demo.workflow import api_graph
from fluxduel.tests.browser.drawn import Drawn, clashes, drawn, wait_until_still
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import PACK_NAME, ROOT, ComfyHost

TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
WINDOW = (1600, 1000)
# Height of a title's letters in pixels. Newer frontends draw titles of Nodes 2.0 in 12 units, not 14, and always leave
# a quarter of the window free: a graph of 1000 units comes to just this.
READABLE = 9.0
THUMBNAIL_WIDTH = 480


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def window(request: pytest.FixtureRequest, browser: Browser, comfy_host: ComfyHost) -> Iterator[tuple[str, Editor]]:
    """The editor in a window of usual size, in one renderer, then in the other."""
    editor = Editor(browser, comfy_host, nodes2=request.param == "nodes2", size=WINDOW)
    yield request.param, editor
    editor.page.close()


def open_template(editor: Editor, path: Path) -> dict[str, Any]:
    """Open a template as the list of templates does; the graph in its file, fetched from the host."""
    graph = editor.host.get(f"/api/workflow_templates/{PACK_NAME}/{quote(path.name)}")
    editor.page.evaluate(
        "([graph, name]) => app.loadGraphData(graph, true, true, name, { openSource: 'template' })", [graph, path.stem]
    )
    wait_until_still(editor)
    return graph


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_opens_readable(window: tuple[str, Editor], path: Path) -> None:
    renderer, editor = window
    open_template(editor, path)
    nodes = drawn(editor)
    scale = editor.page.evaluate("() => app.canvas.ds.scale")
    letters = min(node.text for node in nodes)
    print(f"\n{path.stem} | {renderer} | scale {scale:.2f} | titles {letters:.1f} px | {len(nodes)} nodes", end=" ")
    assert clashes(nodes) == []
    outside = [n.title for n in nodes if n.box[0] < 50 or n.box[1] < 40 or n.box[2] > WINDOW[0] or n.box[3] > WINDOW[1]]
    assert outside == []
    assert letters >= READABLE - 1e-3
    assert not editor.page.evaluate("() => app.graph.nodes.filter(n => n.has_errors && !n.constructor.nodeData).length")
    assert editor.problems == []
    if os.environ.get("FLUXDUEL_THUMBNAILS") and renderer == "classic":
        write_thumbnail(editor, nodes, path.with_suffix(".jpg"))


def write_thumbnail(editor: Editor, nodes: list[Drawn], path: Path) -> None:
    """A small picture of the graph, with what it is for."""
    picture = Image.open(io.BytesIO(editor.page.screenshot())).convert("RGB")
    left, top = (min(node.box[side] for node in nodes) - 8 for side in (0, 1))
    right, bottom = (max(node.box[side] for node in nodes) + 8 for side in (2, 3))
    picture = picture.crop((round(left), round(top) - 18, round(right), round(bottom)))
    height = round(picture.height * THUMBNAIL_WIDTH / picture.width)
    small = picture.resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS)
    (label,) = [template.label for template in templates() if template.name == path.stem]
    pen, middle = ImageDraw.Draw(small, "RGBA"), (THUMBNAIL_WIDTH // 2, height // 2)
    font = ImageFont.load_default(size=64)
    x0, y0, x1, y1 = pen.textbbox(middle, label, font=font, anchor="mm")
    pen.rounded_rectangle((x0 - 24, y0 - 20, x1 + 24, y1 + 20), 16, fill=(0, 0, 0, 190))
    pen.text(middle, label, font=font, anchor="mm", fill="white")
    small.save(path, quality=80, optimize=True)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_page_queues_what_the_template_says(window: tuple[str, Editor], path: Path) -> None:
    _, editor = window
    graph = open_template(editor, path)
    expected = api_graph(graph, editor.host.object_info())
    queued = editor.page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)")
    for key, node in expected.items():
        assert queued[key]["class_type"] == node["class_type"]
        assert queued[key]["inputs"] == node["inputs"], node["class_type"]
    assert queued.keys() == expected.keys()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_its_picture(comfy_host: ComfyHost, path: Path) -> None:
    name = quote(path.with_suffix(".jpg").name)
    with urllib.request.urlopen(f"{comfy_host.url}/api/workflow_templates/{PACK_NAME}/{name}", timeout=60) as answer:
        assert Image.open(answer).width == THUMBNAIL_WIDTH


def test_the_list_of_templates_shows_and_opens_them(window: tuple[str, Editor]) -> None:
    _, editor = window
    page = editor.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    # Behind it are the names of graphs that are open.
    shown = page.get_by_role("dialog").last
    shown.get_by_text(PACK_NAME, exact=True).first.click()
    for path in TEMPLATES:
        shown.get_by_text(path.stem, exact=True).first.wait_for()
    shown.get_by_text("Use a trained LoRA", exact=True).first.click()
    page.wait_for_function("() => app.graph.nodes.some(node => node.type === 'ModelSamplingFlux')")
