"""A fault in every file operation of a save: no run is lost, and nothing half is ever taken for whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.benchmarks.step import synthetic_data
from fluxduel.tests.durability.file_operations import ERRORS, WRITES, Operations
from fluxduel.training import lora
from fluxduel.training.atomic_file import write_whole
from fluxduel.training.base_model import TINY_BASE, BaseReference
from fluxduel.training.checkpoints import CheckpointError, Checkpoints, Snapshot
from fluxduel.training.config import DiffusionStageConfig, LoRAConfig
from fluxduel.training.diffusion_stage import train_diffusion_stage
from fluxduel.training.real_latents import RealLatents
from fluxduel.training.stage import StageResult

CUT_OFF = 77
CONFIG = DiffusionStageConfig(
    steps=4, batch_size=1, learning_rate=1e-3, validate_every=2, checkpoint_every=1, keep_last=1
)


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


def faults_of(names: list[str]) -> list[tuple[int, str]]:
    """Every fault that every operation can have."""
    return [(number, kind) for number, name in enumerate(names) for kind in [*ERRORS, *(WRITES * (name == "write"))]]


def save_third(folder: Path, **options) -> Operations:
    """Two sound checkpoints, then a third under ``Operations``; a failure is what the loop would get to see."""
    checkpoints = Checkpoints(folder)
    with Operations(within=folder, **options) as operations, contextlib.suppress(OSError, CheckpointError):
        checkpoints.save(snapshot(3), {"lora.safetensors": b"for people" * 50})
        checkpoints.rotate(keep_last=1, keep_every=0)
    return operations


def prepared(folder: Path) -> Path:
    for step in (1, 2):
        Checkpoints(folder).save(snapshot(step), {"lora.safetensors": b"for people" * 50})
    return folder


def test_every_fault_of_a_save_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    names = save_third(prepared(tmp_path / "counted")).names
    assert_sound(Checkpoints(tmp_path / "counted").newest()[0], (3,))
    tried: Counter[str] = Counter()
    for number, kind in faults_of(names):
        folder = prepared(tmp_path / f"{number}-{kind}")
        assert save_third(folder, fault=(number, kind)).spoiled
        tried[kind] += 1
        newest, words = Checkpoints(folder).newest()
        assert_sound(newest, (1, 2, 3))
        assert not words, f"{kind} at {names[number]} {number} was only noticed later"
        # The next save works, and leaves nothing lying about.
        Checkpoints(folder).save(snapshot(4), {})
        Checkpoints(folder).rotate(keep_last=1, keep_every=0)
        assert_sound(Checkpoints(folder).newest()[0], (4,))
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".step-")]
    print(f"save: {len(names)} operations, {tried.total()} faults tried ({dict(tried)}), none lost a run")
    assert tried.total() > 150


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process that does ``work``; none of its clean-up runs when it is cut off."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cut_off_at(number: int) -> Callable[[int, str], None]:
    def before(at: int, name: str) -> None:
        if at == number:
            os._exit(CUT_OFF)

    return before


def test_a_power_cut_at_every_operation_of_a_save(tmp_path: Path) -> None:
    names = save_third(prepared(tmp_path / "counted")).names
    for number in range(len(names)):
        folder = prepared(tmp_path / str(number))

        def work(folder: Path = folder, number: int = number) -> None:
            save_third(folder, before=cut_off_at(number))

        assert in_child(work) == CUT_OFF
        newest, words = Checkpoints(folder).newest()
        assert_sound(newest, (2, 3))
        assert not words
        Checkpoints(folder).save(snapshot(4), {})
        assert not [path.name for path in folder.iterdir() if path.name.startswith((".step-", ".removed-"))]
    print(f"power cuts: {len(names)} tried, none lost a run")


def test_every_fault_of_a_whole_file(tmp_path: Path) -> None:
    """The content from before, or the new one: never a mixture, as far as the disk says what it does."""
    path = tmp_path / "run.json"
    old, new = b"old" * 1000, b"new" * 1000
    with Operations(within=tmp_path) as counted:
        write_whole(path, new)
    tried = 0
    for number, kind in faults_of(counted.names):
        if kind in ("torn", "flipped"):
            continue  # nobody can tell without reading back, which checkpoints and results do
        path.write_bytes(old)
        with Operations(within=tmp_path, fault=(number, kind)), contextlib.suppress(OSError):
            write_whole(path, new)
        assert path.read_bytes() in (old, new)
        tried += 1
    assert tried >= 4 * len(counted.names)


def start_and_data():
    full = synthetic_data(8, 128, 64)
    data = RealLatents(full.samples[:6], full.prompts[:6], full.empty_prompt, (4, 5), "faults")
    return lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=1, alpha=1.0, targets="attention")), data


class Noted:
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def scalars(self, *_) -> None:
        pass

    preview = resumed = scalars

    def note(self, step: int, text: str) -> None:
        self.notes.append(text)

    def should_stop(self) -> bool:
        return False


def train(folder: Path, reporter: Noted | None = None) -> StageResult:
    start, data = start_and_data()
    torch.set_num_threads(1)
    return train_diffusion_stage(
        start, data, CONFIG, device="cpu", reporter=reporter or Noted(), run_folder=folder
    )


def assert_same(one: StageResult, other: StageResult) -> None:
    assert all(torch.equal(tensor, other.lora.tensors[key]) for key, tensor in one.lora.tensors.items())
    assert one.log.records == other.log.records


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageResult, list[str]]:
    """A run without faults, and its file operations."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    folder.mkdir()
    with Operations(within=folder) as operations:
        result = train(folder)
    return result, operations.names


