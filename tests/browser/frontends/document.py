"""Write ``docs/FRONTENDS.md`` from what the tests of this folder measured: ``python -m`` this module.

A cell that was not gone through since ``make clean`` is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fluxduel.tests.browser.frontends.cells import CELLS, DARK, Cell, kept_figures
from fluxduel.tests.comfy_host import ROOT
from fluxduel.tests.get_frontends import VERSIONS

DOCUMENT = ROOT / "docs" / "FRONTENDS.md"
RENDERERS = {"classic": "canvas", "nodes2": "Nodes 2.0"}
MISSING = "–"

INTRODUCTION = """# Frontends

What a user does in ComfyUI's editor, done by a real browser on a real host with a plain clone of the pack, in
frontends {versions}, on the canvas and in Nodes 2.0, in the dark and in the light theme, in a window of 1600 × 1000.
`make test-frontends` goes through it and writes this page; `make test-frontends SHOTS=docs` takes the pictures anew.
The runs are of the tiny graph, with few steps and fixed seeds.

## What was done

{done}

A dash: not gone through since the pack was changed.

- *Title*: height of the smallest title's line as a template opens from the list of templates, in pixels; the least of
  all templates and both themes. *Misplaced*: nodes that lie over another or reach out of the window then.
- *Run*: the tiny graph by the Run button, charts that move while it trains and hold the whole run at its end; in both
  themes. *Overlaps*: nodes that lie over another after the run. *Contrast*: the least of the pack's own texts against
  their ground.
- In the dark theme alone: *reloads* in mid-training after which the chart has the whole curve, and a *second tab*
  beside it; *finish now*, pressed in the one and seen in the other, after which the graph goes on to its end;
  *cancel* by the editor's own button at random moments, previews after every step, told as a cancel and never as a
  failure; a *change* of stage 2's steps, which runs stage 2 again and leaves stage 1; *undo* of a moved node, of a
  deleted one and of that change, charts and pictures kept. (In Nodes 2.0, 1.32.9 and 1.45.21 do not count a typed
  number as a step to undo, and 1.32.9 does not draw a moved node where it was: these are left out there.)

## Titles of each template

{titles}

Pixels, dark theme.

## Widgets that a node shows

{widgets}

As it is added to a graph. The rest is behind *more options*, or *Show advanced inputs* where the host has that.
"""

BESIDE = """
## Beside other packs, and in other folders

By hand, frontends 1.32.9 and 1.58.1, both renderers, once each, beside rgthree-comfy (13b4399), KJNodes (3f20054),
ComfyUI-Manager (f39cbd5), Custom-Scripts (609f3af) and Use Everywhere (a3952a4): the tiny graph opened, ran to its
end with a reroute of the host and one of rgthree in the LoRA's wire and the latents broadcast by *Anything
Everywhere*, and had its curves after a reload. The console said nothing of this pack's scripts. Menus of a node and
of its chart held the entries of all packs.

The folder in `custom_nodes` may have another name, and the path above it blanks and letters of any alphabet. The name
itself has to be of plain letters, digits, `-`, `_` and `.`: ComfyUI serves no page files of any pack from a folder
with a blank or other letters in its name (seen with aiohttp 3.14).

## Pictures

{pictures}
"""
# Names in docs/ and what they show; frontend, renderer and run are those of test_pictures.
PICTURES = {
    "panel.png": "The panel while stage 2 trains",
    "compare.png": "Compare FLUX LoRAs after a run",
    "two_stage_graph.png": "The tiny graph",
}


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(head), *(list(map(str, row)) for row in rows)]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def done(figures: dict[str, dict[str, Any]]) -> str:
    """One row for each frontend and renderer; what was measured in both themes is worst of both."""

    def of(cell: Cell, name: str, worst: Callable[[list[Any]], Any], text: Callable[[Any], str] = str) -> str:
        cells = [each for each in CELLS if (each.frontend, each.renderer) == (cell.frontend, cell.renderer)]
        found = [figures[str(each)][name] for each in cells if name in figures.get(str(each), {})]
        return text(worst(found)) if found else MISSING

    def yes(found: list[Any]) -> str:
        return "yes" if all(found) else "no"

    head = ("Frontend", "Title", "Misplaced", "Run", "Overlaps", "Contrast", "Reloads", "Second tab", "Finish now",
            "Cancel", "Change", "Undo")  # fmt: skip
    rows = [
        (
            f"{cell.frontend}, {RENDERERS[cell.renderer]}",
            of(cell, "titles", lambda found: min(min(each.values()) for each in found)),
            of(cell, "misplaced", max),
            of(cell, "run", lambda found: f"{sum(found)} of 2"),
            of(cell, "overlaps", max),
            of(cell, "contrast", min),
            of(cell, "reloads", min, lambda found: f"{found[0]} of {found[1]}"),
            of(cell, "second_tab", yes),
            of(cell, "finish", yes),
            of(cell, "cancelled", lambda found: sum(found[0].values()), lambda count: f"{count} of {count}"),
            of(cell, "stage_1_kept", yes),
            of(cell, "undo", yes),
        )
        for cell in DARK
    ]
    return table(head, rows)


def by_cell(figures: dict[str, dict[str, Any]], name: str, label: Callable[[str], str]) -> str:
    """One row for each template or node, one column for each frontend and renderer."""
    found = {cell: figures.get(str(cell), {}).get(name, {}) for cell in DARK}
    rows = sorted({row for each in found.values() for row in each})
    if not rows:
        return "Not measured since the pack was changed."
    head = ("", *(f"{cell.frontend}, {RENDERERS[cell.renderer]}" for cell in DARK))
    return table(head, [(label(row), *(each.get(row, MISSING) for each in found.values())) for row in rows])


def main() -> None:
    figures = {
        cell: {name: value for found in tests.values() for name, value in found.items()}
        for cell, tests in kept_figures().items()
    }
    versions = f"{', '.join(VERSIONS[:-1])} and {VERSIONS[-1]}"
    text = INTRODUCTION.format(
        versions=versions,
        done=done(figures),
        titles=by_cell(figures, "titles", str),
        widgets=by_cell(figures, "widgets", lambda kind: f"`{kind.removeprefix('FluxDuel')}`"),
    )
    taken = [f"![{what}]({name})" for name, what in PICTURES.items() if (DOCUMENT.parent / name).exists()]
    DOCUMENT.write_text(text + BESIDE.format(pictures="\n\n".join(taken)), encoding="utf-8")
    print(DOCUMENT)


if __name__ == "__main__":
    main()
