"""A base written as an int8 file holds the weights that loading it would have made, bit for bit."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.headless import command_line
from fluxduel.tests.true_width import flux_shapes, write_headers
from fluxduel.tests.written_layouts import CONFIG, LAYOUTS, plain, random_state, save
from fluxduel.training.base.base_model import TINY_BASE_FOLDER, BaseReference, load_base
from fluxduel.training.base.int8_files import write_int8
from fluxduel.training.base.layouts import single_file_layout
from fluxduel.training.base.variants import variant
from fluxduel.training.base.weights import read_weights
from fluxduel.training.config import TINY_BASE

PRECISIONS = ("int8", "int8_convrot")


def loaded(path: Path, precision: str) -> dict[str, Tensor]:
    return load_base(BaseReference(str(path), precision), "cpu").transformer.state_dict()


def write(path: Path, output: Path, precision: str = "int8_convrot") -> Path:
    write_int8(str(path), output, precision, "cpu", lambda done, total: None)
    return output


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        each.dtype == theirs[name].dtype and torch.equal(each, theirs[name]) for name, each in ours.items()
    )


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "int8_convrot") for name in LAYOUTS), ("bf16", "int8"), ("int8, rotated", "int8")]
)
def test_what_is_read_of_it_is_what_loading_makes_of_the_source(name: str, precision: str, tmp_path: Path) -> None:
    source = save(LAYOUTS[name][0](random_state()), tmp_path / "flux1.safetensors")
    output = write(source, tmp_path / "new" / "int8.safetensors", precision)
    wanted = loaded(source, precision)
    assert same(loaded(output, precision), wanted)
    # What is int8 stays as it lies, whichever of the two is asked for.
    assert same(loaded(output, PRECISIONS[precision == "int8"]), wanted)
    assert output.stat().st_size < 0.6 * 2 * sum(each.numel() for each in random_state().values())
    assert [each.name for each in output.parent.iterdir()] == [output.name]


def test_it_is_written_from_a_diffusers_folder_too(tmp_path: Path) -> None:
    source = save(plain(torch.bfloat16)(random_state()), tmp_path / "flux1.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel", **CONFIG}))
    save_file(dict(read_weights(str(source), "cpu")), folder / "model.safetensors")
    of_folder, of_file = (
        load_file(write(path, tmp_path / f"{path.name}-int8.safetensors")) for path in (folder, source)
    )
    assert same(of_folder, of_file)


def test_keys_types_and_notes_are_comfyuis(tmp_path: Path) -> None:
    source = save(plain(torch.bfloat16)(random_state()), tmp_path / "flux1-krea-dev.safetensors")
    output = write(source, tmp_path / "mine.safetensors")
    state, tensors = random_state(), load_file(output)
    layers = {key.removesuffix(".weight") for key in state if key.endswith(".weight") and "_blocks." in key}
    extra = {f"{layer}.{end}" for layer in layers for end in ("weight_scale", "comfy_quant")}
    assert tensors.keys() == state.keys() | extra
    for key, each in state.items():
        wanted = torch.int8 if key.removesuffix(".weight") in layers else torch.bfloat16
        assert tensors[key].dtype == wanted and tensors[key].shape == each.shape, key
    for layer in layers:
        assert json.loads(bytes(tensors[f"{layer}.comfy_quant"].tolist())) == {
            "format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256,
        }  # fmt: skip
        assert tensors[f"{layer}.weight_scale"].shape == (len(tensors[f"{layer}.weight"]), 1)
        assert tensors[f"{layer}.weight_scale"].dtype == torch.float32
    assert variant(str(output)) == "Krea" and single_file_layout(output).kind == "int8, rotated"
    with safe_open(output, framework="pt") as content:
        assert content.metadata()["modelspec.title"] == "FLUX.1 Krea"


def test_tensors_lie_where_a_reader_that_maps_the_file_wants_them(tmp_path: Path) -> None:
    output = write(save(plain(torch.float32)(random_state()), tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    content = output.read_bytes()
    (room,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + room])
    entries.pop("__metadata__")
    places = sorted(entry["data_offsets"] for entry in entries.values())
    assert room % 8 == 0 and all(start % 8 == 0 for start, _ in places)
    assert [start for start, _ in places] == [0, *(end for _, end in places[:-1])]
    assert 8 + room + places[-1][1] == len(content)


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = save(plain(torch.bfloat16)(random_state()), tmp_path / "flux1.safetensors")
    before = source.read_bytes()
    for output, words in ((source, "is there already"), (tmp_path / "a.gguf", "has to end in .safetensors")):
        with pytest.raises(ValueError, match=words):
            write(source, output)
    with pytest.raises(ValueError, match="has not the sizes of FLUX.1"):
        write(TINY_BASE_FOLDER, tmp_path / "tiny.safetensors")
    damaged = load_file(source)
    damaged["final_layer.linear.weight"][0, 0] = torch.inf
    save_file(damaged, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match="key final_layer.linear.weight holds values.*not finite"):
        write(tmp_path / "damaged.safetensors", tmp_path / "out" / "new.safetensors")
    (tmp_path / "flat").write_text("")
    with pytest.raises(OSError, match="flat"):
        write(source, tmp_path / "flat" / "new.safetensors")
    assert source.read_bytes() == before and not list((tmp_path / "out").iterdir())
    assert {each.name for each in tmp_path.iterdir()} == {source.name, "damaged.safetensors", "out", "flat"}


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """A file of so many blocks, all of them holes, that what is made of it fits on no disk like this one."""
    free = shutil.disk_usage(tmp_path).free
    if free > 1 << 41:
        pytest.skip("the disk has too much room for a file of holes")
    blocks = free // sum(math.prod(shape) for key, shape in flux_shapes().items() if key.startswith("double")) + 1
    source = write_headers(tmp_path / "flux1.safetensors", double=blocks, single=1)
    with pytest.raises(OSError, match="MB are needed"):
        write(source, tmp_path / "int8.safetensors")
    assert [each.name for each in tmp_path.iterdir()] == [source.name]


def test_the_command_writes_it_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(plain(torch.bfloat16)(random_state()), tmp_path / "flux1.safetensors")
    output = tmp_path / "int8.safetensors"
    arguments = ["convert", "--base", str(source), "--output", str(output)]
    assert command_line.main(arguments) == 0
    told = capsys.readouterr()
    assert "in int8_convrot" in told.out and "convert: " in told.err
    assert single_file_layout(output).kind == "int8, rotated"
    assert command_line.main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    plainly = [*arguments[:-1], str(tmp_path / "plain.safetensors"), "--precision", "int8"]
    assert command_line.main(plainly) == 0
    assert single_file_layout(tmp_path / "plain.safetensors").kind == "int8"


def test_a_base_that_needs_no_file_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["convert", "--base", TINY_BASE, "--output", str(tmp_path / "int8.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "tiny has not the sizes of FLUX.1" in told and "name it to train as it is (base.checkpoint)" in told
    assert list(tmp_path.iterdir()) == []
