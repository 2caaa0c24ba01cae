"""Plant small faults one at a time and see whether the tests of their room notice: ``make test-mutation``.

All happens in a copy of the tree. For each fault those tests run that reach its function, the quickest first, until one
fails. Each runs in a fork of one process that has torch loaded. What has been tried is not tried again unless the
file, or for a fault that nobody noticed any test, has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ROOT
from fluxduel.tests.launch_comfy import TorchvisionSchemas
from fluxduel.tests.mutation.faults import Fault, faults, with_fault
from fluxduel.tests.mutation.reach import EVERYTHING, Reach

FOLDER = ROOT / ".bench" / "mutation"
COPY = FOLDER / "fluxduel"
# What lies on the ground is tested by itself and by whoever stands on it.
TESTS = {
    "ground": ["tests/unit/test_atomic_file.py", "tests/unit/test_config.py", "tests/unit/test_failure_words.py",
               "tests/unit/test_flow.py", "tests/unit/headless/test_options_document.py", "tests/unit/data",
               "tests/unit/stages", "tests/engine/stages"],
    "headless": ["tests/unit/headless", "tests/engine/headless"],
}  # fmt: skip
ROOMS = ("ground", "base", "lora", "data", "evidence", "stages", "runs", "discriminator", "headless")
MEMORY = 8 << 30


@dataclass(frozen=True)
class Trial:
    """One fault, and the file that it is planted in."""

    room: str
    file: str
    source: str
    fault: Fault

    @property
    def key(self) -> str:
        """Of this fault in this very file."""
        return hashlib.sha256(f"{self.source}\0{self.fault.path}\0{self.fault.now}".encode()).hexdigest()[:20]


def tests_of(room: str) -> list[str]:
    """Folders and files with the tests of ``room``."""
    return [name for name in TESTS.get(room, [f"tests/unit/{room}", f"tests/engine/{room}"]) if (COPY / name).exists()]


def trials(rooms: list[str]) -> Iterator[Trial]:
    """All faults that could be planted in ``rooms``."""
    for room in rooms:
        folder = {"ground": "training", "discriminator": "discriminator", "headless": "headless"}.get(room)
        files = (COPY / (folder or f"training/{room}")).glob("*.py" if room == "ground" else "**/*.py")
        for path in sorted(files):
            source = path.read_text()
            for fault in faults(source):
                yield Trial(room, str(path.relative_to(COPY)), source, fault)


def copied_tree() -> str:
    """Make the copy anew. Returns a hash of what can decide whether a test fails."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT, COPY, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))
    files = sorted(path for path in COPY.rglob("*") if path.suffix in (".py", ".json", ".md"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:20]


def forked(work: Callable[[], Any], seconds: float) -> Any:
    """What ``work`` returns (JSON) in a process of its own, from the copy; ``None`` where it takes longer, takes
    too much memory, or dies."""
    answer = FOLDER / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            os.setsid()
            os.chdir(COPY)
            output = os.open(FOLDER / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1), os.dup2(output, 2)
            sys.path.insert(0, str(FOLDER))
            os.environ["PYTHONPATH"] = str(FOLDER)
            for name in [name for name in sys.modules if name.split(".")[0] == "fluxduel"]:
                del sys.modules[name]
            answer.write_text(json.dumps(work()))
        finally:
            os._exit(0)
    ends = time.monotonic() + seconds
    while not os.waitpid(child, os.WNOHANG)[0]:
        # Not as a limit of the process: tests map files of a real FLUX's size, which are holes.
        pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
        if time.monotonic() > ends or pages * resource.getpagesize() > MEMORY:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.02)
    return json.loads(answer.read_text()) if answer.exists() else None


def run_pytest(arguments: list[str], plugin: object) -> int:
    """pytest's exit status, in the folder of the copy."""
    return int(pytest.main([*arguments, "-q", "-p", "no:cacheprovider"], plugins=[plugin]))


def reach(room: str, tree: str) -> dict[str, dict[str, Any]]:
    """What each sound test of ``room`` reaches, from an earlier call where the tree is the same."""
    tests: dict[str, dict[str, Any]] = {}
    for paths in tests_of(room):
        kept = FOLDER / f"reach-{tree}-{paths.replace('/', '-')}.json"
        if not kept.exists():
            print(f"{room}: what the tests in {paths} reach", flush=True)
            plugin = Reach(COPY)
            found = forked(lambda paths=paths, plugin=plugin: (run_pytest([paths], plugin), plugin.tests)[1], 7200)
            if not found:
                sys.exit(f"The tests in {paths} do not run; see {FOLDER / 'output.txt'}.")
            kept.write_text(json.dumps(found))
        tests |= json.loads(kept.read_text())
    for name in [name for name, told in tests.items() if told["failed"]]:
        print(f"left out, since it fails without a fault: {name}", flush=True)
        del tests[name]
    return tests


