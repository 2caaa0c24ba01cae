"""The editor's own Cancel button at random moments, in previews too: it is never told as a failure."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.frontends.cells import DARK, Cell, Figures
from fluxduel.tests.browser.frontends.template_list import open_from_list
from fluxduel.tests.browser.frontends.walk import TINY, curve, press_run, until
from fluxduel.tests.browser.test_two_stages import SHORT
from fluxduel.tests.comfy_host import failure

pytestmark = pytest.mark.slow

MOMENTS = 10
LONG = 100_000
GOING = ("running", "cancelling")


@pytest.mark.parametrize("cell", DARK, ids=str)
def test_no_cancel_is_a_failure(cell: Cell, visit: Editor, figures: Figures) -> None:
    """Previews after each step, so that much of the time is the host's own VAE.

    By turns right after Run, in stage 1 and in stage 2.
    """
    moments = random.Random(cell.seed)
    cancel = visit.page.get_by_role("button", name="Cancel current run")
    open_from_list(visit, TINY)
    visit.set_widgets(SHORT)
    visit.set_widgets({"FluxDuelWatchOptions": {"validate_every": 1}})
    ended: Counter[str] = Counter()
    for moment in range(MOMENTS):
        within = (None, "diffusion", "adversarial")[moment % 3]
        often = {"seed": cell.seed + 10 + moment, "preview_every": 1, "steps": LONG}
        few = {"steps": 1, "preview_every": 0}
        visit.set_widgets({
            TRAINING_NODES["diffusion"]: often | few if within == "adversarial" else often,
            TRAINING_NODES["adversarial"]: often,
        })  # fmt: skip
        account = press_run(visit)
        if within:
            until(visit, lambda within=within: curve(visit, within).get("state") == "running")
        visit.page.wait_for_timeout(moments.uniform(200, 4000))
        cancel.click()
        while account() is None:
            # Where nothing runs yet the host forgets the press: then there is another.
            visit.page.wait_for_timeout(moments.uniform(1000, 4000))
            cancel.evaluate("button => button.disabled || button.click()")
        end = failure(account()) or "went to its end"
        ended[end.split(" (")[0]] += 1
        assert end.startswith("interrupted in "), f"moment {moment}: {end}"
        until(visit, lambda: all(curve(visit, stage).get("state") not in GOING for stage in TRAINING_NODES), 20)
        for stage in TRAINING_NODES:
            shown = curve(visit, stage)
            assert shown["state"] in ("", "finished", "stopped"), f"moment {moment}: {shown}"
        assert visit.page.get_by_role("dialog").count() == 0, f"moment {moment}"
    figures.note(cancelled=ended)
    assert "Exception during processing" not in visit.host.log