def test_faults_while_training(whole: tuple[StageResult, list[str]], tmp_path: Path) -> None:
    """The stage ends with the same LoRA whatever a disk does in between, and says what could not be written."""
    expected, names = whole
    tried = 0
    for number, kind in faults_of(names)[3::17]:
        folder = tmp_path / f"{number}-{kind}"
        folder.mkdir()
        with Operations(within=folder, fault=(number, kind)) as operations:
            try:
                result = train(folder)
            except OSError:
                # Before the first step a folder that cannot be written is an error, which costs nothing.
                assert not (folder / "checkpoints").exists()
                continue
        assert operations.spoiled
        tried += 1
        assert_same(expected, result)
        # And what it left behind is whole: the result, or the way to it.
        assert_same(expected, train(folder))
    print(f"training: {len(names)} operations, {tried} faults tried, no run lost")
    assert tried > 40


def test_power_cuts_while_training(whole: tuple[StageResult, list[str]], tmp_path: Path) -> None:
    expected, names = whole
    for number in range(2, len(names), 9):
        folder = tmp_path / str(number)
        folder.mkdir()

        def work(folder: Path = folder, number: int = number) -> None:
            with Operations(within=folder, before=cut_off_at(number)):
                train(folder)

        assert in_child(work) == CUT_OFF
        assert_same(expected, train(folder))


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimiser.safetensors", "state.json", "stats.jsonl"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "zeroed", "removed"])
def test_a_damaged_newest_checkpoint(
    whole: tuple[StageResult, list[str]], tmp_path: Path, file: str, damage: str
) -> None:
    """The one before is used, with a word about it, and the run ends as ever."""
    expected, _ = whole
    folder = tmp_path / "run"

    class Stopping(Noted):
        def should_stop(self) -> bool:
            return len(list((folder / "checkpoints").glob("step-*"))) > 1

    start, data = start_and_data()
    config = dataclasses.replace(CONFIG, keep_last=2)
    stopped = train_diffusion_stage(start, data, config, device="cpu", reporter=Stopping(), run_folder=folder)
    assert stopped.stopped
    *_, newest = sorted((folder / "checkpoints").glob("step-*"))
    path = newest / file
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            {
                "truncated": content[:half],
                "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
                "zeroed": b"\0" * len(content),
            }[damage]
        )
    reporter = Noted()
    assert_same(expected, train(folder, reporter))
    assert any("is damaged and is not used" in text and newest.name in text for text in reporter.notes)


def test_a_file_size_limit_is_a_full_disk(whole: tuple[StageResult, list[str]], tmp_path: Path) -> None:
    """No wrapper here: the kernel itself refuses to let files grow."""
    expected, _ = whole
    folder = tmp_path / "run"

    def work() -> None:
        # The first of a checkpoint's files fits, the moments do not.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        reporter = Noted()
        result = train(folder, reporter)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        lora.save(result.lora, tmp_path / "result.safetensors")
        (tmp_path / "notes.json").write_text(json.dumps(reporter.notes))

    assert in_child(work) == 0
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert sum("could not be written" in note and "File too large" in note for note in notes) >= CONFIG.steps
    assert not list((folder / "checkpoints").glob("*"))
    saved = load_file(tmp_path / "result.safetensors")
    for key, tensor in expected.lora.tensors.items():
        assert torch.equal(saved[f"transformer.{key}"], tensor)
    assert_same(expected, train(folder))


def test_a_folder_without_permission(whole: tuple[StageResult, list[str]], tmp_path: Path) -> None:
    """Taken away in the midst of the run, from a user who is not root."""
    expected, _ = whole
    folder = tmp_path / "run"
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(0o755)

    class Locking(Noted):
        def scalars(self, stage: str = "", step: int = 0, *_) -> None:
            if step == 2:
                (folder / "checkpoints").chmod(0o555)

    def work() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        reporter = Locking()
        result = train(folder, reporter)
        lora.save(result.lora, tmp_path / "result.safetensors")
        (tmp_path / "notes.json").write_text(json.dumps(reporter.notes))

    assert in_child(work) == 0
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert any("Permission denied" in note and "The one of step 1 is kept" in note for note in notes)
    saved = load_file(tmp_path / "result.safetensors")
    for key, tensor in expected.lora.tensors.items():
        assert torch.equal(saved[f"transformer.{key}"], tensor)
