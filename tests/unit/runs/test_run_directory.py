"""Which folder a run gets, what tells two runs apart, and which checkpoints are kept."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.checkpoints import Checkpoints, Snapshot
from fluxduel.training.runs.fingerprints import Fingerprint, fingerprint
from fluxduel.training.runs.run_directory import RunDirectory, RunDirectoryError, choose

PARTS = {"method": 1, "rank": 16, "learning_rate": 1e-4, "data": "a", "lora": "b"}


def wanted(steps: int = 100, **changes: Any) -> Fingerprint:
    return Fingerprint("diffusion", PARTS | changes, steps)


def run(folder: Path, print_: Fingerprint, *, step: int = 0, finished: bool = False) -> Path:
    """A run's folder with a checkpoint of ``step``, or a result."""
    with RunDirectory.opened(folder, print_, {}) as directory:
        if step:
            directory.checkpoints.save(snapshot(step), {})
        if finished:
            directory.finish({}, {}, "")
    time.sleep(0.002)  # runs are told apart by when they were made
    return folder


def snapshot(step: int, score: float | None = None, unmeasured: bool = False) -> Snapshot:
    tensors = {"adapter": {"a": torch.full((2, 2), float(step))}, "replay": {}}
    numbers = {"never": math.nan, "most": math.inf}
    return Snapshot(step, tensors, numbers, "{}\n", unmeasured, score)


def test_a_first_run_is_new_and_its_folder_is_not_made_yet(tmp_path: Path) -> None:
    choice = choose(tmp_path / "runs", wanted())
    assert choice.folder.name.startswith("diffusion-") and choice.text == "A new run."
    assert not choice.finished and not (tmp_path / "runs").exists()


def test_a_finished_run_of_the_same_is_used(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", wanted(), finished=True)
    run(tmp_path / "b", wanted(), step=40)
    choice = choose(tmp_path, wanted())
    assert (choice.folder, choice.finished) == (folder, True)
    assert choice.text == "The same run is finished in a; its result is used."


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "older", wanted(), step=70)
    folder = run(tmp_path / "newer", wanted(), step=40)
    choice = choose(tmp_path, wanted())
    assert (choice.folder, choice.text) == (folder, "Going on with newer from update 40.")
    # Also to another number of steps, unless it is further already.
    assert choose(tmp_path, wanted(50)).text == "Going on with newer from update 40, steps now 50."
    assert choose(tmp_path, wanted(30)).text == "A new run: newer has 100 steps, 30 are asked for."


def test_a_run_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    """For an older one of the same; where there is none, a new run says why."""
    run(tmp_path / "oldest", wanted(), step=20)
    run(tmp_path / "newest", wanted(), step=40)
    furthest = Checkpoints.furthest

    def failing(self: Checkpoints) -> int:
        if self.folder.parent.name == "newest":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return furthest(self)

    monkeypatch.setattr(Checkpoints, "furthest", failing)
    assert choose(tmp_path, wanted()).text == "Going on with oldest from update 20."
    assert choose(tmp_path, wanted(10)).text.startswith("A new run: newest cannot be read (")


def test_more_steps_extend_the_longest_of_the_finished(tmp_path: Path) -> None:
    folder = run(tmp_path / "longer", wanted(80), finished=True)
    run(tmp_path / "shorter", wanted(60), finished=True)
    choice = choose(tmp_path, wanted(100))
    assert (choice.folder, choice.text) == (folder, "Extending longer: steps was 80, now 100.")
    assert choose(tmp_path, wanted(70)).folder.name == "shorter"
    assert choose(tmp_path, wanted(50)).text.startswith("A new run: ")


def test_a_new_run_says_what_changed_from_the_one_most_like_it(tmp_path: Path) -> None:
    run(tmp_path / "near", wanted(learning_rate=2e-4), finished=True)
    run(tmp_path / "far", wanted(learning_rate=3e-4, data="z", rank=8), finished=True)
    choice = choose(tmp_path, wanted())
    assert choice.text == "A new run. Different from near: learning_rate (was 0.0002, now 0.0001)."
    assert "the training data" in choose(tmp_path, wanted(learning_rate=2e-4, data="new")).text
    # Another stage's runs are none of this one's.
    assert choose(tmp_path, Fingerprint("adversarial", PARTS, 100)).text == "A new run."


def test_a_folder_of_another_run_or_in_use_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", wanted())
    with pytest.raises(RunDirectoryError, match=r"another run. Different are rank \(was 16, now 8\)"):
        run(tmp_path / "a", wanted(rank=8))
    with RunDirectory.opened(tmp_path / "a", wanted(), {}), pytest.raises(RunDirectoryError, match="is in use"):
        run(tmp_path / "a", wanted())


