"""A Chromium, and an editor page in each of ComfyUI's two renderers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import ComfyHost

# For the host: with many small operations, threads waiting for each other cost more than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["classic", "nodes2"])
def editor(request: pytest.FixtureRequest, browser: Browser, comfy_host: ComfyHost) -> Iterator[Editor]:
    """The editor in one renderer, then in the other."""
    editor = Editor(browser, comfy_host, nodes2=request.param == "nodes2")
    yield editor
    editor.page.close()


@pytest.fixture(scope="module")
def classic(browser: Browser, comfy_host: ComfyHost) -> Iterator[Editor]:
    """The editor on its canvas, for what does not depend on the renderer."""
    editor = Editor(browser, comfy_host, nodes2=False)
    yield editor
    editor.page.close()


@pytest.fixture(autouse=True)
def quiet_console(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may make the console speak of this pack's scripts."""
    yield
    for name in ("editor", "classic"):
        if name in request.fixturenames:
            problems = request.getfixturevalue(name).problems
            assert not problems, "\n".join(problems)
