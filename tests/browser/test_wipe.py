"""The wipe in Compare FLUX LoRAs: run from the editor, dragged, moved with keys, there again after a reload."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Locator

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.test_two_stages import wait_for_success
from fluxduel.tests.comfy_host import ComfyHost

NODE = "FluxDuelCompareFluxLoRAs"
VALUES: dict[str, Any] = {
    "prompts": "a cat\na red flower", "names": "base, second", "step_counts": "1, 2", "samplers": "euler",
    "seeds": "3", "guidance": 1.0, "width": 96, "height": 64,
}  # fmt: skip

_BUILD = """([type, values]) => {
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const compare = add(type, 560, 60);
    const output = (node, name) => node.outputs.findIndex(output => output.name === name);
    const input = name => compare.inputs.findIndex(input => input.name === name);
    const lora = add("FluxDuelLoadFluxLoRA", 100, 60);
    const other = add("FluxDuelLoadFluxLoRA", 100, 460);
    const encoders = add("FluxDuelLoadTinyFluxEncoders", 100, 860);
    lora.connect(0, compare, input("flux_lora"));
    other.connect(0, compare, input("flux_lora_2"));
    encoders.connect(0, compare, input("clip"));
    encoders.connect(1, compare, input("vae"));
    for (const [name, value] of Object.entries(values)) {
        compare.widgets.find(widget => widget.name === name).value = value;
    }
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
    return String(compare.id);
}"""


def wipe(editor: Editor) -> Locator:
    return editor.page.get_by_role("group", name="Wipe between two pictures")


def slider(editor: Editor) -> Locator:
    return wipe(editor).get_by_role("slider")


def wait_for_pictures(editor: Editor) -> None:
    editor.page.wait_for_function(
        """() => {
            const images = [...document.querySelectorAll('[aria-label="Wipe between two pictures"] img')];
            return images.length === 2 && images.every(image => image.naturalWidth === 96);
        }"""
    )


def shown(editor: Editor) -> list[tuple[str, str]]:
    """Name and file of the picture at the left and at the right."""
    images = wipe(editor).locator("img").evaluate_all("images => images.map(image => [image.alt, image.src])")
    return [(alt, source) for alt, source in images]


def clip(editor: Editor) -> list[str]:
    return wipe(editor).locator("img").evaluate_all("images => images.map(image => image.style.clipPath)")


def places(editor: Editor) -> dict[str, list[float]]:
    """Where each node stands."""
    return editor.page.evaluate("() => Object.fromEntries(app.graph.nodes.map(node => [node.id, [...node.pos]]))")


@pytest.fixture(scope="module")
def compared(editor: Editor, comfy_host: ComfyHost) -> Editor:
    """The editor after a run of the node, started with the editor's own button."""
    editor.page.evaluate("() => app.graph.clear()")
    editor.next_frame()
    editor.page.evaluate(_BUILD, [NODE, VALUES])
    wipe(editor).wait_for()
    assert "Run the graph to wipe" in wipe(editor).inner_text()
    before = set(comfy_host.get("/history"))
    editor.page.get_by_role("button", name="Run", exact=True).first.click()
    wait_for_success(comfy_host, before)
    wait_for_pictures(editor)
    return editor


def test_two_pictures_lie_over_each_other(compared: Editor) -> None:
    assert "Run the graph" not in wipe(compared).inner_text()
    left, right = shown(compared)
    assert left[0] == "base, 1 step, a cat" and right[0] == "second, 1 step, a cat" and left[1] != right[1]
    boxes = [image.bounding_box() for image in wipe(compared).locator("img").all()]
    assert boxes[0] == boxes[1] and boxes[0] is not None
    assert boxes[0]["width"] > 220 and boxes[0]["width"] / boxes[0]["height"] == pytest.approx(1.5, rel=0.02)


def test_any_two_of_them_can_be_chosen(compared: Editor) -> None:
    page = wipe(compared)
    page.get_by_label("LoRA at the right").select_option("base")
    page.get_by_label("Column at the right").select_option("2 steps · a red flower")
    assert shown(compared)[1][0] == "base, 2 steps, a red flower"
    assert "base" in (slider(compared).get_attribute("aria-valuetext") or "")
    wait_for_pictures(compared)
    page.get_by_label("LoRA at the right").select_option("second")
    page.get_by_label("Column at the right").select_option("1 step · a cat")
    assert shown(compared)[1][0] == "second, 1 step, a cat"


def test_the_line_is_dragged_and_moved_with_keys(compared: Editor) -> None:
    box = wipe(compared).locator("img").first.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    before = places(compared)
    compared.page.mouse.move(box["x"] + 0.5 * box["width"], middle)
    compared.page.mouse.down()
    compared.page.mouse.move(box["x"] + 0.25 * box["width"], middle, steps=4)
    compared.page.mouse.up()
    assert float(slider(compared).input_value()) == pytest.approx(25, abs=2)
    left, right = clip(compared)
    assert left.startswith("inset(0") and right.startswith("inset(0") and left != right
    # The line follows the pointer no longer, and the node has stayed where it was.
    compared.page.mouse.move(box["x"] + 0.9 * box["width"], middle)
    assert float(slider(compared).input_value()) == pytest.approx(25, abs=2)
    compared.page.keyboard.press("ArrowRight")
    assert 25 < float(slider(compared).input_value()) < 30
    compared.page.keyboard.press("End")
    assert clip(compared)[1].replace("px", "") == "inset(0 0 0 100%)" and float(slider(compared).input_value()) == 100
    assert places(compared) == before


