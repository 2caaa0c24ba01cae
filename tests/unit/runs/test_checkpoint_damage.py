"""A checkpoint in which anything at all was changed is not gone on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fluxduel.tests.unit.runs.test_checkpoints import snapshot
from fluxduel.training.runs.checkpoints import CheckpointError, Checkpoints


@pytest.mark.parametrize(
    ("was", "now"), [('"step": 7', '"step": 8'), ('"score": 0.25', '"score": 0.5'), ('"two"', '"too"')]
)
def test_a_number_that_was_changed_in_the_state_is_found(tmp_path: Path, was: str, now: str) -> None:
    """The file is still sound JSON, and every other file is as it was written."""
    folder = Checkpoints(tmp_path).save(snapshot(7, score=0.25), {})
    outer = json.loads((folder / "state.json").read_text())
    assert outer["state"].count(was) == 1
    (folder / "state.json").write_text(json.dumps({**outer, "state": outer["state"].replace(was, now)}))
    with pytest.raises(CheckpointError, match=r"state\.json.*wrong checksum"):
        Checkpoints(tmp_path).load(folder.name)


@pytest.mark.parametrize("file", ["adapter.safetensors", "stats.jsonl"])
def test_a_byte_that_was_changed_is_found(tmp_path: Path, file: str) -> None:
    folder = Checkpoints(tmp_path).save(snapshot(7), {})
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file}.*wrong checksum"):
        Checkpoints(tmp_path).load(folder.name)


def test_a_state_of_another_version_is_refused(tmp_path: Path, monkeypatch) -> None:
    folder = Checkpoints(tmp_path).save(snapshot(7), {})
    monkeypatch.setattr("fluxduel.training.runs.checkpoints._VERSION", 99)
    with pytest.raises(CheckpointError, match="of version 1, this FluxDuel reads 99"):
        Checkpoints(tmp_path).load(folder.name)
