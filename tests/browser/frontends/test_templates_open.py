"""Every template, opened from the list: titles can be read, no node lies over another, all of it is in the window."""

from __future__ import annotations

import pytest

from fluxduel.tests.browser.drawn import clashes
from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.frontends.cells import CELLS, DARK, WINDOW, Cell, Figures
from fluxduel.tests.browser.frontends.template_list import open_from_list
from fluxduel.tests.browser.test_options import MOST_WIDGETS
from fluxduel.tests.browser.test_templates import TEMPLATES
from fluxduel.tests.browser.widgets import add_alone, pack_nodes, shown_widgets

pytestmark = pytest.mark.slow

READABLE = 9.0
# The editor's own bars at the left and at the top.
BARS = (50, 40)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_template_opens_readable(cell: Cell, visit: Editor, figures: Figures) -> None:
    titles: dict[str, float] = {}
    wrong: list[str] = []
    for path in TEMPLATES:
        nodes = open_from_list(visit, path.stem)
        titles[path.stem] = round(min(node.text for node in nodes), 1)
        wrong += [f"{path.stem}: {one} lies over {other}" for one, other in clashes(nodes)]
        wrong += [
            f"{path.stem}: {node.title} is not all in the window"
            for node in nodes
            if node.box[0] < BARS[0] or node.box[1] < BARS[1] or node.box[2] > WINDOW[0] or node.box[3] > WINDOW[1]
        ]
    figures.note(titles=titles, misplaced=len(wrong))
    assert wrong == []
    assert {title: size for title, size in titles.items() if size < READABLE} == {}


@pytest.mark.parametrize("cell", DARK, ids=str)
def test_no_node_shows_many_widgets(cell: Cell, visit: Editor, figures: Figures) -> None:
    counts = {kind: len(shown_widgets(visit, add_alone(visit, kind))) for kind in pack_nodes(visit.host)}
    figures.note(widgets=counts)
    assert {kind: count for kind, count in counts.items() if count > MOST_WIDGETS} == {}
    assert len(counts) > 15
