"""docs/OPTIONS.md says what the configurations say."""

from __future__ import annotations

import pytest

from fluxduel.headless.option_flags import ALIASES
from fluxduel.headless.options_document import COMMAND, DOCUMENT, EXCEPTIONS, NODES, document
from fluxduel.headless.run_config import RunConfig


def test_the_document_is_the_generated_one() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), f"docs/OPTIONS.md is out of date. Run {COMMAND}"


def test_every_option_has_one_row_with_its_help_and_its_flags() -> None:
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    for option, field in RunConfig.options():
        (row,) = [line for line in rows if f"`--{option}`" in line]
        cells = [cell.strip() for cell in row.replace("\\|", "¦").strip("|").split("|")]
        assert len(cells) == 6
        assert cells[0] == f"`{option.split('.')[1]}`"
        assert field.metadata["help"].replace("|", "¦") in cells[3]


@pytest.mark.parametrize("alias", ALIASES)
def test_every_short_name_is_in_the_table_and_beside_its_options(alias: str) -> None:
    text = document()
    assert text.count(f"`--{alias}`") >= 1 + len(ALIASES[alias])


def test_every_section_and_exception_is_there() -> None:
    assert NODES.keys() == RunConfig.sections().keys()
    assert EXCEPTIONS.keys() <= {option for option, _ in RunConfig.options()}
