"""A file is there whole or not at all; the faults of a disk are in ``durability/test_faults.py``."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fluxduel.tests.durability.file_operations import Operations
from fluxduel.training import atomic_file
from fluxduel.training.atomic_file import check_space, make_folder, write_flushed, write_whole


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(1 << 20)])
def test_a_file_is_made_and_replaced_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for wanted in (b"before", content):
        write_whole(path, wanted)
        assert path.read_bytes() == wanted
    assert [found.name for found in path.parent.iterdir()] == ["file.json"]


def test_more_than_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_file, "_PIECE", 1000)
    content = os.urandom(12_345)
    with Operations(within=tmp_path) as operations:
        write_whole(tmp_path / "file", content)
    assert operations.names.count("write") == 13 and (tmp_path / "file").read_bytes() == content


def test_it_is_flushed_and_read_before_it_has_its_name_and_the_folder_after(tmp_path: Path) -> None:
    with Operations(within=tmp_path) as operations:
        write_whole(tmp_path / "file", b"content")
    did = [name for name in operations.names if name in ("write", "fsync", "read", "replace")]
    assert did[:2] == ["write", "fsync"] and did[-2:] == ["replace", "fsync"] and set(did[2:-2]) == {"read"}
    last = max(n for n, name in enumerate(operations.names) if name == "fsync")
    assert operations.places[last] == ""


def test_the_longest_name_a_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 250}.json"
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file" / "kept").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "file", b"content")
    assert [found.name for found in tmp_path.iterdir()] == ["file"] and (tmp_path / "file" / "kept").is_dir()


@pytest.mark.parametrize("fails", ["open", "write", "fsync"])
def test_a_failure_names_the_file_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """The system names the partial file, of which nobody knows, or none at all."""
    real = getattr(os, fails)

    def full(*arguments: object) -> object:
        if fails == "open" and ".tmp" in str(arguments[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        if fails != "open":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError) as raised:
        write_whole(tmp_path / "config.json", b"content")
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "config.json")
    assert not any(tmp_path.iterdir())


def test_two_processes_write_the_same_file_at_once(tmp_path: Path) -> None:
    """Whoever is last wins; what is there is always one of theirs."""
    script = (
        "import sys; from pathlib import Path; from fluxduel.training.atomic_file import write_whole\n"
        "for _ in range(60): write_whole(Path(sys.argv[1]), sys.argv[2].encode() * 20_000)"
    )
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen and seen <= {b"a" * 20_000, b"b" * 20_000}
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_an_existing_file_is_not_written_to(tmp_path: Path) -> None:
    """What a checkpoint is made of is always new."""
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(FileExistsError):
        write_flushed(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"before"


def test_the_disk_is_told_of_every_folder_that_is_made(tmp_path: Path) -> None:
    with Operations(within=tmp_path) as operations:
        make_folder(tmp_path / "a" / "b")
    flushed = [
        place for name, place in zip(operations.names, operations.places, strict=True) if name == "fsync"
    ]
    assert (tmp_path / "a" / "b").is_dir() and flushed == ["", "a"]
    with Operations(within=tmp_path) as again:
        make_folder(tmp_path / "a" / "b")
    assert not {"mkdir", "fsync"} & set(again.names)


def test_room_is_looked_for_before_it_is_needed(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(OSError, match="MB are needed") as full:
        check_space(tmp_path, 1 << 60)
    assert full.value.errno == errno.ENOSPC and full.value.filename == str(tmp_path)
