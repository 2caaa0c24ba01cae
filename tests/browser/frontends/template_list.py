"""The editor's list of templates, as a user opens it."""

from __future__ import annotations

from fluxduel.tests.browser.drawn import Drawn, wait_until_still
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.comfy_host import PACK_NAME


def open_from_list(editor: Editor, title: str) -> list[Drawn]:
    """Open a template of this pack by its card; the nodes as they lie then."""
    page = editor.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    # Behind it are the names of graphs that are open.
    shown = page.get_by_role("dialog").last
    shown.get_by_text(PACK_NAME, exact=True).first.click()
    shown.get_by_text(title, exact=True).first.click()
    page.wait_for_function(
        "title => app.extensionManager.workflow.activeWorkflow?.filename?.includes(title)", arg=title
    )
    shown.wait_for(state="hidden")
    return wait_until_still(editor)
