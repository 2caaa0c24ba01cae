"""Markdown that renderers show as it was meant, and that is aligned where nothing renders it."""

from __future__ import annotations

from fluxduel.training.evidence.markdown import bullets, plain, table


def test_a_table_is_ruled_for_markdown_and_aligned_for_terminals() -> None:
    assert table(["LoRA", "steps"], [["base", "4"], ["stage 1", "25"]]).splitlines() == [
        "| LoRA    | steps |",
        "| ------- | ----: |",
        "| base    |     4 |",
        "| stage 1 |    25 |",
    ]


def test_names_are_no_markup() -> None:
    assert plain("my_lora_v2 at 0.7x, f(x) > 1, #1") == "my_lora_v2 at 0.7x, f(x) > 1, #1"
    assert plain("a|b\nc *d* `e` [f](g) <h> _i_ \\") == "a\\|b c \\*d\\* \\`e\\` \\[f\\](g) \\<h> \\_i\\_ \\\\"


def test_bullets_are_one_line_each() -> None:
    assert bullets(["One.", "Two."]) == "- One.\n- Two." and bullets([]) == ""
