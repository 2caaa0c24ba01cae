"""What the documents quote as a message is one: their tables of symptoms are searched for what was read on a screen."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import ROOT

ROOMS = ("training", "discriminator", "nodes", "headless")
# Stands in a template for what is filled in.
FILLED = "\0"


def templates() -> list[str]:
    """Every text in the product's code but its documentation; f-strings with ``FILLED`` for their values."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if node in documentation:
                    continue
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(_part(value) for value in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def _part(value: ast.expr) -> str:
    return value.value if isinstance(value, ast.Constant) else FILLED


def quoted(page: Path) -> Iterator[str]:
    """What stands in quotation marks in the first column of the page's tables."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield from re.findall(r'"([^"]+)"', line.split(" | ")[0])


def is_message(quote: str, texts: list[str]) -> bool:
    """Whether a text holds the ``quote``, in which ``...`` stands for anything."""
    pattern = re.compile(".*?".join(re.escape(part) for part in quote.split("...")), re.DOTALL)
    return any(pattern.search(text) for text in texts)


PAGES = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("web/docs/*.md"), ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_messages_in_tables_are_quoted_as_they_are(page: Path) -> None:
    texts = templates()
    wrong = [quote for quote in quoted(page) if not is_message(quote, texts)]
    assert not wrong, f"{page.relative_to(ROOT)} quotes what nothing says: {wrong}"


def test_there_is_something_to_compare_and_a_wrong_quote_is_found() -> None:
    quotes = list(quoted(ROOT / "docs" / "quickstart" / "FLUX.md"))
    assert len(quotes) >= 7
    texts = templates()
    assert is_message("No ... this time: out of memory", texts)
    for wrong in ("another process holds this run", "The checkpoint could not be written", "checkpoint is damaged"):
        assert not is_message(wrong, texts)
