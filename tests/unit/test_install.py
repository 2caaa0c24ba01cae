"""What an installation changes: pip resolves our requirements against copies of hosts' environments, on paper.

A copy holds each package's name, version and requirements (``environments/*.txt``) and nothing else, which is all that
pip looks at. ComfyUI-Manager hands the requirements to pip line by line, so that each line alone must move nothing
either.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import ROOT

ENVIRONMENTS = Path(__file__).with_name("environments")
# diffusers 0.35 wants a huggingface-hub of July 2025 or later.
OLD = "before-july-2025-transformers-4.50-hub-0.30"
REQUIREMENTS = ROOT / "requirements.txt"
LINES = REQUIREMENTS.read_text().split()
ENGINE_TESTS = ("engine/base", "engine/lora", "engine/evidence/test_sampler_and_metrics.py", "unit/lora", "unit/runs")


@dataclass(frozen=True)
class Copy:
    """An environment on paper: its interpreter, and the version of each package by normalised name."""

    name: str
    python: Path
    versions: dict[str, str]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def copy_of(name: str, folder: Path) -> Copy:
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    versions: dict[str, str] = {}
    metadata = site
    for line in (ENVIRONMENTS / f"{name}.txt").read_text().splitlines():
        if line.startswith("    "):
            with metadata.open("a") as file:
                file.write(f"Requires-Dist: {line.strip()}\n")
        elif not line.startswith("#"):
            package, version = line.split("==")
            versions[normalised(package)] = version
            metadata = site / f"{package.replace('-', '_')}-{version}.dist-info" / "METADATA"
            metadata.parent.mkdir()
            (metadata.parent / "INSTALLER").write_text("pip\n")
            metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    return Copy(name, folder / "bin" / "python", versions)


def changes(copy: Copy, *wanted: str) -> tuple[dict[str, str], dict[str, str]]:
    """What ``pip install <wanted>`` would move in the environment, and what it would add to it, by name."""
    report = copy.python.parents[1] / f"{normalised('-'.join(Path(w).name for w in wanted))}.json"
    pip = [sys.executable, "-m", "pip", "--python", str(copy.python), "install", "--dry-run", "--quiet"]
    # A machine may hold all of its environments to certain versions; a user's does not.
    variables = os.environ | {"PIP_CONSTRAINT": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*pip, "--report", str(report), *wanted], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{copy.name}: pip install {' '.join(wanted)}\n{done.stderr}"
    items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    found = {normalised(item["name"]): item["version"] for item in items}
    moved = {n: f"{copy.versions[n]} -> {version}" for n, version in found.items() if n in copy.versions}
    return moved, {n: version for n, version in found.items() if n not in copy.versions}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Copy]:
    names = sorted(path.stem for path in ENVIRONMENTS.glob("*.txt"))
    assert len(names) == 6
    return [copy_of(name, tmp_path_factory.mktemp("environments") / name) for name in names]


def table(copies: list[Copy], *wanted: str) -> dict[str, dict[str, str]]:
    """What would move, by environment; printed with what would be added."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda copy: changes(copy, *wanted), copies))
    for copy, (moved, added) in zip(copies, found, strict=True):
        words = ", ".join(f"{name} {change}" for name, change in moved.items()) or "nothing"
        new = ", ".join(f"{name} {version}" for name, version in sorted(added.items())) or "nothing"
        print(f"{copy.name}: moves {words}; adds {new}")
    return {copy.name: moved for copy, (moved, _) in zip(copies, found, strict=True)}


def test_the_requirements_move_nothing_that_a_host_has(copies: list[Copy]) -> None:
    moved = table(copies, "-r", str(REQUIREMENTS))
    old = moved.pop(OLD)
    # The newest that its transformers takes.
    assert old["huggingface-hub"] == "0.30.2 -> 0.36.2"
    assert not old.keys() & {"torch", "numpy", "transformers", "tokenizers", "safetensors", "pillow"}
    assert moved == {copy.name: {} for copy in copies if copy.name != OLD}


def test_a_requirement_that_moves_something_would_be_seen(copies: list[Copy]) -> None:
    """Every diffusers since 0.36 moves something, somewhere: why ours is held below."""
    newest = next(copy for copy in copies if "hub-2.4" in copy.name)
    moved, added = changes(newest, "diffusers==0.39.0")
    assert moved["huggingface-hub"].startswith("2.4.0 -> 1.")
    assert added["diffusers"] == "0.39.0"


@pytest.mark.slow
def test_the_engine_works_with_the_diffusers_that_hosts_get(copies: list[Copy], tmp_path: Path) -> None:
    """The environment of the tests has the newest diffusers; a host gets the one that moves nothing."""
    _, added = changes(copies[-1], "-r", str(REQUIREMENTS))
    diffusers = f"diffusers=={added['diffusers']}"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "packages")]
    subprocess.run([*install, diffusers], check=True)
    assert diffusers != f"diffusers=={importlib.metadata.version('diffusers')}"
    path = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    script = "import diffusers, pytest, sys; print(diffusers.__version__); sys.exit(pytest.main(sys.argv[1:]))"
    tests = [str(ROOT / "tests" / name) for name in ENGINE_TESTS]
    command = [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *tests]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert done.stdout.startswith(added["diffusers"])


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_each_line_alone_moves_nothing(copies: list[Copy], line: str) -> None:
    moved = table([copy for copy in copies if copy.name != OLD or not line.startswith("diffusers")], line)
    assert not any(moved.values()), moved
