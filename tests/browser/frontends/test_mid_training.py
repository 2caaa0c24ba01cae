"""While stage 1 trains: reload, a second tab, and *finish now*, after which the graph goes on to its end."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.frontends.cells import DARK, WINDOW, Cell, Figures
from fluxduel.tests.browser.frontends.template_list import open_from_list
from fluxduel.tests.browser.frontends.walk import TINY, cached, curve, finish_button, press_run, until
from fluxduel.tests.browser.test_two_stages import SHORT

pytestmark = pytest.mark.slow

RELOADS = 20
LONG = 100_000


def is_whole(visit: Editor, before: int) -> bool:
    """Whether the chart of the run that is going on has all steps up to ``before``, where it was when the page opened.

    Step 0 is a measurement before the first update. Of later ones the server sends two in a second, and the first may
    be here before what was asked for.
    """

    def went_on() -> bool:
        shown = curve(visit, "diffusion")
        return shown.get("step", 0) > before + 2 and shown["whole"]

    until(visit, went_on)
    shown = curve(visit, "diffusion")
    return shown["state"] == "running" and shown["steps"][: before + 1] == list(range(before + 1))


@pytest.mark.parametrize("cell", DARK, ids=str)
def test_reload_second_tab_and_finish(cell: Cell, visit: Editor, figures: Figures, browser: Browser) -> None:
    open_from_list(visit, TINY)
    visit.set_widgets(SHORT)
    visit.set_widgets({TRAINING_NODES["diffusion"]: {"steps": LONG, "seed": cell.seed + 1}})
    account = press_run(visit)
    until(visit, lambda: curve(visit, "diffusion").get("state") == "running")
    until(visit, lambda: len(curve(visit, "diffusion")["steps"]) > 10)

    whole = 0
    for _ in range(RELOADS):
        before = curve(visit, "diffusion")["step"]
        visit.reload()
        whole += is_whole(visit, before)
    figures.note(reloads=[whole, RELOADS])
    assert whole == RELOADS

    before = curve(visit, "diffusion")["step"]
    second = Editor(browser, visit.host, nodes2=cell.nodes2, size=WINDOW, window=visit.window)
    second.open(visit.page.evaluate("() => app.graph.serialize()"))
    figures.note(second_tab=is_whole(second, before))
    assert is_whole(second, before)

    # Asked in one tab, seen in the other.
    finish_button(second).click()
    finish_button(second).filter(has_text="sure").click()
    until(visit, account, 300)
    assert cached(account()) is not None
    for tab in (visit, second):
        until(tab, lambda tab=tab: curve(tab, "adversarial").get("state") == "finished")
        ended = curve(tab, "diffusion")
        assert ended["state"] == "finished" and ended["step"] < LONG and "early" in ended["message"]
    assert not second.problems
    figures.note(finish=True)
    second.page.close()
