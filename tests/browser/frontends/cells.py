"""The cells of the table frontend × renderer × theme, and what was measured in each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fluxduel.tests.comfy_host import ROOT
from fluxduel.tests.get_frontends import VERSIONS

WINDOW = (1600, 1000)
FIGURES = ROOT / ".bench" / "frontend_figures.json"


@dataclass(frozen=True)
class Cell:
    """One frontend, renderer (``classic`` or ``nodes2``) and theme (``dark`` or ``light``)."""

    frontend: str
    renderer: str
    theme: str

    @property
    def nodes2(self) -> bool:
        return self.renderer == "nodes2"

    @property
    def seed(self) -> int:
        """A seed for the runs in this cell alone: of the same graph the host would run nothing again."""
        return 1000 * (1 + CELLS.index(self))

    def __str__(self) -> str:
        return f"{self.frontend} {self.renderer} {self.theme}"


class Figures:
    """What one test measures in one cell, for the table. What an earlier run of it measured there is forgotten."""

    def __init__(self, cell: Cell, test: str) -> None:
        self._cell, self._test = str(cell), test
        self._figures: dict[str, Any] = {}
        self.note()

    def note(self, **figures: Any) -> None:
        """Keep figures, also where the test fails later."""
        self._figures |= figures
        kept = kept_figures()
        kept.setdefault(self._cell, {})[self._test] = self._figures
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(kept, indent=1, sort_keys=True))


def kept_figures() -> dict[str, dict[str, dict[str, Any]]]:
    """By cell, test and name."""
    return json.loads(FIGURES.read_text()) if FIGURES.exists() else {}


CELLS = tuple(
    Cell(frontend, renderer, theme)
    for frontend in VERSIONS
    for renderer in ("classic", "nodes2")
    for theme in ("dark", "light")
)
# What takes minutes and cannot depend on colours.
DARK = tuple(cell for cell in CELLS if cell.theme == "dark")
