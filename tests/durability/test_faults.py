"""A fault in every file operation of a save: no run is lost, and nothing half is ever taken for whole."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.durability.file_operations import CUT_OFF, CUTS, Operations, faults_of, flipped
from fluxduel.tests.durability.small_run import (
    STAGE_1,
    Noted,
    StoppedAfter,
    assert_same,
    assert_same_files,
    train,
    wanted,
)
from fluxduel.training.atomic_file import write_whole
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.checkpoints import CheckpointError, Checkpoints, Snapshot
from fluxduel.training.runs.fingerprints import Fingerprint
from fluxduel.training.runs.run_directory import RunDirectory, RunDirectoryError, choose
from fluxduel.training.runs.stats import Stats, parsed
from fluxduel.training.stages.stage import StageResult

TRIED: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def count_of_all_faults() -> Iterator[None]:
    """Print how many were tried, once all are."""
    yield
    print(f"\nfaults and power cuts tried in all: {TRIED.total()} ({dict(TRIED)})")


def in_child(work: Callable[[], object]) -> int:
    """The exit code of a forked process that does ``work``; none of its clean-up runs when it is cut off."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut_off(folder: Path, number: int, kind: str, work: Callable[[], object]) -> None:
    """Do ``work`` in a process that loses its power at a file operation below ``folder``."""

    def until_cut() -> None:
        with Operations(within=folder, cut=(number, kind)):
            work()

    assert in_child(until_cut) == CUT_OFF


# Checkpoints


def snapshot(step: int) -> Snapshot:
    values = [torch.full((50, 7), float(100 * step + i)) for i in range(2)]
    tensors = {part: {f"t{i}": value for i, value in enumerate(values)} for part in ("adapter", "optimiser")}
    return Snapshot(step, tensors, {"step": step}, stats=f'{{"step": {step}}}\n' * 40, score=1.0 / step)


def assert_sound(found: Snapshot | None, steps: tuple[int, ...]) -> None:
    """One of these, and exactly as it was saved."""
    assert found is not None and found.step in steps
    expected = snapshot(found.step)
    assert (found.numbers, found.stats, found.score) == (expected.numbers, expected.stats, expected.score)
    for part, tensors in expected.tensors.items():
        assert all(torch.equal(tensor, found.tensors[part][name]) for name, tensor in tensors.items())


def save_one(folder: Path, step: int) -> None:
    """A save with its rotation; a failure is what the loop would get to see."""
    checkpoints = Checkpoints(folder / "checkpoints")
    with contextlib.suppress(OSError, CheckpointError):
        checkpoints.save(snapshot(step), {"lora.safetensors": b"for people" * 50})
        checkpoints.rotate(keep_last=1, keep_every=0)
    # For a cut right after it.
    os.stat(folder)


def prepared(folder: Path, step: int) -> Path:
    """All checkpoints before ``step``, as a ``keep_last`` of more than 1 leaves them."""
    folder.mkdir()
    for before in range(1, step):
        Checkpoints(folder / "checkpoints").save(snapshot(before), {"lora.safetensors": b"for people" * 50})
    return folder


def assert_next_save_tidies(folder: Path, step: int) -> None:
    save_one(folder, step)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [snapshot(step).name]
    assert_sound(Checkpoints(folder / "checkpoints").newest()[0], (step,))


@pytest.mark.parametrize("step", [1, 3])
def test_every_fault_of_a_save_leaves_a_sound_checkpoint(tmp_path: Path, step: int) -> None:
    """Of the first save, and of one that removes the two before it."""
    with Operations(within=prepared(tmp_path / "counted", step)) as counted:
        save_one(tmp_path / "counted", step)
    tried: Counter[str] = Counter()
    for number, kind in faults_of(counted.names):
        folder = prepared(tmp_path / f"{number}-{kind}", step)
        with Operations(within=folder, fault=(number, kind)) as operations, contextlib.suppress(OSError):
            save_one(folder, step)
        assert operations.spoiled
        tried[kind] += 1
        newest, words = Checkpoints(folder / "checkpoints").newest()
        if newest is not None or step > 1:
            assert_sound(newest, (step - 1, step))
        assert not words, f"{kind} at {counted.names[number]} {number} was only noticed later"
        assert_next_save_tidies(folder, step + 1)
    TRIED["save"] += tried.total()
    print(f"save: {len(counted.names)} operations, {tried.total()} faults tried ({dict(tried)}), none lost a run")
    assert tried.total() > 200


