"""A run without ComfyUI that is looked at on the sibling of its base: klein base is trained, distilled klein draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fluxduel.headless.command_line import main
from fluxduel.tests.engine.flux2_encoders import make_klein
from fluxduel.tests.engine.headless.test_flux2 import write_pictures, write_transformer
from fluxduel.training.evidence.evaluation import SAMPLED_ON
from fluxduel.training.evidence.preview_sheet import Row, previews

SIDE = 64


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with klein base, whole, and the transformer of a distilled one."""
    folder = tmp_path_factory.mktemp("bases")
    write_transformer(make_klein(folder / "klein-base") / "transformer", guidance_embeds=False)
    write_transformer(folder / "klein", guidance_embeds=False, seed=1)
    write_pictures(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def config(bases: Path) -> Path:
    values = {
        "base": {
            "checkpoint": str(bases / "klein-base"), "sampling_base": str(bases / "klein"), "precision": "fp32",
            "device": "cpu",
        },
        "lora": {"rank": 2, "alpha": 2.0},
        "images": {"folder": str(bases / "pictures")},
        "data": {"resolution": SIDE, "held_out_share": 0.3},
        "diffusion": {"steps": 2, "learning_rate": 1e-2, "preview_every": 2},
        "discriminator": {"width": 8},
        "adversarial": {"steps": 2, "discriminator_warmup": 1, "watch_pictures": 4, "validate_every": 2},
    }  # fmt: skip
    file = bases / "config.json"
    file.write_text(json.dumps(values))
    return file


def preview(output: Path) -> tuple[np.ndarray, Row]:
    """The first picture of stage 1's last preview, and what it says of itself."""
    (run,) = output.glob("diffusion-*")
    columns, rows = previews(run)
    with Image.open(columns[-1].path) as picture:
        return np.asarray(picture.crop((0, 0, SIDE, SIDE))), rows[0]


def test_previews_are_drawn_on_the_sibling_and_the_lora_is_the_same(config: Path, bases: Path, tmp_path: Path) -> None:
    there, own = tmp_path / "there", tmp_path / "own"
    assert main(["train", str(config), "--output.folder", str(there)]) == 0
    plain = ["--base.sampling_base=", "--start.adversarial=false", "--output.folder", str(own)]
    assert main(["train", str(config), *plain]) == 0
    lora, of_own = (load_file(folder / "fluxduel-stage1.safetensors") for folder in (there, own))
    assert lora.keys() == of_own.keys() and all(torch.equal(lora[name], of_own[name]) for name in lora)
    (seen, said), (seen_of_own, said_of_own) = preview(there), preview(own)
    assert not np.array_equal(seen, seen_of_own)
    assert said_of_own.how.startswith("8 steps, euler, cfg 4") and said.how.startswith("4 steps, euler, seed")
    file = str(there / "fluxduel-stage1.safetensors")
    drawn = [
        "sample", str(config), "--lora", file, "--prompt", said.prompt, f"--width={SIDE}",
        f"--height={SIDE}", "--out", str(tmp_path / "drawn"),
    ]  # fmt: skip
    assert main(drawn) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn" / "01-steps4-seed0.png")), seen)


def test_evaluate_samples_on_the_sibling(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output.folder", str(tmp_path)]
    assert main(["train", str(config), *output, "--start.adversarial=false"]) == 0
    few = ["--count=4", "--step_counts=1", "--pictures=1", "--neighbours=off"]
    lora = ["--lora", str(tmp_path / "fluxduel-stage1.safetensors")]
    assert main(["evaluate", str(config), *lora, *output, *few]) == 0
    assert SAMPLED_ON.format("klein") in capsys.readouterr().out


def test_a_base_of_other_shapes_is_refused_before_anything_is_read(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["train"], ["evaluate", "--lora", "none.safetensors"]):
        output = ["--output.folder", str(tmp_path / "out"), "--base.sampling_base=tiny"]
        assert main([command[0], str(config), *command[1:], *output]) == 2
        assert "base.sampling_base: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
