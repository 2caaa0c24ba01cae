"""SIGKILL at any moment of both stages: the run that goes on ends as the run that was left alone, bit for bit."""

from __future__ import annotations

import multiprocessing
import random
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.durability.training_child import JUDGES, STAGE_1, STAGE_2, run

STEP = re.compile(r"(diffusion|adversarial) (\d+)")
KILLS = 20
KILLS_IN_SAVES = 10
SECONDS = 240


# Children are forked from a process that has imported everything once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["fluxduel.tests.durability.training_child"])


class Child:
    """A training process in ``folder``, and what it has told of its progress."""

    def __init__(self, folder: Path, judge: str, last_operation: int = -1) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.process = processes.Process(target=run, args=(folder, judge, last_operation))
        self.process.start()

    def told(self) -> list[str]:
        file = self.folder / "told.txt"
        return file.read_text().splitlines() if file.exists() else []

    def steps(self) -> list[str]:
        """The steps that were told, of this sitting and of earlier ones."""
        return [line for line in self.told() if STEP.fullmatch(line)]

    def finish(self) -> None:
        self.process.join(SECONDS)
        assert self.process.exitcode == 0, f"exit code {self.process.exitcode}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def assert_same(one: Path, other: Path) -> None:
    for stage in ("diffusion", "adversarial"):
        assert (one / stage / "stats.jsonl").read_bytes() == (other / stage / "stats.jsonl").read_bytes()
        for name in ("lora", "discriminator")[: 1 + (stage == "adversarial")]:
            expected, found = (load_file(folder / stage / f"{name}.safetensors") for folder in (one, other))
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected), f"{stage}: {name}"


def steps_lost(told: list[str]) -> list[int]:
    """For each sitting that went on: how many steps it had to do again."""
    lost, furthest = [], {}
    for line in told:
        if match := re.fullmatch(r"resumed (\w+) (\d+)", line):
            lost.append(furthest.get(match[1], 0) - int(match[2]))
        elif match := STEP.fullmatch(line):
            furthest[match[1]] = max(furthest.get(match[1], 0), int(match[2]))
    return lost


class Whole(NamedTuple):
    """A run that nothing happens to: its folder, the seconds between its first and last step, its file operations."""

    judge: str
    folder: Path
    seconds: float
    operations: int


@pytest.fixture(scope="module", params=JUDGES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "run"
    child = Child(folder, request.param)
    while not child.steps() and child.process.is_alive():
        time.sleep(0.01)
    began = time.monotonic()
    child.finish()
    return Whole(request.param, folder, time.monotonic() - began, int((folder / "operations").read_text()))


def test_killed_at_random_moments(whole: Whole, tmp_path: Path) -> None:
    """Each sitting is killed a random time after its first step; together they cover both stages."""
    moments, folder, places = random.Random(whole.judge), tmp_path / "run", []
    while len(places) < KILLS:
        child = Child(folder, whole.judge)
        known = len(child.steps())
        while child.process.is_alive() and len(child.steps()) <= known:
            time.sleep(0.005)
        # A sitting's mean is an eighth of the run, so that the kills lie in two or three runs from end to end.
        deadline = time.monotonic() + moments.uniform(0, whole.seconds / 4)
        while child.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        if not child.process.is_alive():
            child.finish()
            assert_same(whole.folder, folder)
            folder = folder.with_name(f"run{len(places)}")
            continue
        child.kill()
        saving = any(path.name.endswith(".tmp") for path in folder.glob("*/checkpoints/.*"))
        places.append(child.steps()[-1] + (" in a save" if saving else ""))
    Child(folder, whole.judge).finish()
    assert_same(whole.folder, folder)
    lost = [n for path in tmp_path.glob("run*/told.txt") for n in steps_lost(path.read_text().splitlines())]
    print(f"{whole.judge}: {len(places)} kills at {'; '.join(places)}; steps done again: {lost}")
    assert max(lost) <= max(STAGE_1.checkpoint_every, STAGE_2.checkpoint_every)
    assert {place.split()[0] for place in places} == {"diffusion", "adversarial"}


def test_killed_within_saves(whole: Whole, tmp_path: Path) -> None:
    """The process kills itself at a file operation of its own, in the midst of writing, flushing or renaming."""
    chosen, kinds = random.Random(f"{whole.judge} saves"), []
    for number in sorted(chosen.sample(range(whole.operations), KILLS_IN_SAVES)):
        folder = tmp_path / f"save{number}"
        child = Child(folder, whole.judge, last_operation=number)
        child.process.join(SECONDS)
        assert child.process.exitcode == -signal.SIGKILL
        kinds.append(f"{(folder / 'killed_at').read_text()} {number}")
        Child(folder, whole.judge).finish()
        assert_same(whole.folder, folder)
    print(f"{whole.judge}: of {whole.operations} file operations killed at {', '.join(kinds)}")
    assert len({kind.split()[0] for kind in kinds}) >= 3