@pytest.mark.parametrize("kind", CUTS)
@pytest.mark.parametrize("step", [1, 3])
def test_a_power_cut_at_every_operation_of_a_save(tmp_path: Path, step: int, kind: str) -> None:
    """Also of a disk that keeps nothing it was not told to keep. What was saved is there, whatever comes later."""
    with Operations(within=prepared(tmp_path / "counted", step)) as counted:
        save_one(tmp_path / "counted", step)
    # The removal of the two before begins with a rename to another name.
    removal = next((n for n, place in enumerate(counted.places) if "/.removed-" in place), len(counted.names) - 1)
    for number in range(len(counted.names)):
        folder = prepared(tmp_path / str(number), step)
        cut_off(folder, number, kind, lambda folder=folder: save_one(folder, step))
        newest, words = Checkpoints(folder / "checkpoints").newest()
        if newest is not None or step > 1 or number >= removal:
            assert_sound(newest, (step,) if number >= removal else (step - 1, step))
        assert not words
        assert_next_save_tidies(folder, step + 1)
    TRIED["power cut in a save"] += len(counted.names)
    print(f"power cuts in a save, {kind} lost: {len(counted.names)} tried, none lost a run")


def test_every_fault_of_passing_over_a_damaged_checkpoint(tmp_path: Path) -> None:
    """It is not taken for the checkpoint of its step later on, and does not push a sound one out."""

    def go_on(folder: Path) -> None:
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.newest()
        # The step of the damaged one is done again, and saved.
        save_one(folder, 3)

    def damaged(folder: Path) -> Path:
        prepared(folder, 4)
        damage(folder / "checkpoints" / snapshot(3).name / "adapter.safetensors", "truncated")
        return folder

    with Operations(within=damaged(tmp_path / "counted")) as counted:
        go_on(tmp_path / "counted")
    for number, kind in faults_of(counted.names):
        folder = damaged(tmp_path / f"{number}-{kind}")
        with Operations(within=folder, fault=(number, kind)) as operations:
            try:
                go_on(folder)
            except OSError:
                go_on(folder)
        assert operations.spoiled
        newest, words = Checkpoints(folder / "checkpoints").newest()
        where = f"{kind} at {counted.names[number]} {counted.places[number]}"
        # A reading that fails once may put a sound one aside, but never the last.
        assert newest is not None, where
        assert_sound(newest, (1, 2, 3))
        assert not words, where
        assert_next_save_tidies(folder, 4)
        TRIED["passing over"] += 1


def test_a_rotation_that_fails_is_no_failed_save(tmp_path: Path) -> None:
    """What cannot be listed or removed stays, as it says, and nobody is told that there is no checkpoint."""
    checkpoints = Checkpoints(prepared(tmp_path / "counted", 3) / "checkpoints")
    with Operations(within=tmp_path / "counted") as counted:
        checkpoints.rotate(keep_last=1, keep_every=0)
    for number, kind in faults_of(counted.names):
        folder = prepared(tmp_path / f"{number}-{kind}", 3)
        with Operations(within=folder, fault=(number, kind)):
            Checkpoints(folder / "checkpoints").rotate(keep_last=1, keep_every=0)
        assert_sound(Checkpoints(folder / "checkpoints").newest()[0], (2,))
        TRIED["rotation"] += 1


# Whole files, run.json, stats.jsonl


