"""A ComfyUI for each frontend, with a plain clone of the pack, and the editor in a cell of the table."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.frontends.cells import WINDOW, Cell, Figures
from fluxduel.tests.comfy_host import PACK_NAME, ROOT, ComfyHost
from fluxduel.tests.get_frontends import FOLDER


@pytest.fixture(scope="session")
def host_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ComfyHost]]:
    """The host that serves a frontend, started when it is first asked for."""
    hosts: dict[str, ComfyHost] = {}

    def host(frontend: str) -> ComfyHost:
        if frontend not in hosts:
            files = FOLDER / frontend
            if not files.is_dir():
                pytest.skip(f"frontend {frontend} is not there: make test-frontends fetches it")
            base = tmp_path_factory.mktemp("frontend")
            # What is committed, as a user gets it.
            clone = ["git", "clone", "--quiet", str(ROOT), str(base / "custom_nodes" / PACK_NAME)]
            subprocess.run(clone, check=True)
            hosts[frontend] = ComfyHost(base, pack=None, arguments=("--front-end-root", str(files)))
        return hosts[frontend]

    yield host
    for each in hosts.values():
        each.stop()


@pytest.fixture
def visit(cell: Cell, browser: Browser, host_of: Callable[[str], ComfyHost]) -> Iterator[Editor]:
    """A page of its own in the test's cell, whose console never speaks of this pack's scripts."""
    host = host_of(cell.frontend)
    editor = Editor(browser, host, nodes2=cell.nodes2, theme=cell.theme, size=WINDOW)
    yield editor
    editor.page.close()
    # Where the test failed while something was running, the next one must not find it.
    host.post("/queue", {"clear": True})
    while host.get("/queue")["queue_running"]:
        host.interrupt()
        time.sleep(0.5)
    assert not editor.problems, "\n".join(editor.problems)


@pytest.fixture
def figures(cell: Cell, request: pytest.FixtureRequest) -> Figures:
    """Where the test leaves what it measures."""
    return Figures(cell, request.function.__name__)
