"""A run that would write over the LoRA that it begins with does not begin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxduel.headless.command_line import main
from fluxduel.headless.run_config import OutputConfig, RunConfig, StartConfig
from fluxduel.headless.train_command import check_start


def config(start: Path, folder: Path, **stages: bool) -> RunConfig:
    return RunConfig(start=StartConfig(lora=str(start), **stages), output=OutputConfig(folder=str(folder), name="mine"))


@pytest.mark.parametrize(
    ("name", "stages", "refused"),
    [
        ("mine", {"diffusion": True, "adversarial": True}, True),
        ("mine-stage1", {"diffusion": True, "adversarial": True}, True),
        ("mine-stage1", {"diffusion": True, "adversarial": False}, True),
        ("mine-interrupted-diffusion", {"diffusion": True, "adversarial": False}, True),
        ("mine", {"diffusion": False, "adversarial": True}, True),
        # What this run reads and does not write.
        ("mine-stage1", {"diffusion": False, "adversarial": True}, False),
        ("mine", {"diffusion": True, "adversarial": False}, False),
        ("other", {"diffusion": True, "adversarial": True}, False),
    ],
)
def test_a_start_that_would_be_written_over(tmp_path: Path, name: str, stages: dict[str, bool], refused: bool) -> None:
    start = tmp_path / f"{name}.safetensors"
    start.touch()
    if not refused:
        check_start(config(start, tmp_path, **stages))
        return
    with pytest.raises(ValueError, match="writes over.*--output.name"):
        check_start(config(start, tmp_path, **stages))


def test_other_ways_to_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    os.link(file, tmp_path / "hard.safetensors")
    (tmp_path / "soft.safetensors").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    for start in (
        "mine.safetensors",
        "../" + tmp_path.name + "/mine.safetensors",
        "hard.safetensors",
        "soft.safetensors",
    ):
        with pytest.raises(ValueError, match="writes over"):
            check_start(config(Path(start), tmp_path))
    check_start(config(Path("absent.safetensors"), tmp_path))
    check_start(RunConfig(output=OutputConfig(folder=str(tmp_path), name="mine")))


def test_the_command_says_so_before_it_loads_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "fluxduel.safetensors"
    start.touch()
    pictures = tmp_path / "pictures"
    flags = ["--start.lora", str(start), "--output.folder", str(tmp_path), "--images.folder", str(pictures)]
    assert main(["train", *flags]) == 2
    assert "start.lora" in capsys.readouterr().err
