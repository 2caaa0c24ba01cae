"""Before the first step: what could not be written after hours is told, with the file and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fluxduel.headless.command_line import main
from fluxduel.tests.durability.file_operations import Operations
from fluxduel.tests.durability.small_run import Noted, train
from fluxduel.training.atomic_file import write_whole
from fluxduel.training.runs.output_check import RUN_FILES, RUN_NAME, check_writable, scarce_space
from fluxduel.training.runs.run_directory import RunDirectoryError

LETTER = "\N{PARTY POPPER}"  # four bytes


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A disk at ``folder``; skips the test where this process may not mount one."""
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None or subprocess.run(["mount", *arguments, folder], capture_output=True).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    with mounted(folder, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        yield folder


@contextmanager
def small(folder: Path, size: str) -> Iterator[Path]:
    with mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        yield folder


def deep_folder(folder: Path, length: int) -> Path:
    """A path of this many letters, all of it short names."""
    while (missing := length - len(str(folder))) > 1:
        folder /= "d" * min(missing - 1, 200 if missing != 202 else 100)
    return folder


def test_what_can_be_written_is_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "new" / "mine.safetensors").parent.mkdir()
    (tmp_path / "new" / "mine.safetensors").write_bytes(b"mine")
    check_writable(tmp_path / "new", ["mine.safetensors", LETTER * 60 + ".safetensors", *RUN_FILES])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.safetensors"]
    assert (tmp_path / "new" / "mine.safetensors").read_bytes() == b"mine"


def test_a_whole_name_may_be_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    """Written beside first, under a name that is no longer."""
    path = tmp_path / (LETTER * 63 + ".x")
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    long = "a" * 245 + ".safetensors"
    for folder, name, number in (
        (tmp_path, long, errno.ENAMETOOLONG),
        (tmp_path / "file", "x", errno.EEXIST),
        (tmp_path / "file" / "below", "x", errno.EEXIST),
        (tmp_path, "folder.png", errno.EISDIR),
    ):
        with pytest.raises(OSError) as caught:
            check_writable(folder, ["fine", name])
        assert caught.value.errno == number, caught.value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
    with read_only(tmp_path / "disk") as disk, pytest.raises(OSError) as caught:
        check_writable(disk, ["mine"])
    assert (caught.value.errno, caught.value.filename) == (errno.EROFS, str(tmp_path / "disk" / "mine"))


def complaint(capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: str) -> str:
    """What a run says that must not begin. It never gets to its base, which is not there."""
    asked = ["train", "--images.folder", str(tmp_path), "--base.checkpoint", "/no/base.safetensors"]
    assert main([*asked, "--base.device", "cpu", *flags]) == 2
    out, told = capsys.readouterr()
    assert out == "" and told.count("\n") == 1 and "base.safetensors" not in told
    return told


def test_a_run_without_comfyui_tells_it_before_it_loads_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = complaint(capsys, tmp_path, "--output.folder", str(tmp_path / "out"), "--output.name", "x" * 240)
    assert f"{'x' * 240}-stage1.safetensors: the name is longer than this disk allows; choose" in told
    assert "output.name" in told
    deep = deep_folder(tmp_path, 4095 - 60)
    told = complaint(capsys, tmp_path, "--output.folder", str(deep))
    assert RUN_NAME in told and "the name is longer than this disk allows" in told
    (tmp_path / "file").write_bytes(b"")
    told = complaint(capsys, tmp_path, "--output.folder", str(tmp_path / "file"))
    assert f"{tmp_path / 'file'}: something else of that name is there" in told
    with read_only(tmp_path / "disk") as disk:
        told = complaint(capsys, tmp_path, "--output.folder", str(disk))
        assert "the disk is read-only; choose a folder on another one." in told and str(disk) in told
    with small(tmp_path / "disk", "4k") as disk:
        (disk / "full").write_bytes(bytes(4096))
        told = complaint(capsys, tmp_path, "--output.folder", str(disk))
        assert "the disk is full; make room on it" in told


def test_a_stage_tells_it_before_its_first_step(tmp_path: Path) -> None:
    """As of the graph, which hands its run a folder."""
    noted = Noted()
    deep = deep_folder(tmp_path, 4095 - 60)
    with pytest.raises(RunDirectoryError, match="cannot be used for this run.*longer than this disk allows"):
        train(deep, noted)
    assert noted.new_steps == []
    assert not deep.exists() and deep.parent.is_dir()


@pytest.mark.parametrize("stage", ["diffusion", "adversarial"])
def test_no_name_that_a_run_makes_is_longer_than_those_that_are_tried(stage: str, tmp_path: Path) -> None:
    with Operations(within=tmp_path) as operations:
        train(tmp_path / "run", stage=stage, preview_every=2, preview_steps=1, ema_decay=0.9)
    done = zip(operations.names, operations.places, strict=True)
    places = [place.removeprefix("run/") for name, place in done if name in ("open", "mkdir", "replace")]
    made = {place for place in places if not re.match(r"\.[0-9a-f]{7,}\.tmp", place)}  # without those that try it
    assert any("discriminator_optimiser" in place for place in made) is (stage == "adversarial")
    assert max(map(len, made)) <= len(RUN_FILES[0])
    longest = max((part for place in made for part in place.split("/")), key=len)
    assert len(longest) <= max(len(part) for name in RUN_FILES for part in name.split("/"))


def test_scarce_space_is_told_before_the_first_step_and_enough_is_not(tmp_path: Path) -> None:
    with small(tmp_path / "disk", "6m") as disk:
        assert scarce_space(disk, 1_000_000, kept=4) == ""
        assert f"The disk of {disk} has 6 MB free, and the checkpoints" in scarce_space(disk, 1_100_000, kept=4)
        noted = Noted()
        train(disk / "run", noted, keep_last=100)
        assert "may take" in noted.notes[0] and "lower keep_last" in noted.notes[0]
    noted = Noted()
    train(tmp_path / "run", noted)
    assert not any("may take" in text for text in noted.notes)
    assert os.path.isdir(tmp_path / "run" / "checkpoints")
