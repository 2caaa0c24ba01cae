"""Reports as Markdown that also reads well where nothing renders it: in a terminal, a log, a plain text node."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a renderer would take for markup within a line.
_MARKS = re.compile(r"([\\`*<|~\[\]]|(?<!\w)_|_(?!\w))")


def plain(text: str) -> str:
    """``text`` as Markdown that shows just that, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table of Markdown, its columns aligned by spaces; the first ``words`` columns to the left, others to the right.

    Cells are taken as they are: what a user has typed goes through ``plain`` first.
    """
    widths = [max(3, *map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = ["-" * width if place < words else "-" * (width - 1) + ":" for place, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        shown = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(shown)} |"

    return "\n".join([line(headings), line(rule), *map(line, rows)])


def bullets(sentences: Sequence[str]) -> str:
    """A list with one point a sentence."""
    return "\n".join(f"- {sentence}" for sentence in sentences)
