"""What a headless run refuses before it loads anything, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fluxduel.headless.command_line import main
from fluxduel.headless.config_file import PATHS
from fluxduel.tests.unit.data.odd_pictures import noise


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures with captions, of which one cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("good", "bad"):
        noise(64, 64).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a picture")
    (folder / "bad.png").write_bytes(b"")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments), "--base.device", "cpu"]) == 2
    out, told = capsys.readouterr()
    assert out == "" and "Traceback" not in told
    return told


# Paths of Windows


WINDOWS = ("C:\\pics", "d:/My Pictures/cats", "\\\\server\\share\\pics")


@pytest.mark.skipif(os.name == "nt", reason="there they are right")
@pytest.mark.parametrize("path", WINDOWS)
@pytest.mark.parametrize("option", PATHS)
def test_a_path_of_windows_is_named_as_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str, path: str
) -> None:
    """In a flag and in a file alike; for every option: what is written would be made below the folder at hand."""
    monkeypatch.chdir(tmp_path)
    section, name = option.split(".")
    (tmp_path / "config.json").write_text(json.dumps({section: {name: path}}))
    for arguments in (["train", f"--{option}", path], ["train", "config.json"]):
        told = refused(capsys, *arguments)
        assert told.startswith(f"{option}: {path} is a path of Windows, and this is another system.")
        assert str(tmp_path) not in told
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.skipif(os.name == "nt", reason="there they are right")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", WINDOWS[0]], "config: "),
        (["evaluate", "--lora", "a.safetensors", "--lora", WINDOWS[0]], "--lora: "),
        (["evaluate", "--lora", "a.safetensors", "--out", WINDOWS[2]], "--out: "),
        (["sample", "--lora", "a.safetensors", "--prompts", WINDOWS[1]], "--prompts: "),
    ],
)
def test_so_is_one_of_an_argument(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    assert refused(capsys, *arguments).startswith(f"{named}{arguments[-1]} is a path of Windows")


@pytest.mark.skipif(os.name == "nt", reason="there they are right")
def test_so_is_one_of_a_command_without_options(capsys: pytest.CaptureFixture[str]) -> None:
    for command, name in (("inspect", "file"), ("workflow", "graph")):
        assert main([command, WINDOWS[0]]) == 2
        assert capsys.readouterr().err.startswith(f"{name}: {WINDOWS[0]} is a path of Windows")


def test_a_folder_that_only_looks_like_one_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "C:").mkdir()
    assert "holds no picture" in refused(capsys, "train", "--images.folder", "C:/")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a/"])
def test_a_name_that_is_none(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    asked = ["train", "--images.folder", pictures, "--output.folder", tmp_path / "o"]
    told = refused(capsys, *asked, "--output.name", name)
    assert told == f"output.name must be the name of a file without folders, got {name!r}.\n"


@pytest.mark.parametrize("guidance", ["nan", "inf", "-1", "101", "much"])
@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_guidance_outside_of_what_flux_knows(capsys: pytest.CaptureFixture[str], command: str, guidance: str) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--lora", "a.safetensors", f"--guidance={guidance}"])
    assert left.value.code == 2
    assert f"--guidance: takes a number from 0 to 100, got '{guidance}'." in capsys.readouterr().err


# Among the pictures


@pytest.mark.parametrize("option", ["folder", "cache"])
@pytest.mark.parametrize("way", ["same", "relative", "linked"])
def test_a_run_does_not_write_among_its_pictures(
    tmp_path: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    way: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(pictures)
    path = {"same": pictures, "relative": "../" + tmp_path.name + "/pictures/", "linked": "linked"}[way]
    before = sorted(pictures.iterdir())
    told = refused(capsys, "train", "--images.folder", pictures, f"--output.{option}", path)
    assert told.startswith(f"images.folder and output.{option} are both {path}: the pictures that a run writes would")
    assert f"another --output.{option}, such as {Path(path) / 'output'}, which is left out" in told
    assert sorted(pictures.iterdir()) == before


# Nothing is left


def test_a_refusal_leaves_no_empty_folder(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, cache = tmp_path / "new" / "out", tmp_path / "elsewhere" / "cache"
    asked = ["train", "--images.folder", pictures, "--output.folder", out]

    def left() -> list[str]:
        return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.iterdir())

    (pictures / "good.txt").rename(pictures / "other.txt")
    assert "no caption file" in refused(capsys, *asked) and left() == ["pictures"]
    assert "no caption file" in refused(capsys, *asked, "--output.cache", cache) and left() == ["pictures"]
    assert "/no/base" in refused(capsys, *asked, "--base.checkpoint", "/no/base") and left() == ["pictures"]
    (pictures / "good.png").unlink()
    (pictures / "other.txt").unlink()
    assert "it is empty" in refused(capsys, *asked, "--output.cache", cache) and left() == ["pictures"]
    lora = tmp_path / "pictures" / "no.safetensors"
    assert "no.safetensors" in refused(capsys, "evaluate", *asked[1:], "--lora", lora, "--out", out / "e")
    assert "no.safetensors" in refused(capsys, "sample", "--lora", lora, "--prompt", "x", "--out", out / "s")
    assert left() == ["pictures"]
    # What was there stays, empty or not.
    out.mkdir(parents=True)
    assert "it is empty" in refused(capsys, *asked) and out.is_dir() and not any(out.iterdir())


def test_a_base_in_int8_is_not_split_over_cards(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(
        capsys, "train", "--images.folder", pictures, "--base.precision", "int8_convrot", "--base.shard", "true"
    )
    assert "shard is on and precision is int8_convrot" in told and "Set precision to bf16, or shard to false" in told


@pytest.mark.parametrize("stage", ["diffusion", "adversarial"])
def test_streaming_that_cannot_be_is_refused_before_a_picture_is_read(
    pictures: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    """Of either stage, the second one too: not after hours of the first."""
    flags = (f"--{stage}.streamed_share", "0.5", f"--{stage}.gradient_checkpointing", "false")
    told = refused(capsys, "train", "--images.folder", pictures, *flags)
    assert f"{stage}.streamed_share is 0.5 and gradient_checkpointing is off" in told and "bad" not in told
