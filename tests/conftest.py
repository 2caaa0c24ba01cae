"""Fixtures that start a real ComfyUI, and the table at the end: what ran, and what did not."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.inside_host import host_or_skip
from fluxduel.tests.launch_comfy import TorchvisionSchemas

# diffusers imports torchvision through transformers, and this environment's may be one without operators.
sys.meta_path.insert(0, TorchvisionSchemas())

TESTS = Path(__file__).parent
LAYERS = ("unit", "engine", "host", "browser", "durability")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_configure() -> None:
    """Let tests of signals pass where the session ignores some, as in the background of a script and under nohup.

    Python starts the processes of tests with the same ones ignored. A handler that does nothing is not inherited, and
    the session itself still lives on.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def comfy_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    """One ComfyUI for all host and browser tests of the session.

    ``COMFYUI_FRONT_END``: the ``static`` folder of another frontend than the one that is installed.
    """
    host_or_skip()
    front_end = os.environ.get("COMFYUI_FRONT_END")
    arguments = ("--front-end-root", front_end) if front_end else ()
    with ComfyHost(tmp_path_factory.mktemp("comfyui"), arguments=arguments) as host:
        yield host


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium: ``CHROMIUM`` where set, else the first known name on PATH."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick layers first. Tests of host/, browser/ and durability/ get that mark, for ``-m "not browser"``."""
    items.sort(key=lambda item: LAYERS.index(_layer(item)))
    for item in items:
        if _layer(item) in ("host", "browser", "durability"):
            item.add_marker(_layer(item))


def _layer(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table of the layers, and in words what was left out."""
    counts: dict[str, Counter[str]] = {layer: Counter() for layer in LAYERS}
    reasons: dict[str, set[str]] = {layer: set() for layer in LAYERS}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            parts = report.nodeid.split("/")
            if len(parts) < 2 or parts[1] not in counts:
                continue
            counts[parts[1]][outcome] += 1
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                reasons[parts[1]].add(report.longrepr[2].removeprefix("Skipped: "))
    write = terminalreporter.write_line
    terminalreporter.section("layers")
    write(f"{'':12}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for layer, count in counts.items():
        write(f"{layer:12}{count['passed']:8}{count['failed'] + count['error']:8}{count['skipped']:8}")
    for layer in ("host", "browser"):
        if counts[layer]["skipped"]:
            write(f"{counts[layer]['skipped']} {layer} tests were not run: {'; '.join(sorted(reasons[layer]))}.")
