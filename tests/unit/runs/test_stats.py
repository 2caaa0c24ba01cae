"""``stats.jsonl``: what is in it, and what becomes of a file that a disk or a user has spoiled."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fluxduel.training.runs.stats import Stats, parsed


def filled(path: Path | None) -> Stats:
    stats = Stats(path)
    stats.record(1, 3, {"loss": 0.5})
    stats.note(1, "a word with \u2028 and \n in it")
    stats.record(2, 3, {"loss": math.nan, "grad_norm": 1e-30})
    return stats


def test_a_line_for_each_step_and_each_note_at_once(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    stats = filled(path)
    assert path.read_text() == stats.text and len(path.read_text().split("\n")) == 4
    records, notes = parsed(path.read_text())
    assert records[0] == {"step": 1, "total": 3, "loss": 0.5} and records[1]["grad_norm"] == 1e-30
    assert math.isnan(records[1]["loss"])
    assert notes == [(1, "a word with \u2028 and \n in it")] == stats.notes


def test_a_sitting_that_goes_on_begins_with_the_checkpoints_text(tmp_path: Path) -> None:
    """Lines from after the checkpoint are done again, and are not there twice."""
    path = tmp_path / "stats.jsonl"
    earlier = "".join(filled(path).text.splitlines(keepends=True)[:1])
    stats = Stats(path, earlier)
    assert path.read_text() == earlier
    assert [record["step"] for record in stats.records] == [1] and stats.notes == []
    stats.record(2, 3, {"loss": 0.25})
    assert path.read_text() == stats.text == earlier + '{"step": 2, "total": 3, "loss": 0.25}\n'


def test_a_folder_that_is_gone_for_a_while_costs_no_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stats = Stats(folder / "stats.jsonl")
    stats.record(1, 3, {"loss": 0.5})
    folder.rename(tmp_path / "away")
    folder.write_text("in the way")
    stats.record(2, 3, {"loss": 0.4})
    with pytest.raises(OSError):
        stats.complete()
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert len((folder / "stats.jsonl").read_text().splitlines()) == 1
    stats.record(3, 3, {"loss": 0.3})
    assert (folder / "stats.jsonl").read_text() == stats.text and len(stats.text.splitlines()) == 3


@pytest.mark.parametrize("spoiled", [None, b"", b'{"step": 1, "tot', b"\0" * 40])
def test_complete_mends_the_file(tmp_path: Path, spoiled: bytes | None) -> None:
    path = tmp_path / "stats.jsonl"
    stats = filled(path)
    if spoiled is None:
        path.unlink()
    else:
        path.write_bytes(spoiled)
    stats.complete()
    assert path.read_text() == stats.text and [found.name for found in tmp_path.iterdir()] == ["stats.jsonl"]


def test_without_a_path_all_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stats = filled(None)
    stats.complete()
    assert len(stats.records) == 2 and len(stats.text.splitlines()) == 3 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["not json\n", '{"step": 1}\n{"step": 2, "lo'])
def test_a_line_that_is_none_of_ours_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parsed(text)
