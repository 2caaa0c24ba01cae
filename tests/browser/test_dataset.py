"""The training pictures inside their node: seen, captioned, added, in both renderers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from fluxduel.tests.browser.drawn import drawn
from fluxduel.tests.browser.editor import Editor
from fluxduel.training.data.demo_pictures import DEMO_LABEL

LOADER, ENCODER, SAVE = "FluxDuelLoadTrainingImages", "FluxDuelEncodeRealLatents", "FluxDuelSaveLoRA"

_GRAPH = """([folder, rest]) => {
    const make = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const load = make("FluxDuelLoadTrainingImages", 120, 60);
    const widget = load.widgets.find(widget => widget.name === "folder");
    widget.value = folder;
    widget.callback?.(folder);
    if (rest) {
        const tiny = make("FluxDuelLoadTinyFluxEncoders", 520, 60);
        const encode = make("FluxDuelEncodeRealLatents", 520, 200);
        const show = make("PreviewAny", 960, 60);
        const base = make("FluxDuelLoadFluxLoRA", 960, 200);
        const save = make("FluxDuelSaveLoRA", 960, 560);
        encode.widgets.find(widget => widget.name === "resolution").value = 128;
        for (const [out, input] of [[0, "images"], [1, "captions"], [4, "names"]]) load.connect(out, encode, input);
        tiny.connect(0, encode, "clip");
        tiny.connect(1, encode, "vae");
        encode.connect(1, show, 0);
        base.connect(0, save, 0);
    }
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
}"""

# What a drop from the desktop is to a page.
_DROP = """async (element, files) => {
    const transfer = new DataTransfer();
    for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
    for (const type of ["dragenter", "dragover", "drop"]) {
        element.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }
}"""


def write(folder: Path, count: int, size: tuple[int, int] = (96, 64), captions: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(values).resize(size).save(folder / f"picture {number:04}.png")
        if captions:
            (folder / f"picture {number:04}.txt").write_text(f"caption {number}")


@pytest.fixture
def folder(editor: Editor, request: pytest.FixtureRequest) -> Iterator[Path]:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    yield editor.host.base / "input" / f"seen {name}"


def open_sheet(editor: Editor, folder: str, *, whole: bool = False) -> Locator:
    """A graph with the node, and its grid."""
    editor.page.evaluate("() => app.graph.clear()")
    editor.next_frame()
    # The combo offers a folder that was made since the page was opened after a refresh.
    editor.page.evaluate("async () => { await app.refreshComboInNodes(); }")
    editor.page.evaluate(_GRAPH, [folder, whole])
    sheet = editor.page.get_by_label("Training pictures")
    sheet.wait_for()
    return sheet


def panel(sheet: Locator) -> Locator:
    return sheet.locator("xpath=..")


def tile(sheet: Locator, name: str) -> Locator:
    return sheet.locator(f'button[aria-label^="{name}"]')


def folder_widget(editor: Editor) -> str:
    return editor.page.evaluate(
        "type => app.graph.nodes.find(node => node.type === type).widgets.find(w => w.name === 'folder').value", LOADER
    )


def test_a_new_node_shows_the_demo_pictures(editor: Editor) -> None:
    sheet = open_sheet(editor, DEMO_LABEL)
    expect(tile(sheet, "alarm-clock.webp. 3d alarm clock")).to_be_visible()
    expect(panel(sheet)).to_contain_text("40 pictures")
    expect(tile(sheet, "alarm-clock.webp").locator("img")).to_have_js_property("complete", True)
    tile(sheet, "alarm-clock.webp").click()
    caption = editor.page.get_by_label("Caption of alarm-clock.webp")
    expect(caption).to_have_value("3d alarm clock")
    expect(caption).to_have_js_property("readOnly", True)
    expect(panel(sheet)).to_contain_text("Read only. These pictures come with the pack.")
    widths = sheet.evaluate("list => Array.from(list.querySelectorAll('img'), img => img.naturalWidth)")
    assert max(widths) == 128 and len(widths) == 40


def test_a_caption_is_typed_and_lies_beside_its_picture(editor: Editor, folder: Path) -> None:
    write(folder, 3)
    (folder / "picture 0001.txt").unlink()
    sheet = open_sheet(editor, folder.name)
    expect(panel(sheet)).to_contain_text("3 pictures, 1 without caption")
    bare = tile(sheet, "picture 0001.png")
    assert "No caption file beside it" in (bare.get_attribute("aria-label") or "")
    bare.click()
    # What is described is seen beside it.
    described = editor.page.get_by_role("img", name="picture 0001.png")
    expect(described).to_be_in_viewport(ratio=0.9)
    expect(described).to_have_js_property("complete", True)
    assert described.evaluate("image => image.naturalWidth") > 0
    text = editor.page.get_by_label("Caption of picture 0001.png")
    text.fill("Käse <b>&amp; Brot</b>")
    editor.page.keyboard.press("Control+Enter")
    expect(panel(sheet).get_by_text("saved", exact=True)).to_be_visible()
    assert (folder / "picture 0001.txt").read_text() == "Käse <b>&amp; Brot</b>"
    # As text: no letter of a caption is ever markup.
    expect(bare).to_contain_text("Käse <b>&amp; Brot</b>")
    expect(panel(sheet).get_by_role("status").first).to_have_text("3 pictures")
    # The keys ran no graph, and moving on saves, too.
    assert not editor.host.get("/queue")["queue_running"]
    text.fill("second thought")
    tile(sheet, "picture 0002.png").click()
    expect(editor.page.get_by_label("Caption of picture 0002.png")).to_have_value("caption 2")
    expect(editor.page.get_by_role("img", name="picture 0002.png")).to_be_visible()
    expect(described).to_have_count(0)
    expect(bare).to_contain_text("second thought")
    assert (folder / "picture 0001.txt").read_text() == "second thought"
    editor.page.keyboard.press("Escape")
    expect(editor.page.get_by_label("Caption of picture 0002.png")).to_be_hidden()


def test_a_caption_that_changed_elsewhere_is_not_written_over_at_once(editor: Editor, folder: Path) -> None:
    write(folder, 1)
    sheet = open_sheet(editor, folder.name)
    tile(sheet, "picture 0000.png").click()
    text = editor.page.get_by_label("Caption of picture 0000.png")
    expect(text).to_have_value("caption 0")
    (folder / "picture 0000.txt").write_text("theirs")
    text.fill("mine")
    editor.page.keyboard.press("Control+Enter")
    expect(panel(sheet)).to_contain_text("Changed elsewhere to “theirs”")
    assert (folder / "picture 0000.txt").read_text() == "theirs"
    editor.page.keyboard.press("Control+Enter")
    expect(panel(sheet).get_by_text("saved", exact=True)).to_be_visible()
    assert (folder / "picture 0000.txt").read_text() == "mine"


def files(folder: Path, names: list[str]) -> list[Any]:
    return [[name, list((folder / name).read_bytes())] for name in names]


def test_pictures_are_added_by_button_and_by_drop(editor: Editor, folder: Path, tmp_path: Path) -> None:
    write(folder, 1)
    write(tmp_path / "more", 4, size=(80, 80))
    (tmp_path / "more" / "notes.py").write_text("pass")
    sheet = open_sheet(editor, folder.name)
    expect(panel(sheet)).to_contain_text("1 picture")
    more = tmp_path / "more"
    with editor.page.expect_file_chooser() as chooser:
        panel(sheet).get_by_role("button", name="Add pictures").click()
    chooser.value.set_files([more / "picture 0001.png", more / "picture 0001.txt"])
    expect(panel(sheet)).to_contain_text("Files added: 2.")
    expect(tile(sheet, "picture 0001.png. caption 1")).to_be_visible()

    graph = editor.page.evaluate("() => app.graph.nodes.length")
    dropped = ["picture 0002.png", "picture 0002.txt", "picture 0000.png", "picture 0001.png", "notes.py"]
    sheet.evaluate(_DROP, files(more, dropped))
    expect(panel(sheet)).to_contain_text("Files added: 2. Already there: 1.")
    expect(panel(sheet)).to_contain_text("'notes.py' is neither a picture that is read here nor a caption")
    expect(panel(sheet)).to_contain_text("Another picture 0000.png is there already.")
    assert (folder / "picture 0000.png").read_bytes() != (more / "picture 0000.png").read_bytes()
    panel(sheet).get_by_role("button", name="Replace").click()
    expect(panel(sheet)).to_contain_text("Files added: 1.")
    assert (folder / "picture 0000.png").read_bytes() == (more / "picture 0000.png").read_bytes()
    expect(tile(sheet, "picture 0002.png. caption 2")).to_be_visible()
    # The editor itself has not taken the files for graphs or for pictures to load.
    assert editor.page.evaluate("() => app.graph.nodes.length") == graph
    assert not (folder / "notes.py").exists()


def test_a_drop_beside_the_sheet_is_taken_too(editor: Editor, folder: Path, tmp_path: Path) -> None:
    """Among the node's sockets: the editor itself would make the picture a node, or open it as a graph."""
    write(folder, 1)
    write(tmp_path / "more", 2, size=(80, 80))
    sheet = open_sheet(editor, folder.name)
    (node,) = drawn(editor)
    place = node.box[0] + 120, node.box[1] + 62
    editor.page.evaluate(
        """async ([[x, y], files]) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
            const where = {clientX: x, clientY: y, dataTransfer: transfer, bubbles: true, cancelable: true};
            for (const type of ["dragenter", "dragover", "drop"]) {
                document.elementFromPoint(x, y).dispatchEvent(new DragEvent(type, where));
                await new Promise(done => setTimeout(done, 200));
            }
        }""",
        [place, files(tmp_path / "more", ["picture 0001.png", "picture 0001.txt"])],
    )
    expect(panel(sheet)).to_contain_text("Files added: 2.")
    assert (folder / "picture 0001.png").exists()
    assert editor.page.evaluate("() => app.graph.nodes.length") == 1


