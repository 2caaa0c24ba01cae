"""What an open page costs the training: step times without a page, with the bare editor, and with the chart in it.

``python -m fluxduel.benchmarks.page`` (five minutes on two CPU cores; ``CHROMIUM`` names a browser). The runs, of stage
1 on the built-in base, take turns, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from fluxduel.tests.browser.conftest import ARGUMENTS
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.conftest import BROWSERS
from fluxduel.tests.host.two_stage_graph import LORA, STAGE_1, lora_node, training_graph, write_pictures

# The first ones warm up what is compiled and cached.
LEFT_OUT = 20
KINDS = ("none", "editor", "chart")


def step_time(host: ComfyHost, folder: str, steps: int, seed: int) -> float:
    """Seconds a step of one run: the median."""
    stage = {"steps": steps, "batch_size": 4, "seed": seed, "validate_every": 0, "checkpoint_every": 0}
    graph = training_graph(folder, "loras/page", preview_every=0, **stage)
    graph[LORA] = lora_node(rank=32, alpha=32, targets="all")
    entry = host.wait(host.queue(graph))
    if failure(entry) is not None:
        raise RuntimeError(failure(entry))
    records = host.get(f"/fluxduel/history?node={STAGE_1}&columns=all")["records"]
    return statistics.median(record["seconds_per_step"] for record in records[LEFT_OUT:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyHost(Path(base)) as host,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS) as browser,
    ):
        folder = write_pictures(host.base / "input" / "page")
        editor = Editor(browser, host, nodes2=False)
        graph = training_graph(folder.name)
        ratios: dict[str, list[float]] = {kind: [] for kind in KINDS[1:]}
        for repeat in range(arguments.repeats):
            seconds = {}
            # Each is the first one in turn.
            for kind in (*KINDS[repeat % 3 :], *KINDS[: repeat % 3]):
                editor.page.goto("about:blank" if kind == "none" else host.url)
                if kind != "none":
                    editor.wait_until_ready()
                    editor.page.evaluate("() => app.graph.clear()")
                if kind == "chart":
                    editor.page.evaluate("graph => app.loadApiJson(graph, 'page')", graph)
                    editor.chart("diffusion").wait_for()
                seconds[kind] = step_time(host, folder.name, arguments.steps, seed=3 * repeat + KINDS.index(kind))
                if kind == "chart" and f"of {arguments.steps}" not in editor.label("diffusion"):
                    raise RuntimeError("the page does not show the run")
            for kind, found in ratios.items():
                found.append(seconds[kind] / seconds["none"])
            print(", ".join(f"{kind}: {1000 * value:.1f} ms/step" for kind, value in seconds.items()), flush=True)
        for kind, found in ratios.items():
            print(f"{kind} / none: {statistics.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})")


if __name__ == "__main__":
    main()
