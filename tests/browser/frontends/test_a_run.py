"""The tiny graph by the Run button: the panel while it trains, what a change runs again, and what undo leaves."""

from __future__ import annotations

import pytest

from fluxduel.tests.browser.drawn import clashes, wait_until_still
from fluxduel.tests.browser.editor import TRAINING_NODES, Editor
from fluxduel.tests.browser.frontends.cells import CELLS, DARK, Cell, Figures
from fluxduel.tests.browser.frontends.contrast import least_contrast
from fluxduel.tests.browser.frontends.template_list import open_from_list
from fluxduel.tests.browser.frontends.walk import (
    TINY,
    box,
    cached,
    curve,
    node_id,
    press_run,
    title,
    type_number,
    until,
    value,
)
from fluxduel.tests.browser.test_two_stages import SHORT, check_charts
from fluxduel.tests.get_frontends import VERSIONS

pytestmark = pytest.mark.slow

DIFFUSION, ADVERSARIAL = TRAINING_NODES["diffusion"], TRAINING_NODES["adversarial"]
COMPARE = "FluxDuelCompareFluxLoRAs"
# Of text that is not large, by WCAG 2's criterion 1.4.3.
LEAST_CONTRAST = 4.5


def open_tiny(visit: Editor, cell: Cell) -> None:
    """The tiny graph with few steps, and a seed of this cell's own."""
    open_from_list(visit, TINY)
    visit.set_widgets(SHORT)
    visit.set_widgets({DIFFUSION: {"seed": cell.seed, "preview_every": 6}, ADVERSARIAL: {"seed": cell.seed}})


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_tiny_graph_runs_by_the_button(cell: Cell, visit: Editor, figures: Figures) -> None:
    open_tiny(visit, cell)
    account = press_run(visit)
    seen: dict[str, set[int]] = {stage: set() for stage in TRAINING_NODES}

    def watched() -> bool:
        for stage, steps in seen.items():
            shown = curve(visit, stage)
            if shown.get("state") == "running" and shown["steps"]:
                steps.add(shown["step"])
        return account() is not None

    until(visit, watched, 300)
    assert not {node_id(visit, kind) for kind in TRAINING_NODES.values()} & cached(account())
    nodes = wait_until_still(visit)
    check_charts(visit)
    contrast, worst = least_contrast(visit)
    figures.note(run=True, overlaps=len(clashes(nodes)), contrast=contrast)
    assert all(seen.values()), "a chart stood still while its stage trained"
    assert clashes(nodes) == []
    assert contrast >= LEAST_CONTRAST, worst


@pytest.mark.parametrize("cell", DARK, ids=str)
def test_a_change_runs_what_it_concerns_and_undo_loses_nothing(cell: Cell, visit: Editor, figures: Figures) -> None:
    open_tiny(visit, cell)
    until(visit, press_run(visit), 300)
    before = {stage: curve(visit, stage) for stage in TRAINING_NODES}
    places = box(visit, ADVERSARIAL)

    # A number of stage 2: stage 1 is as it was, and not run again.
    steps = value(visit, ADVERSARIAL, "steps")
    type_number(visit, ADVERSARIAL, "steps", steps + 2)
    account = press_run(visit)
    until(visit, account, 300)
    kept = cached(account())
    assert node_id(visit, DIFFUSION) in kept and node_id(visit, ADVERSARIAL) not in kept
    until(visit, lambda: curve(visit, "adversarial")["step"] == before["adversarial"]["step"] + 2)
    after = {stage: curve(visit, stage) for stage in TRAINING_NODES}
    assert after["diffusion"] == before["diffusion"] and len(after["adversarial"]["steps"]) > steps
    figures.note(stage_1_kept=True)

    # Undo takes back what was done last, first: a node that was moved, one that was deleted, the number. In Nodes 2.0
    # older editors do not count a number that is typed, and the oldest does not draw the node where it was.
    page = visit.page
    x, y = title(visit, DIFFUSION)
    place = box(visit, DIFFUSION)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 30, y + 20, steps=5)
    page.mouse.up()
    assert box(visit, DIFFUSION) != place
    undo(visit)
    if cell != Cell(VERSIONS[0], "nodes2", "dark"):
        until(visit, lambda: box(visit, DIFFUSION) == place, 10)
    page.mouse.click(*title(visit, DIFFUSION))
    page.keyboard.press("Delete")
    until(visit, lambda: not curve(visit, "diffusion").get("run"), 10)
    undo(visit)
    until(visit, lambda: curve(visit, "diffusion").get("run"), 10)
    if not cell.nodes2 or cell.frontend == VERSIONS[-1]:
        undo(visit)
        until(visit, lambda: value(visit, ADVERSARIAL, "steps") == steps, 10)
    wait_until_still(visit)
    assert {stage: curve(visit, stage) for stage in TRAINING_NODES} == after
    assert box(visit, ADVERSARIAL) == places
    sheet = page.get_by_role("group", name="Wipe between two pictures").locator("img")
    assert sheet.count() == 2, "undo has emptied the wipe"
    figures.note(undo=True)


def undo(visit: Editor) -> None:
    # The editor takes a step for done when the mouse has been up for a moment. Older ones give the focus back to the
    # field that was typed into, where the key would undo the typing.
    visit.page.wait_for_timeout(300)
    visit.page.evaluate("() => document.activeElement.blur()")
    visit.page.keyboard.press("Control+z")
    visit.page.wait_for_timeout(500)