def test_files_for_the_demo_pictures_ask_for_a_folder(editor: Editor, folder: Path, tmp_path: Path) -> None:
    write(tmp_path, 2)
    sheet = open_sheet(editor, DEMO_LABEL)
    expect(panel(sheet)).to_contain_text("40 pictures")
    sheet.evaluate(_DROP, files(tmp_path, ["picture 0000.png", "picture 0000.txt"]))
    expect(panel(sheet)).to_contain_text("A folder for the new files (2)")
    name = editor.page.get_by_label("Name of the new folder")
    name.fill("../outside")
    panel(sheet).get_by_role("button", name="Make").click()
    expect(panel(sheet)).to_contain_text("begins with a dot")
    name.fill(folder.name)
    editor.page.keyboard.press("Enter")
    expect(panel(sheet)).to_contain_text("Files added: 2.")
    expect(tile(sheet, "picture 0000.png. caption 0")).to_be_visible()
    assert folder_widget(editor) == folder.name and len(list(folder.iterdir())) == 2


def test_a_run_tells_buckets_and_what_is_held_out_and_reports_are_whole(editor: Editor, folder: Path) -> None:
    write(folder, 5, size=(300, 100))
    sheet = open_sheet(editor, folder.name, whole=True)
    before = set(editor.host.get("/history"))
    editor.page.get_by_role("button", name="Run", exact=True).first.click()
    editor.page.wait_for_function(
        """before => fetch('/history').then(answer => answer.json()).then(
            all => Object.entries(all).some(([key, entry]) => !before.includes(key) && entry.status.completed))""",
        arg=sorted(before),
        timeout=90_000,
    )
    expect(sheet.get_by_text("held out")).to_have_count(1)
    expect(sheet.get_by_text("256×64")).to_have_count(5)
    for node, parts in {
        LOADER: [f"Folder {folder}. Pictures: 5.", "Mask rule: none."],
        ENCODER: ["Training: 4. Held out: 1.", "Encodings found in the cache"],
        SAVE: [f"Saved {editor.host.base / 'output' / 'loras'}", "This LoRA is untrained"],
    }.items():
        for part in parts:
            text = editor.page.get_by_role("status").filter(has_text=part)
            expect(text).to_be_visible()
            # Nothing of it lies outside its own box, which scrolls where it is long, nor its box outside the node.
            box = text.bounding_box()
            right, bottom = editor.corner(node_id(editor, node))
            assert box is not None and box["y"] + box["height"] <= bottom + 5 and box["x"] + box["width"] <= right + 5
    assert not editor.problems
    # A page that is opened later has the texts, too.
    editor.reload()
    expect(editor.page.get_by_role("status").filter(has_text="Training: 4. Held out: 1.")).to_be_visible()