def test_every_fault_of_a_whole_file(tmp_path: Path) -> None:
    """The content from before, or the new one: never a mixture, and nothing beside it."""
    old, new = b"old" * 1000, b"new" * 1000
    with Operations(within=tmp_path) as counted:
        write_whole(tmp_path / "run.json", new)
    for number, kind in faults_of(counted.names):
        folder = tmp_path / f"{number}-{kind}"
        folder.mkdir()
        (folder / "run.json").write_bytes(old)
        raised = False
        with Operations(within=folder, fault=(number, kind)) as operations:
            try:
                write_whole(folder / "run.json", new)
            except OSError:
                raised = True
        assert operations.spoiled
        assert (folder / "run.json").read_bytes() in ((old, new) if raised else (new,))
        assert [path.name for path in folder.iterdir()] == ["run.json"]
        TRIED["whole file"] += 1
    for number in range(len(counted.names)):
        for kind in CUTS:
            folder = tmp_path / f"cut-{number}-{kind}"
            folder.mkdir()
            (folder / "run.json").write_bytes(old)
            cut_off(folder, number, kind, lambda folder=folder: write_whole(folder / "run.json", new))
            assert (folder / "run.json").read_bytes() in (old, new)
            TRIED["power cut in a whole file"] += 1


SHORT, LONG = (Fingerprint("diffusion", {"rank": 4}, steps) for steps in (2, 4))
PROVENANCE = {"stage": "diffusion", "steps_done": 4}


def finish(folder: Path, wanted: Fingerprint) -> None:
    with RunDirectory.opened(folder, wanted, {"for": "people"}) as directory:
        directory.finish({"weight": torch.ones(3)}, PROVENANCE | {"steps_done": wanted.steps}, "")


def test_every_fault_of_finishing_a_run(tmp_path: Path) -> None:
    """A finished run of 2 steps is extended to 4: its folder holds the one, the other, or the way between them."""
    parent = tmp_path / "counted"
    finish(parent / "run", SHORT)
    with Operations(within=parent) as counted:
        finish(parent / "run", LONG)

    def check(parent: Path) -> None:
        before = (parent / "run" / "run.json").read_bytes()
        choice = choose(parent, LONG)
        assert choice.folder == parent / "run", choice.text
        told = json.loads(before)
        assert told["steps"] in (2, 4) and told["parts"] == {"rank": 4}
        if told["finished"] is not None:
            assert told["finished"]["provenance"]["steps_done"] == told["steps"]
        with RunDirectory.opened(choice.folder, LONG, {}):
            assert sorted(path.name for path in choice.folder.iterdir()) == [".lock", "run.json"]

    for number, kind in faults_of(counted.names):
        parent = tmp_path / f"{number}-{kind}"
        finish(parent / "run", SHORT)
        with Operations(within=parent, fault=(number, kind)), contextlib.suppress(OSError, RunDirectoryError):
            finish(parent / "run", LONG)
        check(parent)
        TRIED["run.json"] += 1
    for number in range(len(counted.names)):
        for kind in CUTS:
            parent = tmp_path / f"cut-{number}-{kind}"
            finish(parent / "run", SHORT)
            cut_off(parent, number, kind, lambda parent=parent: finish(parent / "run", LONG))
            check(parent)
            TRIED["power cut in run.json"] += 1


def test_every_fault_of_choosing_a_run(tmp_path: Path) -> None:
    """A run that cannot be read for once is passed over, and is there the next time."""
    with RunDirectory.opened(tmp_path / "run", LONG, {}) as directory:
        directory.checkpoints.save(snapshot(1), {})
    before = files_of(tmp_path)
    with Operations(within=tmp_path) as counted:
        assert choose(tmp_path, LONG).folder == tmp_path / "run"
    for number, kind in faults_of(counted.names):
        with Operations(within=tmp_path, fault=(number, kind)) as operations:
            try:
                choice = choose(tmp_path, LONG)
                assert choice.folder == tmp_path / "run" or choice.text.startswith("A new run")
            except OSError:
                # Where no run at all can be seen, beginning one anew would be the worst answer.
                assert counted.places[number] == ""
        assert operations.spoiled
        assert choose(tmp_path, LONG).text == "Going on with run from update 1."
        assert files_of(tmp_path) == before
        TRIED["choosing"] += 1


