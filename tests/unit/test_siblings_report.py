"""The comparison on the distilled sibling: its ratios, and its place in the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxduel.benchmarks.quality.siblings import report

NUMBERS = {"frechet": 2.0, "retrieval": 0.5, "style": 0.5, "sharpness": 1.0}


MOVED = {"near": 0.03}


def result(style: str, seed: int, arm: str, paired: float, old: float) -> report.Result:
    whole = {"paired": paired, **NUMBERS}
    return {"style": style, "seed": seed, "images": 24, "arm": arm, "whole": whole, "old": {"paired": old, **NUMBERS}}


RESULTS = [
    result("3d", 1, "none", 2.0, 0.5), result("3d", 1, "base", 1.0, 1.0), result("3d", 1, "flow", 0.8, 0.6),
    result("3d", 1, "stage2", 0.6, 0.55),
    result("outline", 1, "none", 3.0, 0.4), result("outline", 1, "base", 1.0, 0.8),
    result("outline", 1, "flow", 2.0, 0.6), result("outline", 1, "stage2", 1.1, 0.4),
]  # fmt: skip


def test_each_lora_is_compared_with_the_best_of_its_own_style_and_seed() -> None:
    assert report.over_best(RESULTS, "stage2") == pytest.approx([0.6 / 0.8, 1.1 / 1.0])
    # Of the first both move more outside, of the second, too: no LoRA is left.
    assert report.over_best(RESULTS, "stage2", still=True) == pytest.approx([0.6 / 2.0, 1.1 / 3.0])
    assert report.over_best(RESULTS, "flow", still=True) == pytest.approx([0.8 / 0.8, 2.0 / 2.0])
    assert report.drift(RESULTS, "stage2") == pytest.approx([1.1, 1.0])
    assert report.over_best(RESULTS, "stage2", "frechet") == [1.0, 1.0]
    lines = report.section({"near": RESULTS, "far": RESULTS[:4]}, {"near": 0.03, "far": 0.2})
    assert [line for line in lines if line.startswith("###")] == [
        "### Near: 3% of the base's norm away", "### Far: 20% of the base's norm away",
    ]  # fmt: skip
    rows = [line for line in lines if line.startswith("| 3d | stage 2 on")]
    assert len(rows) == 2 and "| 0.600 | 2.0 | 0.50 | 0.50 | 1.00 | 1.100 | 0.50 |" in rows[0]


def test_the_page_keeps_what_others_wrote(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Experiments\n\n## Styles\n\ntext\n\n## What did it before\n\nmore\n")
    report.write({"near": RESULTS}, MOVED, page)
    once = page.read_text()
    assert once.index("## Styles") < once.index(report.TITLE) < once.index("## What did it before")
    report.write({"near": RESULTS}, MOVED, page)
    assert page.read_text() == once
    report.write({"near": RESULTS[:4]}, MOVED, page)
    assert "outline" not in page.read_text() and page.read_text().endswith("## What did it before\n\nmore\n")