def node_id(editor: Editor, kind: str) -> str:
    return editor.page.evaluate("type => String(app.graph.nodes.find(node => node.type === type).id)", kind)


def test_the_sheet_follows_the_other_widgets(editor: Editor, folder: Path) -> None:
    write(folder, 2, captions=False)
    sheet = open_sheet(editor, folder.name)
    expect(panel(sheet)).to_contain_text("2 without caption")
    editor.page.evaluate(
        """([type, values]) => {
            const node = app.graph.nodes.find(node => node.type === type);
            for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find(widget => widget.name === name);
                widget.value = value;
                widget.callback?.(value);
            }
        }""",
        [LOADER, {"caption_rule": "file name", "trigger_word": "ohwx", "mask_rule": "mask files"}],
    )
    expect(tile(sheet, "picture 0000.png. ohwx, picture 0000")).to_be_visible()
    tile(sheet, "picture 0000.png").click()
    expect(panel(sheet)).to_contain_text("Read only. caption_rule makes the captions: file name.")
    expect(panel(sheet)).to_contain_text("2 pictures, 2 without mask")


def test_nothing_of_it_is_saved_or_queued(editor: Editor, folder: Path) -> None:
    write(folder, 1)
    open_sheet(editor, folder.name)
    saved = editor.page.evaluate("() => app.graph.serialize()")
    prompt = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    (node,) = saved["nodes"]
    assert node["widgets_values"] == [folder.name, "text file", "", "none"]
    (inputs,) = [node["inputs"] for node in prompt.values()]
    assert set(inputs) == {"folder", "caption_rule", "trigger_word", "mask_rule"}
    assert "fluxduel_dataset" not in json.dumps(saved) and "fluxduel_text" not in json.dumps(saved)


