"""What an open page costs the training: step times without a page, with the bare editor, and with the chart in it.

``python -m fluxduel.benchmarks.page`` (eight minutes on two CPU cores; ``CHROMIUM`` names a browser). One run of stage
1 on the built-in base, through which the three take turns: of two runs one is easily a tenth slower than the other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from fluxduel.tests.browser.conftest import ARGUMENTS
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.conftest import BROWSERS
from fluxduel.tests.host.two_stage_graph import LORA, STAGE_1, lora_node, training_graph, write_pictures

KINDS = ("none", "editor", "chart")
# Seconds that a page has to open, and another to close.
SETTLING = 4.0
ENDLESS = 1_000_000


def records(host: ComfyHost) -> list[dict[str, Any]]:
    """Those of the run so far; none before its first step."""
    try:
        return host.get(f"/fluxduel/history?node={STAGE_1}&columns=all")["records"]
    except json.JSONDecodeError:  # no content: it has not begun
        return []


def next_step(file: Path) -> tuple[int, float]:
    """Wait for the end of a step: its number, and when that was."""
    size = file.stat().st_size
    while file.stat().st_size == size:
        time.sleep(0.005)
    ended = time.perf_counter()
    return file.read_bytes().count(b"\n"), ended


def turn_to(editor: Editor, kind: str, graph: dict[str, Any]) -> None:
    """Show what the kind has."""
    editor.page.goto("about:blank" if kind == "none" else editor.host.url)
    if kind == "none":
        return
    editor.wait_until_ready()
    editor.page.evaluate("() => app.graph.clear()")
    if kind == "chart":
        editor.page.evaluate("graph => app.loadApiJson(graph, 'page')", graph)
        editor.chart("diffusion").wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each kind in each round")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    means: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyHost(Path(base)) as host,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS) as browser,
    ):
        folder = write_pictures(host.base / "input" / "page")
        editor = Editor(browser, host, nodes2=False)
        stage = {"steps": ENDLESS, "batch_size": 4, "validate_every": 0, "checkpoint_every": 0}
        graph = training_graph(folder.name, "loras/page", preview_every=0, **stage)
        graph[LORA] = lora_node(rank=32, alpha=32, targets="all")
        host.queue(graph)
        while not records(host):
            time.sleep(1)
        (file,) = (host.base / "output" / "fluxduel").glob("*/stats.jsonl")
        order = random.Random(0)
        for _ in range(arguments.rounds):
            means.append({})
            for kind in order.sample(KINDS, len(KINDS)):
                turn_to(editor, kind, graph)
                time.sleep(SETTLING)
                first, began = next_step(file)
                time.sleep(arguments.seconds)
                last, ended = next_step(file)
                means[-1][kind] = (ended - began) / (last - first)
                if kind == "chart" and f"of {ENDLESS}" not in editor.label("diffusion"):
                    raise RuntimeError("the page does not show the run")
        host.interrupt()
    for kind in KINDS:
        print(f"{kind}: {1000 * statistics.mean(each[kind] for each in means):.1f} ms/step")
    for kind in KINDS[1:]:
        ratios = [each[kind] / each["none"] for each in means]
        error = statistics.stdev(ratios) / len(ratios) ** 0.5
        print(
            f"{kind} / none: {statistics.mean(ratios):.4f}, standard error {error:.4f} "
            f"({len(ratios)} rounds, {min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
