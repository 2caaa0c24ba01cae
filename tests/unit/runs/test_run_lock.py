"""A run's folder is held by one process, on a disk with locks and on one without, and no dead process holds it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fluxduel.training.runs.run_lock import LOCK, OWNER, InUse, held

FLOCK = {"x86_64": 73, "aarch64": 32}
HELD: list[AbstractContextManager[None]] = []
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def without_flock(number: int) -> None:
    """From here on the kernel refuses ``flock`` to this process, as it does on such a disk."""
    call = FLOCK[platform.machine()]
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),
            (jump_if_equal, 0, 1, call),
            (answer, 0, 0, 0x00050000 | number),
            (answer, 0, 0, 0x7FFF0000),
        )
    )
    text = ctypes.create_string_buffer(program)
    rules = struct.pack("HP", len(program) // 8, ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_SECCOMP, _FILTER, ctypes.create_string_buffer(rules), 0, 0) == 0


def forked(work: Callable[[], None]) -> int:
    """The process that does ``work``, and then waits to be killed."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            os.write(told, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        os.write(told, b"done")
        time.sleep(60)
        os._exit(0)
    os.close(told)
    said = os.read(ready, 4096).decode()
    os.close(ready)
    if said != "done":
        os.waitpid(child, 0)
        raise AssertionError(said)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture(params=["with locks", "ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def disk(request: pytest.FixtureRequest) -> Callable[[], None]:
    """What a process does first to be on such a disk."""
    if request.param == "with locks":
        return lambda: None
    if platform.machine() not in FLOCK or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux's seccomp")
    return lambda: without_flock(getattr(errno, request.param))


def hold(folder: Path, disk: Callable[[], None]) -> int:
    """A process that holds the folder."""

    def work() -> None:
        disk()
        HELD.append(held(folder))
        HELD[-1].__enter__()

    return forked(work)


def refused(folder: Path, disk: Callable[[], None]) -> str:
    """What a process is told that may not have it; empty where it may."""
    try:
        kill(hold(folder, disk))
    except AssertionError as error:
        return str(error)
    return ""


def test_the_kernel_refuses_locks_in_these_tests(tmp_path: Path, disk: Callable[[], None]) -> None:
    def work() -> None:
        disk()
        handle = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
        fcntl.flock(handle, fcntl.LOCK_EX)

    try:
        kill(forked(work))
    except AssertionError as error:
        assert "OSError" in str(error) or "Permission" in str(error)


def test_who_holds_it_is_named_and_after_its_end_it_is_free(tmp_path: Path, disk: Callable[[], None]) -> None:
    child = hold(tmp_path, disk)
    told = refused(tmp_path, disk)
    kill(child)
    assert told.startswith(f"InUse: {tmp_path} is in use: process {child} on {platform.node()} trains this run, since ")
    assert "Wait for it, or stop it." in told
    assert refused(tmp_path, disk) == ""


def test_it_is_free_after_the_block_and_leaves_nothing(tmp_path: Path, disk: Callable[[], None]) -> None:
    def work() -> None:
        disk()
        for _ in range(2):
            with held(tmp_path):
                pass

    kill(forked(work))
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert (tmp_path / LOCK).read_bytes() == b""


@pytest.fixture
def owner(tmp_path: Path) -> dict[str, object]:
    """What a process that was killed on a disk without locks has left."""
    if platform.machine() not in FLOCK:
        pytest.skip("needs Linux's seccomp")
    kill(hold(tmp_path, no_locks))
    return json.loads((tmp_path / OWNER).read_text())


def no_locks() -> None:
    without_flock(errno.ENOLCK)


@pytest.mark.parametrize("change", [{"host": "another"}, {"boot": "another"}, {"space": "pid:[1]"}])
def test_an_owner_elsewhere_is_not_taken_for_dead(
    change: dict[str, str], owner: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / OWNER).write_text(json.dumps(owner | change))
    told = refused(tmp_path, no_locks)
    assert f"process {owner['pid']} on {change.get('host', owner['host'])} trains this run, since" in told
    assert f"If it has ended without a word, as when its machine lost its power, remove {tmp_path / OWNER}." in told
    (tmp_path / OWNER).unlink()
    assert refused(tmp_path, no_locks) == ""


def test_a_process_that_has_the_number_of_a_dead_one_does_not_hold_it(
    owner: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / OWNER).write_text(json.dumps(owner | {"pid": os.getpid()}))
    assert refused(tmp_path, no_locks) == ""


def test_a_name_of_an_owner_that_cannot_be_read_is_told(owner: dict[str, object], tmp_path: Path) -> None:
    for text in ("", "{}", json.dumps(owner)[:-9], "[1]", json.dumps(owner | {"pid": "x"})):
        (tmp_path / OWNER).write_text(text)
        told = refused(tmp_path, no_locks)
        assert "another process trains this run" in told and f"remove {tmp_path / OWNER}" in told


def test_of_many_that_take_over_one_gets_it(owner: dict[str, object], tmp_path: Path) -> None:
    script = (
        "import sys, time, errno\nfrom pathlib import Path\n"
        "from fluxduel.tests.unit.runs.test_run_lock import without_flock\n"
        "from fluxduel.training.runs.run_lock import InUse, held\n"
        "without_flock(errno.ENOLCK)\nsys.stdin.readline()\n"
        "try:\n    with held(Path(sys.argv[1])):\n        print('got'); sys.stdout.flush(); sys.stdin.readline()\n"
        "except InUse:\n    print('refused')\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    several = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], **pipes) for _ in range(6)]
    for process in several:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in several if process.stdout]
    for process in several:
        process.communicate("end\n", timeout=60)
    assert sorted(said) == ["got"] + ["refused"] * 5


def test_a_folder_that_is_held_by_this_very_process_is_in_use(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(InUse, match=f"process {os.getpid()} on"), held(tmp_path):
        pass