class FirstFailure:
    """A pytest plugin that remembers the test that noticed."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of a test."""
        if report.failed and not self.name:
            self.name = report.nodeid


def tried(trial: Trial, tests: dict[str, dict[str, Any]], most: float) -> str:
    """The test that notices the fault, or ``timeout or crash``; empty where none does.

    Of slow tests those are left out that do not fit into ``most`` seconds with all quicker ones.
    """
    wanted = f"{trial.file}::{trial.fault.function}"
    cached = "cache" in trial.source.split(f"def {trial.fault.function.split('.')[-1]}(")[0][-80:]
    reached = [
        name
        for name, told in tests.items()
        # What is remembered is computed in one test and used in all.
        if not trial.fault.function or cached or wanted in told["reached"] or EVERYTHING in told["reached"]
    ]
    if not reached:
        return ""
    # pytest sorts by layers; within one the order given stands.
    reached.sort(key=lambda name: tests[name]["seconds"])
    ends = itertools.accumulate(tests[name]["seconds"] for name in reached)
    reached = [name for name, end in zip(reached, ends, strict=True) if end <= most]
    path, failure = COPY / trial.file, FirstFailure()
    path.write_text(with_fault(trial.source, trial.fault))
    try:
        work = lambda: {"status": run_pytest([*reached, "-x"], failure), "by": failure.name}  # noqa: E731
        told = forked(work, 30 + 6 * sum(tests[name]["seconds"] for name in reached))
    finally:
        path.write_text(trial.source)
    if told is None:
        return "timeout or crash"
    return "" if told["status"] == 0 else told["by"] or "nothing could be collected"


def load_libraries() -> None:
    """What the tests use, once for all forks; nothing of it may have started a thread."""
    sys.meta_path.insert(0, TorchvisionSchemas())
    import accelerate  # noqa: F401
    import diffusers
    import matplotlib.pyplot
    import peft  # noqa: F401
    import torch
    import transformers

    torch.set_num_threads(1)
    for name in ("FluxTransformer2DModel", "AutoencoderKL", "FlowMatchEulerDiscreteScheduler"):
        getattr(diffusers, name)
    for name in ("CLIPTextModel", "T5EncoderModel"):
        getattr(transformers, name)
    matplotlib.pyplot.close("all")


def main() -> None:
    """Print each fault that nobody notices, and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many are drawn; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="most time of tests for a fault")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    tree = copied_tree()
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.dont_write_bytecode = True
    load_libraries()
    drawn = list(trials(given.rooms))
    random.Random(given.seed).shuffle(drawn)
    drawn = drawn[: given.faults or None]
    known, results = known_results(), FOLDER / "results.jsonl"
    killed: Counter[str] = Counter()
    planted = Counter(trial.room for trial in drawn)
    survivors = []
    reaches = {room: reach(room, tree) for room in sorted(planted, key=ROOMS.index)}
    for number, trial in enumerate(drawn, 1):
        earlier = known.get(trial.key)
        if earlier is not None and (earlier["by"] or earlier["tree"] == tree):
            by = earlier["by"]
        else:
            by = tried(trial, reaches[trial.room], given.seconds)
            with results.open("a") as file:
                words = trial.fault.in_words(trial.file)
                file.write(json.dumps({"key": trial.key, "tree": tree, "by": by, "fault": words}) + "\n")
        killed[trial.room] += bool(by)
        if not by:
            survivors.append(trial.fault.in_words(trial.file))
            print(f"[{number}/{len(drawn)}] nobody notices {survivors[-1]}", flush=True)
    (FOLDER / "survivors.txt").write_text("".join(f"{text}\n" for text in sorted(survivors)))
    by_room = ", ".join(f"{room} {killed[room]}/{planted[room]}" for room in ROOMS if planted[room])
    print(f"score: {killed.total()}/{len(drawn)} ({by_room}); the others are in {FOLDER / 'survivors.txt'}")


def known_results() -> dict[str, dict[str, Any]]:
    """By the key of a fault, the newest result."""
    path = FOLDER / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {told["key"]: told for told in map(json.loads, lines)}


if __name__ == "__main__":
    main()