def test_a_thousand_pictures_come_as_they_are_scrolled_to(editor: Editor, folder: Path) -> None:
    write(folder, 1000, size=(24, 16))
    requests: list[str] = []
    editor.page.on("request", lambda request: requests.append(request.url) if "/dataset" in request.url else None)
    sheet = open_sheet(editor, folder.name)
    expect(panel(sheet)).to_contain_text("1000 pictures")
    expect(tile(sheet, "picture 0000.png")).to_be_visible()
    editor.page.wait_for_timeout(1500)
    first = [url for url in requests if "/thumbnail" in url]
    assert 3 <= len(first) <= 40, "only what is in view is asked for"
    assert sheet.locator("button").count() <= 100
    for _ in range(4):
        sheet.evaluate("list => { list.scrollTop = list.scrollHeight; }")
        editor.page.wait_for_timeout(400)
    shown = sheet.locator("button").count()
    assert 150 <= shown < 1000
    # The wheel scrolls the list and leaves the editor where it is.
    sheet.evaluate("list => { list.scrollTop = 0; }")
    scale = editor.page.evaluate("() => app.canvas.ds.scale")
    tile(sheet, "picture 0000.png").hover()
    # Newer editors give an element the wheel while the focus is in it.
    panel(sheet).get_by_role("status").first.click()
    tile(sheet, "picture 0000.png").hover()
    editor.page.mouse.wheel(0, 300)
    editor.page.wait_for_function("list => list.scrollTop > 100", arg=sheet.element_handle())
    assert editor.page.evaluate("() => app.canvas.ds.scale") == scale


def test_arrows_move_from_picture_to_picture(editor: Editor, folder: Path) -> None:
    write(folder, 6)
    sheet = open_sheet(editor, folder.name)
    tile(sheet, "picture 0000.png").focus()
    editor.page.keyboard.press("ArrowRight")
    expect(tile(sheet, "picture 0001.png")).to_be_focused()
    editor.page.keyboard.press("ArrowDown")
    editor.page.keyboard.press("ArrowLeft")
    editor.page.keyboard.press("Enter")
    expect(editor.page.get_by_label("Caption of")).to_be_visible()


def test_a_damaged_picture_says_so(editor: Editor, folder: Path) -> None:
    write(folder, 2)
    (folder / "picture 0001.png").write_bytes((folder / "picture 0001.png").read_bytes()[:60])
    sheet = open_sheet(editor, folder.name)
    expect(tile(sheet, "picture 0001.png")).to_contain_text("⚠ 1")
    tile(sheet, "picture 0001.png").click()
    expect(panel(sheet)).to_contain_text("cannot be read: it is cut short")
