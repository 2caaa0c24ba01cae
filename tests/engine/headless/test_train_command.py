"""``python -m fluxduel`` as a user runs it: both stages on the tiny base, signals, failures, pictures, ranks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from fluxduel.headless.command_line import main
from fluxduel.tests.engine.flux_encoders import T5_KIND, T5_SIZES, make_folder
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import TINY_BASE, LoRAConfig
from fluxduel.training.evidence.preview_sheet import previews
from fluxduel.training.lora import adapter as adapters
from fluxduel.training.runs.run_lock import held

PICTURES, SIDE = 6, 128
PROGRAM = [sys.executable, "-m", "fluxduel"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SECONDS = 120


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round shapes on plain grounds, each with its caption."""
    folder = tmp_path_factory.mktemp("pictures")
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for number in range(PICTURES):
        random = np.random.default_rng(number)
        pixels = np.empty((SIDE, SIDE, 3), np.uint8)
        pixels[...] = random.integers(0, 256, 3)
        row, column = random.integers(30, 98, 2)
        pixels[(rows - row) ** 2 + (columns - column) ** 2 < 900] = random.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"round shape {number % 2}")
    return folder


@pytest.fixture(scope="module")
def config_file(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of both stages."""
    values = {
        "base": {"precision": "fp32", "device": "cpu"},
        "lora": {"rank": 4, "alpha": 4.0},
        "images": {"folder": str(pictures)},
        "data": {"resolution": SIDE, "held_out_share": 0.3},
        "diffusion": {"steps": 24, "learning_rate": 1e-3, "preview_every": 12, "preview_steps": 2},
        "discriminator": {"width": 16},
        "adversarial": {
            "steps": 16, "discriminator_warmup": 4, "learning_rate": 1e-3, "watch_pictures": 4, "validate_every": 8,
            "preview_every": 10, "preview_steps": 2,
        },
    }  # fmt: skip
    file = tmp_path_factory.mktemp("config") / "config.json"
    file.write_text(json.dumps(values))
    return file


def run(*arguments: object, program: list[str] = PROGRAM) -> subprocess.CompletedProcess[str]:
    command = [*program, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, cwd="/", capture_output=True, text=True, timeout=SECONDS)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def same_tensors(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def records(run_folder: Path) -> list[dict[str, float]]:
    lines = (run_folder / "stats.jsonl").read_text().splitlines()
    return [line for text in lines if "note" not in (line := json.loads(text))]


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished run of both stages, and what it said."""

    output: Path
    said: str
    progress: str


@pytest.fixture(scope="module")
def finished(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    output = tmp_path_factory.mktemp("finished")
    done = run("train", config_file, "--output.folder", output, "--output_name", "mine")
    assert done.returncode == 0, done.stderr
    return Done(output, done.stdout, done.stderr)


def test_both_stages_run_and_say_where_the_loras_are(finished: Done) -> None:
    for name in ("mine-stage1.safetensors", "mine.safetensors"):
        assert f"Saved {finished.output / name}" in finished.said
    assert "Training: 4. Held out: 2." in finished.said
    assert finished.said.splitlines()[-1].startswith("Sample with 4 steps, sampler euler, scheduler simple, ")
    # Once, among the notes.
    (delivered,) = [line for line in (finished.said + finished.progress).splitlines() if "is delivered" in line]
    assert re.fullmatch(r"stage 2, update 20: The state of update \d+ is delivered: .*", delivered)
    assert "Traceback" not in finished.progress
    assert "stage 1: 24 of 24" in finished.progress
    assert "stage 2 (4 of warm-up first): 20 of 20" in finished.progress


def test_stage_2_begins_with_the_lora_of_stage_1(finished: Done) -> None:
    base = BaseReference(TINY_BASE, "fp32")
    first, second = (
        adapters.load_file(finished.output / name, base) for name in ("mine-stage1.safetensors", "mine.safetensors")
    )
    assert [stage["stage"] for stage in second.provenance] == ["diffusion", "adversarial"]
    assert second.provenance[0] == first.provenance[0]
    assert (first.config.rank, second.config.rank) == (4, 4)
    assert any(not torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_both_stages_have_the_base_from_one_load(
    config_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    steps = ["--diffusion.steps", "1", "--adversarial.steps", "1", "--adversarial.watch", "false"]
    assert main(["train", str(config_file), "--output.folder", str(tmp_path), *steps]) == 0
    told = [record.getMessage() for record in caplog.records]
    assert sum(text.startswith("Loading ") for text in told) == 1
    assert sum(text.endswith("is still loaded.") for text in told) == 1


def test_the_previews_are_pictures_in_the_runs_folder(finished: Done) -> None:
    for stage, steps, how in (
        ("diffusion", [0, 12, 24], "2 steps, euler, guidance 3.5, seed 0"),
        ("adversarial", [0, 10, 20], "4 steps, euler, guidance 3.5, seed 0"),
    ):
        run_folder = only(finished.output, f"{stage}-*")
        columns, rows = previews(run_folder)
        assert [column.step for column in columns] == steps and [row.how for row in rows] == [how] * 2
        assert all(row.prompt.startswith("round shape") for row in rows) and rows[0].prompt != rows[1].prompt
        names = {"sheet.png", *(f"step-{step:06}.png" for step in steps)}
        assert {path.name for path in (run_folder / "previews").iterdir()} == names
        drawn = [np.asarray(Image.open(column.path), np.float32) for column in columns]
        assert drawn[0].shape == (SIDE, 2 * SIDE, 3)
        assert drawn[-1].std() > 5  # neither grey nor black
        # The same noise at each step: it is the LoRA that makes the difference.
        assert 0 < np.abs(drawn[-1] - drawn[0]).mean() < 60


def test_the_same_command_uses_what_is_finished(finished: Done, config_file: Path) -> None:
    before = load_file(finished.output / "mine.safetensors")
    again = run("train", config_file, "--output.folder", finished.output, "--output_name", "mine")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("The same run is finished in") == 2
    assert re.fullmatch(r"The state of update \d+ is delivered: .*", again.stdout.splitlines()[-1])
    assert "Encodings found in the cache: 9 of 9." in again.stdout
    assert all(torch.equal(before[name], t) for name, t in load_file(finished.output / "mine.safetensors").items())
    assert len(list(finished.output.glob("*/run.json"))) == 2


def test_a_flag_wins_over_the_file_and_a_stage_can_run_alone(config_file: Path, tmp_path: Path) -> None:
    done = run(
        "train", config_file, "--output_dir", tmp_path, "--max_train_steps", 3, "--use_latent_adv", "false",
        "--output.format", "kohya", "--output.dtype", "bf16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in records(only(tmp_path, "diffusion-*"))] == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["fluxduel-stage1.safetensors"]
    tensors = load_file(tmp_path / "fluxduel-stage1.safetensors")
    assert all(name.startswith("lora_unet_") for name in tensors)
    assert {t.dtype for name, t in tensors.items() if not name.endswith("alpha")} == {torch.bfloat16}


def interrupted(
    arguments: list[object], stage: str, output: Path, number: signal.Signals
) -> subprocess.CompletedProcess[str]:
    """Start the run and send a signal once a few of the stage's steps are done."""
    command = [*PROGRAM, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
        deadline = time.monotonic() + SECONDS
        while not any(len(file.read_text().splitlines()) > 6 for file in output.glob(f"{stage}-*/stats.jsonl")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        said, warned = process.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(command, process.returncode, said, warned)


@pytest.mark.parametrize(
    ("number", "code", "stage"), [(signal.SIGTERM, 143, "adversarial"), (signal.SIGINT, 130, "diffusion")]
)
def test_a_run_that_is_stopped_goes_on_to_the_same_lora(
    number: signal.Signals, code: int, stage: str, config_file: Path, finished: Done, tmp_path: Path
) -> None:
    command = ["train", config_file, "--output.folder", tmp_path, "--output.name", "mine"]
    stopped = interrupted(command, stage, tmp_path, number)
    assert stopped.returncode == code, stopped.stderr
    assert "The same command goes on from update" in stopped.stdout
    assert f"Stopped by {number.name}." in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "mine.safetensors").exists()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "Going on with" in done.stdout
    for name in ("mine-stage1.safetensors", "mine.safetensors"):
        assert same_tensors(tmp_path / name, finished.output / name)
    own, theirs = (records(only(folder, f"{stage}-*")) for folder in (tmp_path, finished.output))
    assert own == theirs


def test_trackers_get_every_step_once_when_a_run_goes_on(config_file: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    command = [
        "train", config_file, "--output.folder", tmp_path, "--report_to", "tensorboard", "--use_latent_adv=false"
    ]  # fmt: skip
    assert interrupted(command, "diffusion", tmp_path, signal.SIGTERM).returncode == 143
    done = run(*command)
    assert done.returncode == 0, done.stderr
    folder = only(tmp_path / "tensorboard", "diffusion-*")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("diffusion/diffusion_loss")] == list(range(1, 25))
    assert [event.step for event in events.Images("diffusion/preview")] == [0, 12, 24]


def broken_lora(path: Path) -> Path:
    """A LoRA whose output overflows."""
    lora = adapters.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=4, alpha=4.0))
    tensors = {name: torch.full_like(t, 1e30) for name, t in lora.tensors.items()}
    return adapters.save(dataclasses.replace(lora, tensors=tensors), path)


def test_a_stage_that_fails_before_it_changed_anything_saves_no_lora_and_exits_with_1(
    config_file: Path, tmp_path: Path
) -> None:
    start = broken_lora(tmp_path / "broken.safetensors")
    done = run(
        "train", config_file, "--output.folder", tmp_path / "out", "--start.lora", start,
        "--diffusion.validate_every", 0, "--rank", 16, "--lora.targets", "attention",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    # Of what the file settles, that is told which differs: of alpha the configuration says the same.
    assert f"Going on from {start}: rank 4, alpha 4." in done.stdout
    assert "Warning: lora.rank 16, lora.targets attention: not used, since" in done.stdout
    assert "diffusion stage, update 1 of 24" in done.stderr
    assert "The LoRA had not been changed by then, so none is saved." in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images.folder", "/no/such/folder"], ["/no/such/folder", "does not exist"]),
        (["--images.caption_rule", "trigger word only"], ["trigger_word"]),
        (["--base.checkpoint", "/no/such/base.safetensors"], ["/no/such/base.safetensors"]),
        (["--base.sampling_base", "/no/such/sibling.safetensors"], ["/no/such/sibling.safetensors"]),
        (["--start.lora", "/no/such/lora.safetensors"], ["/no/such/lora.safetensors"]),
        (["--start.discriminator", "/no/such/judge.safetensors"], ["judge.safetensors"]),
        (["--adversarial.renoise", "false"], ["renoise"]),
        (["--data.bucket_step", "256"], ["bucket_step"]),
    ],
)
def test_what_does_not_let_a_run_begin_is_one_line_and_exits_with_2(
    flags: list[str], words: list[str], config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["train", str(config_file), "--output.folder", str(tmp_path), *flags])
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("encoding: ")]
    assert status == 2, told
    assert len(told) == 1
    assert all(word in told[0] for word in words), told
    assert not list(tmp_path.glob("*/run.json"))


def test_a_cuda_device_that_is_not_there_is_named(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main(["train", str(config_file), "--output_dir", str(tmp_path), "--base.device", "cuda"]) == 2
    assert "base.device" in capsys.readouterr().err


def test_a_run_that_another_process_trains_is_named(
    finished: Done, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = only(finished.output, "diffusion-*")
    with held(folder):
        status = main(["train", str(config_file), "--output.folder", str(finished.output)])
    assert status == 2
    assert f"{folder} is in use" in capsys.readouterr().err


def test_nothing_is_deleted_that_was_in_the_output_folder(config_file: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "diffusion-mine/run.json", "previews/step-000012.png", "checkpoints/mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    status = main(
        ["train", str(config_file), "--output_dir", str(tmp_path), "--max_train_steps=2", "--use_latent_adv=false"]
    )
    assert status == 0
    for name in ("notes.txt", "diffusion-mine/run.json", "previews/step-000012.png", "checkpoints/mine"):
        assert (tmp_path / name).read_text() == "mine"


def test_sample_writes_a_picture_for_each_prompt_seed_and_number_of_steps(
    finished: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\n  the sea \n")
    command = [
        "sample", "--base.precision", "fp32", "--base.device", "cpu",
        "--lora", str(finished.output / "mine.safetensors"), "--prompt", "round shape 1",
        "--prompts", str(tmp_path / "prompts.txt"), "--width", "96", "--height", "128", "--count", "2", "--seed", "5",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    assert "Sample with 4 steps, sampler euler, " in capsys.readouterr().out
    files = sorted((tmp_path / "out").iterdir())
    # Four steps, for that is what stage 2 trained it for.
    assert [file.name for file in files] == [f"{n:02}-steps4-seed{s}.png" for n in (1, 2, 3) for s in (5, 6)]
    pixels = [np.asarray(Image.open(file), np.float32) for file in files]
    assert all(picture.shape == (128, 96, 3) and picture.std() > 5 for picture in pixels)
    assert len({picture.tobytes() for picture in pixels}) == 6
    # Others, of the same name: the first ones stay.
    assert main([*command[:-2], "--prompt", "the moon", "--steps", "1,4", "--out", str(tmp_path / "out")]) == 0
    assert "Wrote 16 pictures" in capsys.readouterr().out
    assert all((np.asarray(Image.open(file), np.float32) == was).all() for file, was in zip(files, pixels, strict=True))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert len(names) == 6 + 16 and {"01-steps4-seed5-2.png", "01-steps1-seed5.png", "04-steps4-seed6.png"} <= names


def test_pictures_have_the_size_that_the_lora_was_trained_at(
    finished: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless the configuration or a flag says another one; a file that does not say it is told of."""
    mine, tiny = finished.output / "mine.safetensors", BaseReference(TINY_BASE, "fp32")
    lora = adapters.load_file(mine, tiny)
    assert [stage["resolution"] for stage in lora.provenance] == [SIDE, SIDE]
    older = tuple({name: value for name, value in stage.items() if name != "resolution"} for stage in lora.provenance)
    old = adapters.save(dataclasses.replace(lora, provenance=older), tmp_path / "old.safetensors")
    (tmp_path / "said.json").write_text('{"data": {"resolution": 48}}')
    (tmp_path / "silent.json").write_text('{"lora": {"rank": 3}}')
    told = {}
    for name, file, more, size in (
        ("own", mine, [], (SIDE, SIDE)),
        ("silent", mine, [tmp_path / "silent.json"], (SIDE, SIDE)),
        ("said", mine, [tmp_path / "said.json"], (48, 48)),
        ("width", mine, ["--width", "32"], (32, SIDE)),
        ("old", old, [], (512, 512)),
        ("both", old, ["--width", "32", "--height", "48"], (32, 48)),
    ):
        command = ["sample", "--base.device", "cpu", "--lora", file, "--prompt", "x", "--steps", "1", *more]
        assert main([*map(str, command), "--out", str(tmp_path / name)]) == 0
        assert Image.open(tmp_path / name / "01-steps1-seed0.png").size == size, name
        told[name] = "does not say at which resolution" in capsys.readouterr().out
    assert [name for name, said in told.items() if said] == ["old"]


def test_another_sampler_gives_other_pictures_and_a_warning(
    finished: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for stage, sampler in (("mine", "euler"), ("mine", "dpmpp_2m"), ("mine-stage1", "dpmpp_2m")):
        out = tmp_path / stage / sampler
        command = [
            "sample", "--base.precision", "fp32", "--base.device", "cpu", "--lora",
            str(finished.output / f"{stage}.safetensors"), "--prompt", "x", "--width", "64", "--height", "64",
            "--steps", "4", "--sampler", sampler, "--out", str(out),
        ]  # fmt: skip
        assert main(command) == 0
        warned = "Warning: This LoRA was trained for sampler euler; dpmpp_2m may spoil it." in capsys.readouterr().out
        assert warned == (stage == "mine" and sampler != "euler")
        mark = "" if sampler == "euler" else "-dpmpp_2m"
        pictures.append((out / f"01-steps4{mark}-seed0.png").read_bytes())
    assert pictures[0] != pictures[1]
    with pytest.raises(SystemExit):
        main(["sample", "--lora", "x", "--prompt", "x", "--sampler", "unipc"])
    assert "unipc" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width", "100", "--prompt", "x"], ["--width", "16"]),
        ([], ["--prompt"]),
        (["--prompts", "/no/such/file"], ["/no/such/file"]),
        (["--prompt", "x", "--base.checkpoint", "/no/base.safetensors"], ["/no/base.safetensors"]),
    ],
)
def test_sample_names_what_is_wrong(
    flags: list[str], words: list[str], finished: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = str(finished.output / "mine.safetensors")
    assert main(["sample", "--lora", lora, "--base.device", "cpu", "--out", str(tmp_path / "out"), *flags]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert not (tmp_path / "out").exists()


def test_evaluate_writes_report_numbers_chart_and_pictures(
    finished: Done, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loras = [str(finished.output / name) for name in ("mine-stage1.safetensors", "mine.safetensors")]
    command = [
        "evaluate", str(config_file), "--lora", loras[0], "--lora", loras[1], "--bare_base", "--output_dir",
        str(finished.output), "--count", "4", "--step_counts", "1,2", "--pictures", "2", "--sampler", "deis",
        "--neighbours", "on", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.rstrip() in said
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    asked = [(result["name"], result["steps"]) for result in numbers["results"]]
    assert asked == [(name, steps) for name in ("base", "mine-stage1", "mine") for steps in (1, 2)]
    assert {result["sampler"] for result in numbers["results"]} == {"deis"}
    beside = [(result["variation"], result["sampler"]) for result in numbers["neighbours"]]
    assert beside[:2] == [("euler", "euler"), ("twice the steps", "deis")] and len(beside) == 5
    assert "mine against mine-stage1 at 2 steps" in report
    grid = np.asarray(Image.open(tmp_path / "out" / "pictures.png"), np.float32)
    # Eleven rows of two pictures, each more than twice as large, with names before them and captions beneath.
    assert grid.shape[0] > 11 * 2 * SIDE and grid.shape[1] > 2 * 2 * SIDE
    assert np.asarray(Image.open(tmp_path / "out" / "chart.png")).std() > 5


RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "fluxduel"]


def test_of_two_processes_only_one_speaks_and_writes(config_file: Path, tmp_path: Path) -> None:
    done = run(
        "train", config_file, "--output.folder", tmp_path, "--diffusion.steps", 6, "--adversarial.steps", 3,
        "--adversarial.discriminator_warmup", 2, program=RANKS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved ") == 2
    assert done.stdout.count("Training: 4. Held out: 2.") == 1
    assert done.stderr.count("stage 1: 6 of 6") == 1
    run_folder = only(tmp_path, "diffusion-*")
    assert [record["step"] for record in records(run_folder)] == [0, *range(1, 7)]
    # Each process has a batch of its own.
    assert records(run_folder)[-1]["images_seen"] == 12
    with safe_open(tmp_path / "fluxduel.safetensors", framework="pt") as file:
        assert "fluxduel" in file.metadata()


def test_an_error_in_one_process_ends_all_of_them(config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "one.png").write_text("this is no picture")
    (tmp_path / "pictures" / "one.txt").write_text("a caption")
    done = run(
        "train", config_file, "--output.folder", tmp_path / "out", "--images.folder", tmp_path / "pictures",
        program=RANKS,
    )  # fmt: skip
    assert done.returncode != 0
    assert "[rank 0] The picture 'one.png'" in done.stderr


def test_inspect_describes_the_lora_in_words_and_as_json(finished: Done, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(finished.output / "mine.safetensors")
    assert main(["inspect", file]) == 0
    assert "adversarial" in capsys.readouterr().out
    assert main(["inspect", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "lora"
    assert main(["inspect", "/no/such/file"]) == 2
    assert "/no/such/file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1 in diffusers' layout, transformer, VAE and text encoders, all of them small and random."""
    folder = make_folder(tmp_path_factory.mktemp("flux"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        )  # fmt: skip
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    transformer.save_pretrained(folder / "transformer")
    return folder


def test_a_flux_in_diffusers_layout_trains_and_samples(
    flux_folder: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--base.checkpoint", str(flux_folder), "--base.precision=bf16", "--base.device=cpu"]
    short = ["--max_train_steps=3", "--use_latent_adv=false"]
    arguments = [str(config_file), *base, *short, "--output_dir", str(tmp_path)]
    assert main(["train", *arguments, "--resolution=64", "--diffusion.preview_every=3"]) == 0, capsys.readouterr().err
    preview = Image.open(only(tmp_path, "diffusion-*/previews/step-000003.png"))
    assert preview.size == (128, 64)
    lora = str(tmp_path / "fluxduel-stage1.safetensors")
    prompt = ["--prompt", "a small red cat", "--width=64", "--height=32", "--steps=2"]
    assert main(["sample", "--lora", lora, *base, *prompt, "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "01-steps2-seed0.png").size == (64, 32)
    from transformers import T5Config, T5EncoderModel

    # A T5 of another width, as smaller ones have.
    other = Path(shutil.copytree(flux_folder, tmp_path / "other"))
    T5EncoderModel(T5Config(vocab_size=32128, **T5_SIZES | {"d_model": 32}, **T5_KIND)).save_pretrained(
        other / "text_encoder_2"
    )
    assert main(["sample", "--lora", lora, *base, *prompt, "--encoders.folder", str(other)]) == 2
    told = capsys.readouterr().err
    assert "encoders.folder: the prompt is 32 wide" in told and "takes 24 and 16" in told
