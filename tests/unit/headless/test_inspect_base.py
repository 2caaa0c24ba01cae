"""What the inspector says of bases, by their headers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxduel.headless import inspect_base
from fluxduel.headless.inspect_command import describe, describe_json
from fluxduel.tests.true_width import write_headers, write_published
from fluxduel.tests.written_layouts import LAYOUTS, integers, plain, random_state, save
from fluxduel.training.base.base_model import TINY_BASE_FOLDER

GIB = 2**30


@pytest.fixture
def one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes of pictures are counted in the same way."""
    monkeypatch.setattr(inspect_base, "SIDES", (512,))


@pytest.mark.parametrize("name", ["fp8 e4m3", "scaled fp8, old", "int8, rotated", "bitsandbytes nf4"])
def test_the_format_of_every_layout_is_told(name: str, tmp_path: Path, one_size: None) -> None:
    write, words, _ = LAYOUTS[name]
    file = save(write(random_state()), tmp_path / "flux1-krea-dev.safetensors", "model.diffusion_model.")
    told = describe_json(file)
    assert (told["kind"], told["format"], told["model"]) == ("base", words, "Krea")
    assert told["bytes"] == file.stat().st_size and told["names"] == "black-forest-labs"
    assert told["blocks"] == {"double": 2, "single": 2} and told["width"] == 256


def test_memory_at_full_size_is_counted_from_the_header(tmp_path: Path, one_size: None) -> None:
    """Weights of FLUX.1: 11.9 billion. What is told of a card comes from the stages' own passes."""
    text = describe(write_headers(tmp_path / "flux1-dev.safetensors"))
    lines = {line[:20].strip(): [float(cell) for cell in line[20:].split()] for line in text.splitlines()[5:9]}
    assert "a FLUX.1 base (dev), 23.80 GB." in text and "Weights: bf16, under the names of black-forest-labs" in text
    assert [lines[name][0] for name in ("fp32", "bf16", "int8, int8_convrot")] == [44.3, 22.2, 11.2]
    for small, large in zip(("bf16", "int8, int8_convrot"), ("fp32", "bf16"), strict=True):
        assert all(here < there for here, there in zip(lines[small], lines[large], strict=True))
    (least,), (weights, peak) = lines["all int8 streamed"], lines["int8, int8_convrot"]
    assert least < weights < peak


def test_another_family_is_told_by_its_name(tmp_path: Path, one_size: None) -> None:
    """FLUX.2 klein 4B: 3.876 billion weights."""
    told = describe_json(write_published(tmp_path / "flux-2-klein-base-4b.safetensors", "FLUX.2 klein 4B"))
    assert (told["family"], told["model"], told["blocks"]) == ("FLUX.2", "klein 4B base", {"double": 5, "single": 20})
    assert told["memory"]["bf16"]["weights"] == pytest.approx(2 * 3.876e9, abs=2e6)
    peaks = {precision: each["peaks"]["512"]["whole"] / GIB for precision, each in told["memory"].items()}
    assert peaks["int8_convrot"] < 7 < peaks["bf16"] < 10


@pytest.mark.parametrize(
    ("free", "verdict"),
    [
        (None, "has no card"),
        (80, "1024 px: precision auto takes bf16."),
        (24, "1024 px: precision auto takes int8_convrot."),
        (10, "1024 px: precision auto takes int8_convrot, with a part"),
        (3, "1024 px: nothing fits"),
    ],
)
def test_what_fits_a_card_is_told(free: int | None, verdict: str) -> None:
    peaks = {"fp32": (52, 49), "bf16": (27, 16), "int8_convrot": (16, 5.7)}
    memory = {
        name: {
            "weights": 11 * GIB,
            "peaks": {str(side): {"whole": whole * GIB, "streamed": streamed * GIB} for side in inspect_base.SIDES},
        }
        for name, (whole, streamed) in peaks.items()
    }
    told = {"file": "x", "bytes": 1, "family": "FLUX.1", "model": "dev", "format": "bf16", "names": "diffusers",
            "width": 1, "blocks": {"double": 1, "single": 1}, "memory": memory,
            "free": free and free * GIB}  # fmt: skip
    assert verdict in "\n".join(inspect_base.base_lines(told))


def test_a_folder_in_diffusers_layout_is_a_base(tmp_path: Path, one_size: None) -> None:
    told = describe_json(TINY_BASE_FOLDER)
    assert (told["kind"], told["format"], told["names"]) == ("base", "fp16", "diffusers")
    shutil.copytree(TINY_BASE_FOLDER / "transformer", tmp_path / "cut")
    for file in (tmp_path / "cut").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cut.*cannot be read as safetensors"):
        describe(tmp_path / "cut")


def test_what_cannot_be_trained_is_refused_by_name(tmp_path: Path) -> None:
    written = plain(torch.bfloat16)(random_state())
    others = {
        "Nunchaku": {f"x.{end}": torch.ones(2, 2) for end in ("qweight", "lora_down.weight", "lora_up.weight")},
        "FLUX.2": {"double_stream_modulation_img.lin.weight": torch.ones(2)},
        "Chroma": written.tensors | {"distilled_guidance_layer.x": torch.ones(2)},
        "txt_in.weight is missing": {key: each for key, each in written.tensors.items() if "txt_in" not in key},
        "comfy_quant": {key: each for key, each in integers()(random_state()).tensors.items() if "quant" not in key},
    }
    for words, tensors in others.items():
        file = tmp_path / "other.safetensors"
        save_file(tensors, file)
        with pytest.raises(ValueError, match=words.replace(".", r"\.")):
            describe(file)
