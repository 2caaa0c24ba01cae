"""SIGKILL at any moment of both stages: the run that goes on ends as the run that was left alone, bit for bit."""

from __future__ import annotations

import bisect
import itertools
import json
import multiprocessing
import random
import signal
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.durability.training_child import JUDGES, STAGE_1, STAGE_2, STAGES, Place, beside, run

# Each run from end to end is killed at a few moments, all of them together at this many.
KILLS, RUNS = 20, 4
KILLS_IN_SAVES, KILLS_ELSEWHERE = 8, 4
SECONDS = 240


# Children are forked from a process that has imported everything once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["fluxduel.tests.durability.training_child"])


class Line(NamedTuple):
    """One line that a run has told: after how much work, what, and the step it is about where it is about one."""

    work: int
    text: str
    place: Place | None


def told(folder: Path) -> list[Line]:
    """All sittings' lines. The last is left out where the kill came while it was written."""
    file = beside(folder, "told")
    lines = []
    for line in file.read_text().splitlines(keepends=True) if file.exists() else []:
        if line.endswith("\n"):
            work, text = line.rstrip("\n").split(" ", 1)
            words = text.removeprefix("resumed ").split()
            lines.append(Line(int(work), text, _place(*words) if words[0] in STAGES else None))
    return lines


def _place(stage: str, step: str) -> Place:
    return STAGES.index(stage), int(step)


class Child:
    """A training process in ``folder``."""

    def __init__(
        self, folder: Path, judge: str, last_operation: int = -1, kill_at: tuple[Place, int] | None = None
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._before = len(told(folder))
        self.process = processes.Process(target=run, args=(folder, judge, last_operation, kill_at))
        self.process.start()

    def lines(self) -> list[Line]:
        """What this sitting has told."""
        return told(self.folder)[self._before :]

    def finish(self) -> None:
        self.process.join(SECONDS)
        assert self.process.exitcode == 0, f"exit code {self.process.exitcode}"

    def is_killed(self) -> None:
        """Wait until the process has killed itself."""
        self.process.join(SECONDS)
        assert self.process.exitcode == -signal.SIGKILL, f"exit code {self.process.exitcode}"


def assert_same(one: Path, other: Path) -> None:
    for stage in STAGES:
        assert (one / stage / "stats.jsonl").read_bytes() == (other / stage / "stats.jsonl").read_bytes()
        for name in ("lora", "discriminator")[: 1 + (stage == "adversarial")]:
            expected, found = (load_file(folder / stage / f"{name}.safetensors") for folder in (one, other))
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected), f"{stage}: {name}"
    left = [path for path in other.rglob(".*") if path.name != ".lock"]
    assert not left, f"left by a killed process: {left}"


def steps_lost(lines: list[Line]) -> list[int]:
    """For each sitting that went on: how many steps it had to do again."""
    lost, furthest = [], [0, 0]
    for line in lines:
        if line.place is not None:
            stage, step = line.place
            if line.text.startswith("resumed"):
                lost.append(furthest[stage] - step)
            furthest[stage] = max(furthest[stage], step)
    return lost


class Whole(NamedTuple):
    """A run that nothing happens to: its folder, what it told, and its file operations, each with its path."""

    judge: str
    folder: Path
    lines: list[Line]
    operations: list[list[str]]


@pytest.fixture(scope="module", params=JUDGES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "run"
    Child(folder, request.param).finish()
    return Whole(request.param, folder, told(folder), json.loads(beside(folder, "operations").read_text()))


def test_killed_at_random_moments(whole: Whole, tmp_path: Path) -> None:
    """The moments are spread evenly over the work of the whole run, measurements and saves included."""
    steps = [line for line in whole.lines if line.place is not None]
    done = [line.work for line in steps]
    chosen = random.Random(whole.judge)
    moments = sorted(chosen.randrange(done[0], done[-1]) for _ in range(KILLS))
    kinds, places, lost = Counter(), [], []
    for number in range(RUNS):
        folder = tmp_path / f"run{number}"
        for moment in moments[number::RUNS]:
            last = steps[bisect.bisect_right(done, moment) - 1]
            assert last.place is not None
            child = Child(folder, whole.judge, kill_at=(last.place, moment - last.work))
            child.is_killed()
            at, kind = where(child)
            kinds[kind] += 1
            places.append(f"{at} ({kind})")
        Child(folder, whole.judge).finish()
        assert_same(whole.folder, folder)
        lost += steps_lost(told(folder))
    print(f"\n{whole.judge}: {len(places)} kills at random moments, {dict(kinds)}: {'; '.join(places)}")
    print(f"steps done again: {lost}")
    assert len(places) == KILLS
    assert max(lost) <= max(STAGE_1.checkpoint_every, STAGE_2.checkpoint_every)
    assert {place.split()[0] for place in places} == set(STAGES)


def where(child: Child) -> tuple[str, str]:
    """The last step that was told, and what a child that was killed was at."""
    lines = child.lines()
    *_, step = (line.text.removeprefix("resumed ") for line in lines if line.place is not None)
    if any(path.name.endswith(".tmp") for path in child.folder.rglob(".*")):
        return step, "in a save"
    return step, "in a measurement" if lines[-1].text == "measuring" else "in a step"


def test_killed_within_saves(whole: Whole, tmp_path: Path) -> None:
    """The process kills itself at a file operation of its own, in the midst of writing, flushing, reading, renaming."""
    in_saves = [number for number, (_, place) in enumerate(whole.operations) if "/checkpoints/.step-" in f"/{place}"]
    others = sorted(set(range(len(whole.operations))) - set(in_saves))
    chosen = random.Random(f"{whole.judge} saves")
    # By kind of operation in turn: of reads and writes there are many more than of renames.
    kinds = sorted({whole.operations[number][0] for number in in_saves})
    picked = [chosen.choice([n for n in in_saves if whole.operations[n][0] == kind]) for kind in kinds]
    picked += chosen.sample(in_saves, max(0, KILLS_IN_SAVES - len(picked)))
    killed = []
    for number in sorted([*picked, *chosen.sample(others, KILLS_ELSEWHERE)]):
        folder = tmp_path / f"save{number}"
        child = Child(folder, whole.judge, last_operation=number)
        child.is_killed()
        killed.append(beside(folder, "killed_at").read_text())
        Child(folder, whole.judge).finish()
        assert_same(whole.folder, folder)
        lost = steps_lost(told(folder))
        assert all(n <= max(STAGE_1.checkpoint_every, STAGE_2.checkpoint_every) for n in lost)
    inside = [text for text in killed if "/checkpoints/.step-" in text]
    print(f"\n{whole.judge}: {len(whole.operations)} file operations, {len(killed)} kills, {len(inside)} in a save:")
    print("  " + "\n  ".join(killed))
    assert len(inside) >= KILLS_IN_SAVES
    assert {"write", "fsync", "replace"} <= {text.split()[0] for text in itertools.chain(inside)}
