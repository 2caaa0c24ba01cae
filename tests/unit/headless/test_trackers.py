"""Curves and previews arrive in the trackers' own files, and a tracker that fails costs no step."""

from __future__ import annotations

import importlib.util
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxduel.headless import trackers
from fluxduel.headless.run_config import RunConfig, TrackersConfig
from fluxduel.headless.trackers import FOLDER, TrackerError, Trackers, wanted


def config(names: str) -> RunConfig:
    return RunConfig(trackers=TrackersConfig(trackers=names, project="the project"))


def report(run: Trackers, steps: range, offset: float = 0.0) -> None:
    for step in steps:
        run.scalars(step, {"diffusion_loss": step + offset, "learning_rate": 1e-4})


def test_names_are_read_with_spaces_and_once() -> None:
    pytest.importorskip("tensorboard")
    assert wanted(TrackersConfig(trackers=" TensorBoard ,tensorboard,")) == ("tensorboard",)
    assert wanted(TrackersConfig()) == ()


def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(trackers._TRACKERS, "no_such_tracker", trackers._TensorBoard)
    with pytest.raises(TrackerError, match="pip install no_such_tracker"):
        wanted(TrackersConfig(trackers="no_such_tracker"))


def events(folder: Path) -> Any:
    """What TensorBoard reads from the folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_holds_every_number_under_its_stage_and_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = Trackers("diffusion", tmp_path / "diffusion-1", config("tensorboard"))
    run.scalars(0, {"held_out_loss": 9.0})
    report(run, range(1, 6))
    run.picture(4, Image.new("RGB", (20, 10), "red"))
    run.finish()
    found = events(tmp_path / FOLDER / "diffusion-1")
    assert set(found.Tags()["scalars"]) == {
        "diffusion/held_out_loss", "diffusion/diffusion_loss", "diffusion/learning_rate"
    }  # fmt: skip
    assert [(e.step, e.value) for e in found.Scalars("diffusion/diffusion_loss")] == [(s, s) for s in range(1, 6)]
    assert [e.step for e in found.Scalars("diffusion/held_out_loss")] == [0]
    (picture,) = found.Images("diffusion/preview")
    assert (picture.step, picture.width, picture.height) == (4, 20, 10)
    (hparams,) = (tmp_path / FOLDER / "diffusion-1").glob("*/hparams.yml")
    assert "lora.rank: 16" in hparams.read_text()


def test_a_run_that_goes_on_replaces_what_it_trains_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for steps, offset in ((range(1, 6), 0.0), (range(4, 8), 100.0)):
        run = Trackers("adversarial", tmp_path / "run", config("tensorboard"))
        report(run, steps, offset)
        run.finish()
    found = events(tmp_path / FOLDER / "run").Scalars("adversarial/diffusion_loss")
    assert [(e.step, e.value) for e in found] == [(1, 1), (2, 2), (3, 3), *((s, s + 100) for s in range(4, 8))]


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / FOLDER).write_text("a file where the folder belongs")
    run = Trackers("diffusion", tmp_path / "run", config("tensorboard"))
    with caplog.at_level(logging.WARNING, logger=trackers.__name__):
        report(run, range(1, 4))
        run.picture(3, Image.new("RGB", (4, 4)))
        run.finish()
    (record,) = caplog.records
    assert "tensorboard failed" in record.getMessage()
    assert "goes on" in record.getMessage()


def test_a_tracker_that_fails_later_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    run = Trackers("diffusion", tmp_path / "run", config("tensorboard"))
    report(run, range(1, 2))
    del run._running["tensorboard"].tracker.writer
    with caplog.at_level(logging.WARNING, logger=trackers.__name__):
        report(run, range(2, 5))
        run.finish()
    assert len(caplog.records) == 1


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run = Trackers("diffusion", tmp_path / "run", config(""))
    report(run, range(1, 3))
    run.finish()
    assert list(tmp_path.iterdir()) == []


def test_wandb_stays_offline_unless_the_user_set_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    run = Trackers("diffusion", tmp_path / "diffusion-1", config("wandb"))
    report(run, range(1, 4))
    run.picture(3, Image.new("RGB", (4, 4)))
    report(run, range(4, 5))  # wandb counts a step as done when the next one begins
    own = run._running["wandb"].tracker.tracker
    assert (own.summary["diffusion/diffusion_loss"], own.summary["_step"]) == (3, 3)
    assert own.config["lora.rank"] == 16
    run.finish()
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))
    assert list(offline.rglob("*.png"))


TRACKIO_RUN = """
import sys
from pathlib import Path
from PIL import Image
from fluxduel.tests.launch_comfy import TorchvisionSchemas
sys.meta_path.insert(0, TorchvisionSchemas())
from fluxduel.headless.run_config import RunConfig, TrackersConfig
from fluxduel.training.trackers import Trackers
for steps in (range(1, 4), range(4, 6)):
    config = RunConfig(trackers=TrackersConfig(trackers="trackio", project="mine"))
    run = Trackers("diffusion", Path(sys.argv[1]) / "diffusion-1", config)
    for step in steps:
        run.scalars(step, {"diffusion_loss": 0.5})
    run.picture(steps[-1], Image.new("RGB", (4, 4)))
    run.finish()
"""


def test_trackio_keeps_the_run_on_this_machine(tmp_path: Path) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    # In a process of its own: trackio reads where to write when it is imported.
    settings = {name: value for name, value in os.environ.items() if not name.startswith("TRACKIO_")}
    folder = tmp_path / "trackio"
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO_RUN, str(tmp_path)],
        env=settings | {"TRACKIO_DIR": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    (database,) = folder.glob("mine*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert len({run for run, _, _ in rows}) == 1
    assert [step for _, step, metrics in rows if b"diffusion/diffusion_loss" in bytes(metrics)] == [1, 2, 3, 4, 5]
    assert [step for _, step, metrics in rows if b"diffusion/preview" in bytes(metrics)] == [3, 5]
