"""What a machine may do to a run: terminals that end, consoles without letters, signals, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

PROGRAM = [sys.executable, "-m", "fluxduel"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
NO_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
SECONDS = 120
STEPS, SIDE = 8, 64


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise under names in several alphabets, one of them in no encoding of today's."""
    folder = tmp_path_factory.mktemp("zażółć")
    for number, name in enumerate((b"caf\xe9", "日本".encode(), "gęś 🎈".encode(), b"plain")):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".png"))
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def command(pictures: Path, output: Path, *more: str) -> list[str]:
    """Stage 1 for a few steps."""
    flags = {
        "base.precision": "fp32", "base.device": "cpu", "images.folder": pictures, "images.caption_rule": "file name",
        "data.resolution": SIDE, "data.held_out_share": 0.25, "lora.rank": 2, "lora.alpha": 2,
        "start.adversarial": "no", "diffusion.steps": STEPS, "diffusion.learning_rate": 1e-3,
        "output.folder": output,
    }  # fmt: skip
    return [*PROGRAM, "train", *(f"--{name}={value}" for name, value in flags.items()), *more]


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LoRA of a run that nothing happens to."""
    output = tmp_path_factory.mktemp("alone")
    subprocess.run(command(pictures, output), env=ENVIRONMENT, check=True, capture_output=True, timeout=SECONDS)
    return output / "fluxduel-stage1.safetensors"


def assert_same(found: Path, expected: Path) -> None:
    one, other = load_file(found), load_file(expected)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_shell(line: str, arguments: list[str], environment: Mapping[str, str] = ENVIRONMENT) -> tuple[int, str, str]:
    """``line`` of a shell, in which "$@" is the command. Returns exit status, stdout, stderr."""
    done = subprocess.run(
        ["bash", "-c", line, "bash", *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(NO_LOCALE, id="ascii"),
        pytest.param({"PYTHONIOENCODING": "cp1252"}, id="cp1252", marks=pytest.mark.slow),
    ],
)
def test_names_that_the_console_has_no_letters_for(
    environment: dict[str, str], pictures: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "wyjście ✓"
    asked = command(pictures, output, "--output.name=mój-ńame", "--data.flip", "--diffusion.preview_every=4")
    done = subprocess.run(asked, env=ENVIRONMENT | environment, capture_output=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\u2713" in done.stdout or b"\\udce2\\udc9c\\udc93" in done.stdout  # the tick in the folder's name
    lora = output / "mój-ńame-stage1.safetensors"
    with safe_open(lora, framework="pt") as file:
        assert file.metadata()["modelspec.title"] == "mój-ńame-stage1"
    (stats,) = output.glob("diffusion-*/stats.jsonl")
    for file in (stats, stats.with_name("run.json")):
        file.read_bytes().decode("utf-8")
    told = subprocess.run(
        [*PROGRAM, "inspect", str(lora), "--json"], env=ENVIRONMENT | environment, capture_output=True, timeout=SECONDS
    )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.decode("ascii"))["title"] == "mój-ńame-stage1"


def test_a_reader_that_ends_does_not_end_the_run(pictures: Path, alone: Path, tmp_path: Path) -> None:
    """As ``| head`` does, of both streams."""
    with subprocess.Popen(
        command(pictures, tmp_path), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        process.stderr.close()
        assert process.wait(SECONDS) == 0
    assert_same(tmp_path / "fluxduel-stage1.safetensors", alone)


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param(">&- 2>&- <&-", id="closed"),
        pytest.param(">/dev/full 2>/dev/full", id="full", marks=pytest.mark.slow),
    ],
)
def test_a_run_without_any_output(streams: str, pictures: Path, alone: Path, tmp_path: Path) -> None:
    status, *_ = in_shell(f'"$@" {streams}', command(pictures, tmp_path))
    assert status == 0
    assert_same(tmp_path / "fluxduel-stage1.safetensors", alone)


def test_unbuffered_output_is_seen_when_it_comes() -> None:
    """As in most containers: what is said before a process is killed is there."""
    script = (
        "import os; from fluxduel.headless.lasting_output import lasting_output\n"
        "from fluxduel.headless.terminal import say, warn\n"
        "with lasting_output():\n"
        "    warn('one'); say('two'); warn('three'); print('four'); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-u", "-c", script], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.stdout.split() == ["one", "two", "three", "four"]


def test_a_result_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    status, _, told = in_shell('"$@" >/dev/full', [*PROGRAM, "train", "--print_config"])
    assert (status, told) == (1, "stdout: the disk is full; make room on it, or choose a folder on another one.\n")


def test_a_result_whose_reader_has_gone_is_no_fault() -> None:
    asked = [*PROGRAM, "train", "--print_config"]
    with subprocess.Popen(asked, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 0


def hung_up(arguments: list[str], output: Path, *, ignored: bool) -> int:
    """Run in a terminal of its own, which is closed after a few steps. Returns the exit code."""
    controller, terminal = pty.openpty()

    def in_terminal() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does

    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    with subprocess.Popen(arguments, env=ENVIRONMENT, preexec_fn=in_terminal, **streams) as process:
        os.close(terminal)
        deadline = time.monotonic() + SECONDS
        os.set_blocking(controller, False)
        while not any(len(file.read_text().splitlines()) > 2 for file in output.glob("diffusion-*/stats.jsonl")):
            with contextlib.suppress(BlockingIOError):
                os.read(controller, 1 << 16)  # a terminal that nobody reads makes its writers wait
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.close(controller)
        return process.wait(SECONDS)


def test_a_terminal_that_is_closed_saves_the_run(pictures: Path, alone: Path, tmp_path: Path) -> None:
    asked = command(pictures, tmp_path)
    assert hung_up(asked, tmp_path, ignored=False) == 128 + signal.SIGHUP
    (checkpoint,) = tmp_path.glob("diffusion-*/checkpoints/step-*")
    assert 0 < int(checkpoint.name.removeprefix("step-")) < STEPS
    again = subprocess.run(asked, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS)
    assert f"from update {int(checkpoint.name.removeprefix('step-'))}" in again.stdout
    assert_same(tmp_path / "fluxduel-stage1.safetensors", alone)


def test_under_nohup_a_run_outlives_its_terminal(pictures: Path, alone: Path, tmp_path: Path) -> None:
    assert hung_up(command(pictures, tmp_path), tmp_path, ignored=True) == 0
    assert_same(tmp_path / "fluxduel-stage1.safetensors", alone)