def test_the_whole_sheet_is_opened_large_and_zoomed(compared: Editor) -> None:
    compared.page.get_by_role("button", name="whole sheet").focus()
    compared.page.keyboard.press("Enter")
    large = compared.page.get_by_role("dialog", name="All pictures of the comparison")
    picture = large.get_by_role("img")
    compared.page.wait_for_function("() => document.querySelector('dialog img')?.naturalWidth > 200")

    def width() -> float:
        box = picture.bounding_box()
        assert box is not None
        return box["width"]

    whole = width()
    before = places(compared)
    large.get_by_role("button", name="+").click()
    assert width() == pytest.approx(1.4 * whole, rel=0.01)
    picture.click()
    picture.hover()
    compared.page.mouse.wheel(0, -200)
    large.get_by_role("button", name="whole").click()
    assert width() <= whole
    # A press zooms in where it is; another one shows all of it again.
    picture.click()
    assert width() == pytest.approx(2.8 * whole, rel=0.02)
    for _ in range(4):
        large.get_by_role("button", name="+").click()
    # Dragged, it moves, and neither zooms nor moves a node.
    box = large.bounding_box()
    assert box is not None
    compared.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    scrolled = "() => { const box = document.querySelector('dialog img').parentElement; return box.scrollTop; }"
    at = compared.page.evaluate(scrolled)
    compared.page.mouse.down()
    compared.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 40, steps=4)
    compared.page.mouse.up()
    assert compared.page.evaluate(scrolled) == pytest.approx(at + 40, abs=2)
    compared.page.keyboard.press("Escape")
    large.wait_for(state="detached")
    assert places(compared) == before


def test_the_wipe_itself_is_opened_large(compared: Editor) -> None:
    small = wipe(compared).locator("img").first.bounding_box()
    wipe(compared).get_by_role("button", name="enlarge").click()
    large = compared.page.get_by_role("dialog", name="Wipe between two pictures")
    compared.next_frame()
    enlarged = large.locator("img").first.bounding_box()
    assert small and enlarged and enlarged["width"] > 2 * small["width"]
    large.get_by_role("slider").press("Home")
    large.get_by_role("button", name="close").click()
    large.wait_for(state="detached")
    compared.next_frame()
    assert wipe(compared).locator("img").first.bounding_box() == small
    assert float(slider(compared).input_value()) == 0


def test_line_and_choice_outlive_undo(compared: Editor) -> None:
    """The editor makes all nodes anew when it undoes."""
    wipe(compared).get_by_label("Column at the right").select_option("2 steps · a red flower")
    slider(compared).press("End")
    compared.open(compared.page.evaluate("() => app.graph.serialize()"))
    wait_for_pictures(compared)
    assert shown(compared)[1][0] == "second, 2 steps, a red flower"
    assert float(slider(compared).input_value()) == 100
    wipe(compared).get_by_label("Column at the right").select_option("1 step · a cat")


def test_what_was_chosen_stays_through_another_run(compared: Editor) -> None:
    wipe(compared).get_by_label("Column at the left").select_option("2 steps · a cat")
    # As many rows, and columns of other names.
    picture = {"filename": "none.png", "subfolder": "", "type": "temp"}
    cells = [[picture] * 2] * 2
    group = {"prompt": "a dog", "columns": ["4 steps", "9 steps"], "cells": cells}
    node = compared.page.evaluate("type => String(app.graph.nodes.find(node => node.type === type).id)", NODE)
    comparison = {"rows": ["base", "other"], "groups": [group]}
    compared.send("executed", node=node, display_node=node, output={"fluxduel_comparison": [comparison]})
    assert shown(compared)[0][0] == "base, 9 steps, a dog"
    # Its pictures are no longer there.
    compared.page.wait_for_function(
        """() => document.querySelector('[aria-label="Wipe between two pictures"]').innerText.includes("no longer")"""
    )


def test_nothing_of_it_is_in_workflow_or_prompt(compared: Editor) -> None:
    saved = json.dumps(compared.page.evaluate("() => app.graph.serialize()"))
    prompt = json.dumps(compared.page.evaluate("async () => (await app.graphToPrompt()).output"))
    assert "wipe" not in saved.lower() and "wipe" not in prompt.lower()
    assert "compare-" not in saved and "compare-" not in prompt


def test_it_is_there_again_after_a_reload(compared: Editor) -> None:
    compared.reload()
    wipe(compared).wait_for()
    wait_for_pictures(compared)
    assert [alt for alt, _ in shown(compared)] == ["base, 1 step, a cat", "second, 1 step, a cat"]
    assert wipe(compared).get_by_role("button", name="whole sheet").is_enabled()


def test_another_graph_with_a_node_of_that_id_shows_nothing(compared: Editor) -> None:
    compared.page.evaluate("() => app.loadGraphData({...app.graph.serialize(), id: crypto.randomUUID()})")
    compared.page.wait_for_timeout(500)
    assert "Run the graph to wipe" in wipe(compared).inner_text()


def test_a_graph_whose_results_are_cached_shows_them(compared: Editor, comfy_host: ComfyHost) -> None:
    """The host sends what another graph's node of the same inputs has shown, and the wipe finds it after a reload."""
    before = set(comfy_host.get("/history"))
    compared.page.get_by_role("button", name="Run", exact=True).first.click()
    wait_for_success(comfy_host, before)
    wait_for_pictures(compared)
    compared.reload()
    wipe(compared).wait_for()
    wait_for_pictures(compared)


def test_a_removed_node_is_forgotten(compared: Editor) -> None:
    node = compared.page.evaluate("type => String(app.graph.nodes.find(node => node.type === type).id)", NODE)
    compared.page.evaluate("() => app.graph.clear()")
    wipe(compared).wait_for(state="detached")
    comparison = {"rows": ["base"], "groups": []}
    compared.send("executed", node=node, display_node=node, output={"fluxduel_comparison": [comparison]})
    assert wipe(compared).count() == 0