def test_checkpoints_without_a_run_json_are_nobodys(tmp_path: Path) -> None:
    """They may be another run's, whose weights would be gone on with."""
    with RunDirectory.opened(tmp_path / "run", LONG, {}) as directory:
        directory.checkpoints.save(snapshot(1), {})
    (tmp_path / "run" / "run.json").unlink()
    before = files_of(tmp_path)
    other = Fingerprint("diffusion", {"rank": 8}, 4)
    with pytest.raises(RunDirectoryError, match=r"checkpoints, but no run\.json"):
        with RunDirectory.opened(tmp_path / "run", other, {}):
            pass
    assert files_of(tmp_path) == before


def write_stats(path: Path) -> Stats:
    stats = Stats(path, '{"step": 0, "total": 3, "loss": 1.0}\n')
    for step in (1, 2):
        stats.record(step, 3, {"loss": 1 / step})
    stats.note(2, "nearly there")
    stats.record(3, 3, {"loss": 1 / 3})
    stats.complete()
    return stats


def test_every_fault_of_the_statistics(tmp_path: Path) -> None:
    """Memory has every line, and so has the file when the run is complete; at a power cut a later sitting mends it."""
    with Operations(within=tmp_path) as counted:
        expected = write_stats(tmp_path / "stats.jsonl").text
    assert len(expected.splitlines()) == 5
    for number, kind in faults_of(counted.names):
        folder = tmp_path / f"{number}-{kind}"
        folder.mkdir()
        path = folder / "stats.jsonl"
        with Operations(within=folder, fault=(number, kind)) as operations:
            try:
                stats = write_stats(path)
            except OSError:
                # ``complete`` says so, and can be called again.
                stats = Stats(path, expected)
                stats.complete()
        assert operations.spoiled
        assert stats.text == expected
        assert path.read_text() == expected, f"{kind} at {counted.names[number]} {number}"
        assert [found.name for found in folder.iterdir()] == ["stats.jsonl"]
        TRIED["statistics"] += 1
    for number in range(len(counted.names)):
        for kind in CUTS:
            folder = tmp_path / f"cut-{number}-{kind}"
            folder.mkdir()
            path = folder / "stats.jsonl"
            cut_off(folder, number, kind, lambda path=path: write_stats(path))
            Stats(path, expected)
            assert path.read_text() == expected
            assert parsed(path.read_text())[1] == [(2, "nearly there")]
            TRIED["power cut in statistics"] += 1


# The loop of a stage


class Whole(NamedTuple):
    """A run without faults, its folder, and its file operations."""

    stage: str
    result: StageResult
    folder: Path
    names: list[str]
    places: list[str]


def whole_run(stage: str, parent: Path) -> Whole:
    folder = parent / stage
    folder.mkdir()
    with Operations(within=folder) as operations:
        result = train(folder, stage=stage)
    return Whole(stage, result, folder, operations.names, operations.places)


