"""What a checkpoint holds, what is taken for one, and which of several is gone on from."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from fluxduel.training.runs.checkpoints import CheckpointError, Checkpoints, Snapshot


def snapshot(step: int, score: float | None = None, unmeasured: bool = False) -> Snapshot:
    tensors = {"adapter": {"a": torch.full((2, 3), float(step)), "b": torch.arange(4.0)}, "replay": {}}
    numbers = {"never": math.nan, "least": -math.inf, "nested": {"first": [1, None, "two"]}}
    return Snapshot(step, tensors, numbers, '{"step": 1, "loss": NaN}\n', unmeasured, score)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Empty parts, numbers that JSON has no word for, transposed tensors and half precision included."""
    saved = snapshot(7, score=0.25)
    odd = {"moved": torch.arange(6.0).reshape(2, 3).T, "half": torch.ones(3).bfloat16(), "none": torch.ones(0)}
    saved = Snapshot(7, {**saved.tensors, "odd": odd}, saved.numbers, saved.stats, True, 0.25)
    folder = Checkpoints(tmp_path).save(saved, {"lora.safetensors": b"for people"})
    assert (folder / "lora.safetensors").read_bytes() == b"for people"
    found = Checkpoints(tmp_path).load(folder.name)
    assert (found.step, found.stats, found.unmeasured, found.score) == (7, saved.stats, True, 0.25)
    assert math.isnan(found.numbers["never"]) and found.numbers["least"] == -math.inf
    assert found.numbers["nested"] == {"first": [1, None, "two"]}
    assert found.tensors.keys() == saved.tensors.keys() and found.tensors["replay"] == {}
    for part, tensors in saved.tensors.items():
        assert found.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found.tensors[part][name].dtype == tensor.dtype and torch.equal(found.tensors[part][name], tensor)


@pytest.mark.parametrize("name", [".step-00000009.0123abcd.tmp", "step-9", "step-00000009-copy", "notes", "lora"])
def test_other_names_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    """Neither an unfinished one nor what a user put there, even where its content is a whole checkpoint."""
    checkpoints = Checkpoints(tmp_path)
    shutil.copytree(checkpoints.save(snapshot(5), {}), tmp_path / name)
    assert checkpoints.names() == ["step-00000005"] and checkpoints.furthest() == 5


def test_a_measured_one_is_further_than_an_unmeasured_one_of_the_same_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for unmeasured in (False, True):
        checkpoints.save(snapshot(20, unmeasured=unmeasured), {})
    newest, words = checkpoints.newest()
    assert newest is not None and not newest.unmeasured and not words


def test_the_one_before_a_damaged_one_is_used_and_the_damaged_one_put_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(snapshot(step), {})
    (tmp_path / "step-00000003" / "adapter.safetensors").unlink()
    content = (tmp_path / "step-00000002" / "stats.jsonl").read_bytes()
    (tmp_path / "step-00000002" / "stats.jsonl").write_bytes(content + b" ")
    newest, words = checkpoints.newest()
    assert newest is not None and newest.step == 1 and torch.equal(newest.tensors["adapter"]["a"], torch.ones(2, 3))
    assert [word.split(" (")[0] for word in words] == [
        "The checkpoint of update 3 is damaged and is not used",
        "The checkpoint of update 2 is damaged and is not used",
    ]
    assert "adapter.safetensors" in words[0] and "stats.jsonl" in words[1]
    aside = sorted(path.name.rpartition("-")[0] for path in tmp_path.glob(".damaged-*"))
    assert aside == [".damaged-step-00000002", ".damaged-step-00000003"]
    # Done again, the step has a checkpoint again; then nobody needs the damaged ones.
    checkpoints.save(snapshot(2), {})
    assert checkpoints.newest()[0].step == 2 and not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_a_newer_version_is_not_read(tmp_path: Path) -> None:
    """Also where its checksum is right."""
    from fluxduel.training.runs.checkpoints import _checksum

    folder = Checkpoints(tmp_path).save(snapshot(4), {})
    text = json.loads((folder / "state.json").read_text())["state"].replace('"version": 1', '"version": 2')
    (folder / "state.json").write_text(json.dumps({"checksum": _checksum(text.encode()), "state": text}))
    with pytest.raises(CheckpointError, match=r"step-00000004.*is of version 2, this FluxDuel reads 1"):
        Checkpoints(tmp_path).load(folder.name)


def test_the_best_is_kept_without_being_the_last(tmp_path: Path) -> None:
    """A score of NaN is none; an unreadable one counts for nothing and harms nothing."""
    checkpoints = Checkpoints(tmp_path)
    for step, score in {1: 0.3, 2: 0.1, 3: None, 4: 0.2}.items():
        checkpoints.save(snapshot(step, score), {})
        checkpoints.rotate(keep_last=1, keep_every=0)
    assert checkpoints.names() == ["step-00000002", "step-00000004"]
    (tmp_path / "step-00000002" / "state.json").write_bytes(b"")
    checkpoints.save(snapshot(5, 0.4), {})
    checkpoints.rotate(keep_last=1, keep_every=0)
    assert checkpoints.names() == ["step-00000004", "step-00000005"]


def test_a_disk_without_room_has_no_new_checkpoint_and_keeps_the_old(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1), {})
    # Expanded, it has the size but takes no memory.
    vast = torch.zeros(1).expand(1 << 50)
    with pytest.raises(OSError, match="MB are needed"):
        checkpoints.save(Snapshot(2, {"adapter": {"a": vast}}, {}), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