@pytest.mark.parametrize("room", [0, 1])
def test_a_full_disk_leaves_no_folder_of_a_run_that_never_began(tmp_path: Path, room: int) -> None:
    """No room for the lock's owner, nor for run.json; or for the first of them alone."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from fluxduel.tests.unit.runs.test_run_directory import run, wanted\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room * 100}, {room * 100}))\n"
        "run(Path(sys.argv[1]), wanted())"
    )
    folder = tmp_path / "diffusion-1"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"'{folder}/run.json'" in done.stderr.splitlines()[-1], done.stderr
    assert not any(tmp_path.iterdir())


def test_checkpoints_are_ordered_by_how_far_they_are(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.names() == [] and checkpoints.newest() == (None, []) and checkpoints.furthest() == 0
    for step, unmeasured in ((20, False), (10, False), (30, True), (20, True)):
        checkpoints.save(snapshot(step, unmeasured=unmeasured), {})
    names = ["step-00000010", "step-00000020-unmeasured", "step-00000020", "step-00000030-unmeasured"]
    assert checkpoints.names() == names
    newest, _ = checkpoints.newest()
    assert newest is not None and newest.step == 30 and newest.unmeasured
    of_at_most, _ = checkpoints.newest(25)
    assert of_at_most is not None and of_at_most.name == "step-00000020"
    # Numbers that JSON has no word for, and parts that are empty, come back.
    assert math.isnan(newest.numbers["never"]) and newest.numbers["most"] == math.inf and newest.tensors["replay"] == {}


def test_rotation_keeps_the_last_the_best_and_every(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    scores = {10: 0.5, 20: 0.2, 30: None, 40: 0.4, 50: None, 60: 0.2, 70: 0.9, 80: None}
    for step, score in scores.items():
        checkpoints.save(snapshot(step, score), {})
    checkpoints.rotate(keep_last=2, keep_every=30)
    # 20 and 60 are equally good: the earlier one counts as the best; 30 and 60 are multiples.
    assert [int(name[5:]) for name in checkpoints.names()] == [20, 30, 60, 70, 80]
    checkpoints.rotate(keep_last=1, keep_every=0)
    assert [int(name[5:]) for name in checkpoints.names()] == [20, 80]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_step_that_is_saved_already_is_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(snapshot(10), {"lora.safetensors": b"first"})
    assert checkpoints.save(snapshot(10), {"lora.safetensors": b"second"}) == folder
    assert (folder / "lora.safetensors").read_bytes() == b"first"


@pytest.fixture(scope="module")
def inputs():
    prompt = Prompt("", torch.zeros(16, 128), torch.zeros(64))
    sample = LatentSample("a", torch.zeros(16, 8, 8), None, None, None, None, 0)
    data = RealLatents((sample,), (prompt,), prompt, (), "x")
    return lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=1, alpha=1.0, targets="attention")), data


def changed(field: dataclasses.Field) -> Any:
    """Another valid value of an option."""
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return "d0"
    high = field.metadata["high"]
    step = 1 if isinstance(field.default, int) else 1e-3
    return field.default + step if high is None or field.default + step <= high else field.default - step


CONFIGS = {
    "diffusion": DiffusionStageConfig, "adversarial": AdversarialStageConfig, "discriminator": DiscriminatorConfig,
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "name"), [(s, f.name) for s, config in CONFIGS.items() for f in dataclasses.fields(config)]
)
def test_every_option_that_shapes_the_result_makes_another_run(inputs, section: str, name: str) -> None:
    start, data = inputs
    # Without practice and outside prompts their shares decide nothing.
    data = dataclasses.replace(data, practice_fingerprint="practice", outside_fingerprint="outside")
    field = next(f for f in dataclasses.fields(CONFIGS[section]) if f.name == name)
    made = {each: config() for each, config in CONFIGS.items()}
    other = made | {section: dataclasses.replace(made[section], **{name: changed(field)})}
    stage = "diffusion" if section == "diffusion" else "adversarial"

    def print_of(configs: dict[str, Any]) -> Fingerprint:
        judge = configs["discriminator"] if stage == "adversarial" else None
        return fingerprint(stage, start, data, configs[stage], judge)

    differing = print_of(other).differences(print_of(made).parts)
    assert bool(differing) == (field.metadata["shapes_result"] and name != "steps")
    assert (print_of(other).steps != print_of(made).steps) == (name == "steps" and section == stage)


def test_the_cut_of_a_batch_and_the_number_of_ranks_do_not_count(inputs) -> None:
    start, data = inputs

    def parts(batch_size: int, gradient_accumulation: int, ranks: int) -> Any:
        config = DiffusionStageConfig(batch_size=batch_size, gradient_accumulation=gradient_accumulation)
        return fingerprint("diffusion", start, data, config, ranks=ranks).parts

    assert parts(4, 2, 1) == parts(2, 4, 1) == parts(2, 2, 2) == parts(1, 1, 8) != parts(4, 1, 1)