@pytest.fixture(scope="module", params=["diffusion", "adversarial"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_run(request.param, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_1(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Stage 1 alone."""
    return whole_run("diffusion", tmp_path_factory.mktemp("whole-1"))


def test_faults_while_training(whole: Whole, tmp_path: Path) -> None:
    """The stage ends with the same LoRA whatever a disk does in between, and leaves a result or the way to it."""
    faults = faults_of(whole.names)
    # Spread evenly, and all that can happen to the files of the result.
    picked = faults[:: len(faults) // 40]
    for number, kind in faults:
        own = whole.places[number].startswith((".discriminator.", ".lora.")) and whole.names[number] == "write"
        if own and (number, kind) not in picked:
            picked.append((number, kind))
    trained = 0
    for number, kind in picked:
        folder = tmp_path / f"{number}-{kind}"
        folder.mkdir()
        with Operations(within=folder, fault=(number, kind)) as operations:
            try:
                result = train(folder, stage=whole.stage)
            except (OSError, RunDirectoryError):
                # Before the first step a folder that cannot be used is an error, which costs nothing.
                assert not (folder / "checkpoints").exists()
                result = None
        assert operations.spoiled, whole.places[number]
        if result is not None:
            trained += 1
            assert_same(whole.result, result)
        assert_same(whole.result, train(folder, stage=whole.stage))
        assert_same_files(whole.folder, folder)
    TRIED["training"] += len(picked)
    print(f"{whole.stage}: {len(whole.names)} operations, {len(picked)} faults tried, no run lost")
    assert trained > 30


def test_power_cuts_while_training(whole: Whole, tmp_path: Path) -> None:
    numbers = range(2, len(whole.names), len(whole.names) // 20)
    for number, kind in zip(numbers, CUTS * len(numbers), strict=False):
        folder = tmp_path / str(number)
        folder.mkdir()
        cut_off(folder, number, kind, lambda folder=folder: train(folder, stage=whole.stage))
        assert_same(whole.result, train(folder, stage=whole.stage))
        assert_same_files(whole.folder, folder)
        TRIED["power cut in training"] += 1


def test_faults_while_going_on(whole_1: Whole, tmp_path: Path) -> None:
    """What cannot be read for once is not lost: the run goes on from it, at once or when it is started again."""
    assert train(tmp_path / "stopped", StoppedAfter(2)).stopped
    shutil.copytree(tmp_path / "stopped", tmp_path / "counted")
    with Operations(within=tmp_path / "counted") as counted:
        train(tmp_path / "counted")
    began = next(n for n, place in enumerate(counted.places) if "step-00000003" in place)
    raised = 0
    # Until the first save, which has tests of its own, every operation.
    for number, kind in faults_of(counted.names[:began]):
        folder = tmp_path / f"{number}-{kind}"
        shutil.copytree(tmp_path / "stopped", folder)
        reporter = Noted()
        with Operations(within=folder, fault=(number, kind)) as operations:
            try:
                assert_same(whole_1.result, train(folder, reporter))
            except (OSError, RunDirectoryError):
                raised += 1
                reporter = Noted()
                assert_same(whole_1.result, train(folder, reporter))
        assert operations.spoiled
        assert_same_files(whole_1.folder, folder)
        where = f"{kind} at {counted.names[number]} {counted.places[number]}"
        if kind not in ("truncated", "flipped"):
            assert reporter.earlier_steps[-1] == 2, where
        elif not reporter.earlier_steps:
            assert any("is damaged" in note for note in reporter.notes), where
        TRIED["going on"] += 1
    print(f"going on: {began} operations, {raised} times an error before the first step, never a run lost")


# Damage that is found later


def two_checkpoints(folder: Path) -> Path:
    """A run that was stopped with two checkpoints; the newest."""
    assert train(folder, StoppedAfter(3), keep_last=2).stopped
    before, newest = sorted((folder / "checkpoints").glob("step-*"))
    assert (before.name, newest.name) == ("step-00000002", "step-00000003")
    return newest


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "flipped": flipped,
    "zeroed": lambda content: bytes(len(content)),
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


def damage(path: Path, how: str) -> None:
    content = DAMAGES[how](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_newest_checkpoint(whole_1: Whole, tmp_path: Path, how: str) -> None:
    """Whichever file it is, the checkpoint before is used, with a word about it, and the run ends as ever."""
    newest = two_checkpoints(tmp_path / "stopped")
    files = sorted(path.name for path in newest.iterdir())
    assert {"adapter.safetensors", "average.safetensors", "optimiser.safetensors", "state.json", "stats.jsonl"} < set(
        files
    )
    for file in files:
        folder = tmp_path / file
        shutil.copytree(tmp_path / "stopped", folder)
        damage(folder / "checkpoints" / newest.name / file, how)
        reporter = Noted()
        assert_same(whole_1.result, train(folder, reporter))
        assert_same_files(whole_1.folder, folder)
        # A LoRA that lies there for people is not what a run goes on from.
        used = 3 if file == "lora.safetensors" else 2
        assert reporter.earlier_steps[-1] == used
        said = [note for note in reporter.notes if "The checkpoint of update 3 is damaged and is not used" in note]
        assert len(said) == (used == 2) and all(newest.name in note for note in said)
        TRIED["damaged checkpoint"] += 1


def test_all_checkpoints_damaged(whole_1: Whole, tmp_path: Path) -> None:
    """The run begins anew, with a word about each."""
    newest = two_checkpoints(tmp_path / "run")
    for folder in newest.parent.iterdir():
        damage(folder / "state.json", "flipped")
    reporter = Noted()
    assert_same(whole_1.result, train(tmp_path / "run", reporter))
    assert not reporter.earlier_steps and len([note for note in reporter.notes if "is damaged" in note]) == 2


RUN_JSON: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "no object": lambda content: b"[1]",
    "newer version": lambda content: content.replace(b'"version": 1', b'"version": 2'),
}


@pytest.mark.parametrize("how", RUN_JSON)
def test_a_run_json_that_cannot_be_used(whole_1: Whole, tmp_path: Path, how: str) -> None:
    """It is passed over, and its folder is left as it is: by a graph that looks for a run, and by who names it."""
    newest = two_checkpoints(tmp_path / "diffusion-1")
    path = tmp_path / "diffusion-1" / "run.json"
    content = path.read_bytes()
    path.write_bytes(RUN_JSON[how](content))
    assert path.read_bytes() != content
    before = files_of(tmp_path / "diffusion-1")

    choice = choose(tmp_path, wanted())
    assert not choice.folder.exists() and choice.text == "A new run."
    with pytest.raises(RunDirectoryError, match=r"run\.json"):
        train(tmp_path / "diffusion-1")
    assert_same(whole_1.result, train(choice.folder))
    assert files_of(tmp_path / "diffusion-1") == before and newest.exists()

    # With the file put back, it is the run that it was.
    path.write_bytes(content)
    shutil.rmtree(choice.folder)
    reporter = Noted()
    assert choose(tmp_path, wanted()).folder == tmp_path / "diffusion-1"
    assert_same(whole_1.result, train(tmp_path / "diffusion-1", reporter))
    assert reporter.earlier_steps[-1] == 3


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_flipped_byte_of_run_json(whole_1: Whole, tmp_path: Path) -> None:
    """A finished run gives its own result with its own provenance, or none: for every single byte."""
    shutil.copytree(whole_1.folder, tmp_path / "diffusion-1")
    path = tmp_path / "diffusion-1" / "run.json"
    content = path.read_bytes()
    told = json.loads(content)["finished"]
    for number in range(len(content)):
        path.write_bytes(content[:number] + bytes([content[number] ^ 1]) + content[number + 1 :])
        choice = choose(tmp_path, wanted())
        if choice.finished:
            assert json.loads(path.read_bytes())["finished"] == told, f"byte {number}: {content[number - 30 : number]}"
        TRIED["flipped byte of run.json"] += 1
    path.write_bytes(content)
    assert choose(tmp_path, wanted()).finished


# No wrapper from here on: the kernel itself refuses


def test_a_file_size_limit_is_a_full_disk(whole_1: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def work() -> None:
        # The first of a checkpoint's files fits, the moments do not.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        reporter = Noted()
        result = train(folder, reporter)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        keep(result, reporter, tmp_path)

    assert in_child(work) == 0
    notes = kept(whole_1, tmp_path)
    assert sum("could not be written" in note and "larger than this disk" in note for note in notes) >= STAGE_1.steps
    assert not list((folder / "checkpoints").glob("*"))
    assert_same(whole_1.result, train(folder))
    assert_same_files(whole_1.folder, folder)


def keep(result: StageResult, reporter: Noted, folder: Path) -> None:
    """What a child tells the test."""
    lora.save(result.lora, folder / "result.safetensors")
    (folder / "notes.json").write_text(json.dumps(reporter.notes))


def kept(whole: Whole, folder: Path) -> list[str]:
    """The child's notes; its LoRA is that of the whole run."""
    saved = load_file(folder / "result.safetensors")
    for key, tensor in whole.result.lora.tensors.items():
        assert torch.equal(saved[f"transformer.{key}"], tensor)
    return json.loads((folder / "notes.json").read_text())


def test_a_folder_without_permission(whole_1: Whole, tmp_path: Path) -> None:
    """Taken away in the midst of the run, from a user who is not root."""
    folder = tmp_path / "run"
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(0o755)

    class Locking(Noted):
        def scalars(self, stage: str, step: int, *rest) -> None:
            super().scalars(stage, step, *rest)
            if step == 2:
                (folder / "checkpoints").chmod(0o555)

    def as_nobody(work: Callable[[], None]) -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        work()

    def locked() -> None:
        reporter = Locking()
        keep(train(folder, reporter), reporter, tmp_path)

    def unreadable() -> None:
        with pytest.raises(OSError, match="Permission denied"):
            train(folder, steps=6)
        assert choose(tmp_path, wanted(steps=6)).folder == folder

    assert in_child(lambda: as_nobody(locked)) == 0
    notes = kept(whole_1, tmp_path)
    assert any("does not permit" in note and "The one of update 1 is kept" in note for note in notes)
    (folder / "checkpoints").chmod(0o700)
    assert_same(whole_1.result, train(folder))

    # A checkpoint that another user may not read is not a damaged one, and is still there for its owner.
    (newest,) = (folder / "checkpoints").glob("step-*")
    (folder / "checkpoints").chmod(0o755)
    (newest / "state.json").chmod(0)
    assert in_child(lambda: as_nobody(unreadable)) == 0
    assert newest.exists()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory with the options given."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'no mount'}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(whole_1: Whole, mounted: Callable[[str], Path]) -> None:
    """Somebody else fills it in the midst of the run, and makes room when it is over."""
    disk = mounted("size=16m")
    folder, filler = disk / "run", disk / "filler"

    class Filling(Noted):
        def scalars(self, stage: str, step: int, *rest) -> None:
            super().scalars(stage, step, *rest)
            if step == 3:
                with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))

    reporter = Filling()
    assert_same(whole_1.result, train(folder, reporter))
    assert shutil.disk_usage(disk).free <= 4096  # what the lock had
    assert any("update 3 could not be written" in note and "update 2 is kept" in note for note in reporter.notes)
    assert any("The result could not be kept" in note and "the disk is full" in note for note in reporter.notes)
    filler.unlink()
    reporter = Noted()
    assert_same(whole_1.result, train(folder, reporter))
    assert reporter.earlier_steps[-1] == 2
    assert_same_files(whole_1.folder, folder)


@pytest.mark.parametrize("files", range(4, 16))
def test_a_disk_without_room_for_more_files(whole_1: Whole, mounted: Callable[[str], Path], files: int) -> None:
    """Space there is, but each save ends after another one of its files."""
    disk = mounted(f"size=64m,nr_inodes={files}")
    folder, reporter = disk / "run", Noted()
    try:
        assert_same(whole_1.result, train(folder, reporter))
    except (OSError, RunDirectoryError):
        assert not reporter.new_steps
    else:
        assert files > 14 or any("the disk is full" in note for note in reporter.notes)
    subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(disk)], check=True)
    assert_same(whole_1.result, train(folder))
    assert_same_files(whole_1.folder, folder)
