"""From a clone to the first LoRA as a newcomer goes it, with its clicks and seconds counted.

``python -m fluxduel.tests.browser.first_lora`` clones this repository's last commit into a fresh ``custom_nodes``,
starts ComfyUI, opens the tiny template from the list, presses Run, and waits until Save tells a path (some minutes on
two CPU cores). ``COMFYUI_FRONT_END`` names the ``static`` folder of another frontend, ``CHROMIUM`` a browser.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Locator, sync_playwright

from fluxduel.tests.browser.conftest import ARGUMENTS
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import PACK_NAME, ROOT, ComfyHost
from fluxduel.tests.conftest import BROWSERS

TEMPLATE = "A first run on the tiny base"
TIMEOUT_MS = 1_200_000


class Journey:
    """Clicks, and the seconds that each part took."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, int, float]] = []
        self.clicks, self._began = 0, time.monotonic()

    def click(self, target: Locator) -> None:
        target.click()
        self.clicks += 1

    def done(self, part: str) -> None:
        now = time.monotonic()
        self.parts.append((part, self.clicks, now - self._began))
        self.clicks, self._began = 0, now

    def table(self) -> str:
        clicks, seconds = (sum(part[place] for part in self.parts) for place in (1, 2))
        rows = [*self.parts, ("in all", clicks, seconds)]
        return "\n".join([f"{'':34}{'clicks':>8}{'seconds':>9}", *(f"{name:34}{n:8}{s:9.1f}" for name, n, s in rows)])


def walk(folder: Path, nodes2: bool) -> Journey:
    """Go the whole way in ``folder``, which is empty. Raises Playwright's ``TimeoutError`` where it does not end."""
    journey = Journey()
    pack = folder / "custom_nodes" / PACK_NAME
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(pack)], check=True)
    journey.done("clone")
    front_end = os.environ.get("COMFYUI_FRONT_END")
    arguments = ("--front-end-root", front_end) if front_end else ()
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)))
    with ComfyHost(folder, pack=None, arguments=arguments) as host, sync_playwright() as playwright:
        journey.done("ComfyUI starts")
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        editor = Editor(browser, host, nodes2=nodes2, size=(1600, 1000))
        page = editor.page
        journey.done("the page opens")
        # Where a frontend has its button differs; the command is what the button runs.
        page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        journey.clicks += 1
        shown = page.get_by_role("dialog").last
        journey.click(shown.get_by_text(PACK_NAME, exact=True).first)
        journey.click(shown.get_by_text(TEMPLATE, exact=True).first)
        editor.chart("adversarial").wait_for()
        journey.done("the template is open")
        journey.click(page.get_by_role("button", name="Run", exact=True).first)
        saved = page.locator("[role=status]").filter(has_text=re.compile(r"Saved \S+\.safetensors")).first
        saved.wait_for(state="attached", timeout=TIMEOUT_MS)
        journey.done("Run, until Save tells the LoRA's path")
        path = re.search(r"Saved (\S+\.safetensors)", saved.text_content() or "")
        assert path is not None and Path(path[1]).is_file(), saved.text_content() or ""
        browser.close()
    return journey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes2", action="store_true", help="in Nodes 2.0, not the classic renderer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(walk(Path(folder), options.nodes2).table())


if __name__ == "__main__":
    main()
