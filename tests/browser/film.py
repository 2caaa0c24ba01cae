"""A short film of both training charts, from a real run of the tiny graph: ``docs/panel.gif``.

``python -m fluxduel.tests.browser.film docs/panel.gif`` (three minutes on two CPU cores; ``CHROMIUM`` names a browser).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from fluxduel.tests.browser.conftest import ARGUMENTS
from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.test_two_stages import WORKFLOW
from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost
from fluxduel.tests.conftest import BROWSERS

LARGEST = 3_000_000
SHOWN = (740, 900)
# Below the editor's own bars.
BARS = 150
SCALE = 0.85
COLOURS = 255
# Long enough for curves with a shape, short enough for two minutes.
WIDGETS: dict[str, dict[str, Any]] = {
    "FluxDuelTrainDiffusionStage": {"steps": 120, "batch_size": 4, "preview_every": 40},
    "FluxDuelTrainAdversarialStage": {"steps": 80, "batch_size": 2, "preview_every": 40},
    "FluxDuelAdversarialOptions": {"discriminator_warmup": 20},
    "FluxDuelWatchOptions": {"validate_every": 20},
}
SECONDS_APART, TIMEOUT = 1.5, 900

# Both training nodes side by side, whatever lies between them in the template, and nothing else in view.
_SIDE_BY_SIDE = """([types, scale, bars]) => {
    let left = 100_000;
    for (const type of types) {
        const node = app.graph.nodes.find(node => node.type === type);
        node.pos = [left, 100_000];
        left += node.size[0] + 40;
    }
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [80 / scale - 100_000, (bars + 50) / scale - 100_000];
    app.canvas.setDirty(true, true);
}"""


def frame(page: Page) -> Image.Image:
    """What the page shows, without the editor's own bars."""
    width, height = SHOWN
    picture = page.screenshot(clip={"x": 60, "y": BARS, "width": width, "height": height})
    return Image.open(io.BytesIO(picture)).convert("RGB")


def filmed(editor: Editor, host: ComfyHost) -> list[Image.Image]:
    """Run the graph in the editor; frames while it trains, and the last one. ``RuntimeError`` where it fails."""
    before = set(host.get("/history"))
    editor.press_run()
    frames, deadline = [], time.monotonic() + TIMEOUT
    while set(host.get("/history")) == before:
        if time.monotonic() > deadline:
            raise RuntimeError(f"The graph was not finished after {TIMEOUT} s.\n{host.log_tail()}")
        editor.page.evaluate(_SIDE_BY_SIDE, [list(TRAINING_NODES.values()), SCALE, BARS])
        editor.page.wait_for_timeout(SECONDS_APART * 1000)
        frames.append(frame(editor.page))
    (entry,) = (entry for key, entry in host.get("/history").items() if key not in before)
    if entry["status"]["status_str"] != "success":
        raise RuntimeError(str(entry["status"]["messages"][-1])[:2000])
    editor.page.wait_for_timeout(1000)
    return [*frames, frame(editor.page)]


def moving(frames: list[Image.Image]) -> list[Image.Image]:
    """Without frames that equal the one before, in which nothing is seen to happen."""
    return [now for then, now in zip([None, *frames], frames, strict=False) if then is None or now != then]


def write(frames: list[Image.Image], path: Path) -> int:
    """One GIF with one palette; its bytes. ``RuntimeError`` above ``LARGEST``."""
    # Octree: the median cut gives pictures all colours and leaves curves that are a pixel wide none.
    palette = frames[-1].quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    drawn = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in frames]
    times = [250] * (len(drawn) - 1) + [4000]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=times, loop=0, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        raise RuntimeError(f"{path} has {size:,} bytes, more than {LARGEST:,}: fewer frames or colours.")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyHost(Path(base)) as host,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS) as browser,
    ):
        width, height = SHOWN
        editor = Editor(browser, host, nodes2=False, size=(width + 120, height + BARS + 80))
        editor.open(host.get(f"/api/workflow_templates/{PACK_NAME}/{WORKFLOW}.json"))
        editor.chart("adversarial").wait_for(state="attached")
        editor.set_widgets(WIDGETS)
        frames = moving(filmed(editor, host))
        print(f"{path}: {len(frames)} frames, {write(frames, path):,} bytes")


if __name__ == "__main__":
    main()
