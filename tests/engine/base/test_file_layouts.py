"""Files of every layout that people have: each weight comes out as what it was written for."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.true_width import flux_shapes, write_headers
from fluxduel.tests.written_layouts import (
    CONFIG,
    LAYOUTS,
    Written,
    as_original,
    bitsandbytes,
    integers,
    mxfp8,
    note,
    nvfp4,
    plain,
    quantisable,
    random_state,
    save,
    scaled_new,
    scaled_old,
)
from fluxduel.training.base import tensor_files
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.base.checkpoint_files import BaseModelError, read_transformer_config
from fluxduel.training.base.int8 import Int8Weight, dequantised
from fluxduel.training.base.layouts import single_file_layout
from fluxduel.training.base.weights import read_weights
from fluxduel.training.config import TINY_BASE

Read = dict[str, Tensor | Int8Weight]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


def read(path: Path | str) -> Read:
    return dict(read_weights(str(path), "cpu"))


def in_fp32(weights: Read) -> dict[str, Tensor]:
    return {
        name: dequantised(each, torch.float32) if isinstance(each, Int8Weight) else each.float()
        for name, each in weights.items()
    }


def check(found: Read, written: Written) -> None:
    """Exact where nothing is rotated; where it is, the values and scales are, and the sums of a rotation are not."""
    assert all(
        each.dtype in (torch.float32, torch.float16, torch.bfloat16)
        for each in found.values()
        if isinstance(each, Tensor)
    )
    original = as_original(in_fp32(found))
    assert original.keys() == written.weights.keys()
    for key, meant in written.weights.items():
        if key in written.rows:
            assert torch.allclose(original[key], meant, atol=1e-6), key
        else:
            assert torch.equal(original[key], meant), key
    for part, place in (("values", 0), ("scales", 1)):
        kept = {name: getattr(each, part) for name, each in found.items() if isinstance(each, Int8Weight)}
        if not kept:
            assert not written.rows
            continue
        filled = as_original({name: kept.get(name, torch.zeros(1)) for name in found})
        assert all(torch.equal(filled[key], rows[place]) for key, rows in written.rows.items()), part
    groups = {each.group for each in found.values() if isinstance(each, Int8Weight)}
    assert groups == {rows[2] for rows in written.rows.values()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_weight_is_what_was_written(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    write, kind, accuracy = LAYOUTS[name]
    written = write(state)
    path = save(written, tmp_path / "flux.safetensors")
    assert single_file_layout(path).kind == kind
    assert read_transformer_config(str(path)) == CONFIG
    found = read(path)
    check(found, written)
    if accuracy is not None:
        # The format's own accuracy, so that no writer and reader agree on nonsense.
        original = as_original(in_fp32(found))
        error = sum((original[key] - state[key]).square().sum() for key in state) ** 0.5
        assert error <= accuracy * sum(each.square().sum() for each in state.values()) ** 0.5


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "transformer.", "model."])
@pytest.mark.parametrize("name", ["bf16", "scaled fp8, noted ahead", "int8, rotated", "bitsandbytes nf4"])
def test_keys_may_have_a_prefix_and_company(state: dict[str, Tensor], tmp_path: Path, prefix: str, name: str) -> None:
    written = LAYOUTS[name][0](state)
    company = {
        "text_encoders.t5xxl.transformer.shared.weight": torch.ones(2, 2),
        "text_encoders.t5xxl.layer.comfy_quant": torch.ones(3, dtype=torch.uint8),
        "vae.decoder.conv_in.weight": torch.ones(2, 2),
    }
    path = save(written, tmp_path / "all.safetensors", prefix)
    save_file(load_file(path) | company, path, metadata=written.metadata)
    check(read(path), written)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["int8, rotated", "nvfp4", "scaled fp8, new"])
def test_notes_in_the_header_are_as_good(state: dict[str, Tensor], tmp_path: Path, name: str, whole: bool) -> None:
    """Whoever writes them may give the layers their whole names, or those after the prefix."""
    written, prefix = LAYOUTS[name][0](state), "model.diffusion_model."
    notes = {key.removesuffix(".comfy_quant"): key for key in written.tensors if key.endswith(".comfy_quant")}
    layers = {
        f"{prefix}{layer}" if whole else layer: json.loads(bytes(written.tensors.pop(key).tolist()))
        for layer, key in notes.items()
    }
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    check(read(save(written._replace(metadata=metadata), tmp_path / "all.safetensors", prefix)), written)


@pytest.mark.parametrize("write", [scaled_old(False), scaled_new(torch.float8_e5m2, rows=True, header=True)])
def test_fp8_without_the_scale_that_its_like_has_is_refused(
    state: dict[str, Tensor], tmp_path: Path, write: Callable[[dict[str, Tensor]], Written]
) -> None:
    """It would be read as plain fp8, hundreds of times too large."""
    written = write(state)
    layer = "single_blocks.1.linear1"
    tensors = {
        key: each
        for key, each in written.tensors.items()
        if key not in (f"{layer}.weight_scale", f"{layer}.scale_weight")
    }
    assert len(tensors) == len(written.tensors) - 1
    assert f"{layer}.weight" in refused(save(Written(tensors, {}), tmp_path / "flux.safetensors"))


@pytest.mark.parametrize("noted", [False, True])
def test_a_layer_in_16_bits_may_have_a_scale_too(state: dict[str, Tensor], tmp_path: Path, noted: bool) -> None:
    written = scaled_new(torch.float8_e4m3fn, rows=False, header=False)(state) if noted else scaled_old(True)(state)
    scale = "weight_scale" if noted else "scale_weight"
    for factor, layer in [(1.0, "double_blocks.0.img_mod.lin"), (0.5, "single_blocks.1.linear1")]:
        written.tensors[f"{layer}.weight"] = state[f"{layer}.weight"].to(torch.bfloat16)
        written.tensors[f"{layer}.{scale}"] = torch.tensor(factor)
        written.weights[f"{layer}.weight"] = factor * written.tensors[f"{layer}.weight"].float()
    check(read(save(written, tmp_path / "flux.safetensors")), written)


def test_norms_may_be_called_weight(state: dict[str, Tensor], tmp_path: Path) -> None:
    written = plain(torch.bfloat16)(state)
    tensors = {key.replace("_norm.scale", "_norm.weight"): tensor for key, tensor in written.tensors.items()}
    check(read(save(written._replace(tensors=tensors), tmp_path / "flux.safetensors")), written)


def test_a_file_without_guidance_is_schnell(state: dict[str, Tensor], tmp_path: Path) -> None:
    written = plain(torch.bfloat16)({key: each for key, each in state.items() if "guidance" not in key})
    path = save(written, tmp_path / "flux.safetensors")
    assert not read_transformer_config(str(path))["guidance_embeds"]
    check(read(path), written)


def test_one_file_may_mix_formats(state: dict[str, Tensor], tmp_path: Path) -> None:
    files = [LAYOUTS[name][0](state) for name in ("int8, rotated", "nvfp4", "scaled fp8, new")]
    chosen = [files[index % 3] for index in range(len(state))]
    places = dict(zip(state, chosen, strict=True))
    tensors = {
        key: tensor
        for owner, written in places.items()
        for key, tensor in written.tensors.items()
        if key == owner
        or (owner.endswith(".weight") and key.startswith(owner.removesuffix("weight")) and ".bias" not in key)
    }
    weights = {key: places[key].weights[key] for key in state}
    rows = {key: files[0].rows[key] for key in state if places[key] is files[0] and key in files[0].rows}
    check(read(save(Written(tensors, weights), tmp_path / "flux.safetensors")), Written(tensors, weights, {}, rows))


def small_model(state: dict[str, Tensor]) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel(**CONFIG)
    original = as_original(model.state_dict())
    with torch.no_grad():
        named = dict(model.named_parameters())
        for name, ours in find_rows(named, original).items():
            named[name].copy_(ours(state))
    return model.eval()


def find_rows(
    named: dict[str, Tensor], original: dict[str, Tensor]
) -> dict[str, Callable[[dict[str, Tensor]], Tensor]]:
    """For each of diffusers' weights, how to take it from black-forest-labs': found by numbering the rows."""
    marked, start = {}, 0
    for name, tensor in named.items():
        marked[name] = torch.arange(start, start + len(tensor)).double()
        start += len(tensor)
    places = {}
    for key, numbers in as_original(marked).items():
        for place, number in enumerate(numbers.tolist()):
            places[number] = (key, place)
    ways: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {}
    for name, numbers in marked.items():
        key = places[numbers[0].item()][0]
        rows = [places[number][1] for number in numbers.tolist()]
        ways[name] = lambda state, key=key, rows=rows: state[key][rows]
    return ways


def forward(model: FluxTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 6, 64, generator=generator),
            encoder_hidden_states=torch.randn(1, 4, 64, generator=generator),
            pooled_projections=torch.randn(1, 32, generator=generator),
            timestep=torch.tensor([0.4]),
            guidance=torch.tensor([3.5]),
            img_ids=torch.tensor([[0.0, i // 3, i % 3] for i in range(6)]),
            txt_ids=torch.zeros(4, 3),
        ).sample


def test_the_model_of_a_file_computes_what_the_one_of_a_folder_does(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = small_model(state)
    model.save_pretrained(tmp_path / "folder", max_shard_size="4MB")
    assert len(list((tmp_path / "folder").glob("*.safetensors"))) > 3
    folder = read(tmp_path / "folder")
    single = read(save(plain(torch.float32)(state), tmp_path / "flux.safetensors"))
    wanted = model.state_dict()
    assert folder.keys() == single.keys() == wanted.keys()
    assert all(torch.equal(folder[name], wanted[name]) and torch.equal(single[name], wanted[name]) for name in wanted)
    other = FluxTransformer2DModel(**CONFIG).eval()
    other.load_state_dict(single)
    assert torch.equal(forward(other), forward(model))


def test_one_file_may_have_diffusers_names(state: dict[str, Tensor], tmp_path: Path) -> None:
    model = small_model(state)
    for prefix in ("", "transformer."):
        path = tmp_path / "flux.safetensors"
        save_file({prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
        assert read_transformer_config(str(path)) == CONFIG
        found = read(path)
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("write", [bitsandbytes(True), integers(group=256), mxfp8])
def test_a_folder_may_be_quantised_too(
    state: dict[str, Tensor], tmp_path: Path, write: Callable[[dict[str, Tensor]], Written]
) -> None:
    model = small_model(state)
    model.save_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    written = write(model.state_dict())
    save(written, tmp_path / "diffusion_pytorch_model.safetensors")
    assert "quantization_config" not in read_transformer_config(str(tmp_path))
    found = in_fp32(read(tmp_path))
    assert found.keys() == written.weights.keys()
    assert all(torch.allclose(found[name], meant, atol=1e-6) for name, meant in written.weights.items())


def test_a_folder_of_something_else_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    small_model(state).save_pretrained(tmp_path)
    save_file({"transformer_blocks.0.qkv_proj.qweight": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(BaseModelError, match="is a Nunchaku file"):
        read(tmp_path)


def test_the_built_in_base_is_read(tmp_path: Path) -> None:
    found = read(TINY_BASE)
    config = read_transformer_config(TINY_BASE)
    model = FluxTransformer2DModel.from_config(config)
    assert {name: each.shape for name, each in found.items()} == {n: t.shape for n, t in model.state_dict().items()}


# Damage. Each takes the tensors of a file, and gives what has to be named.


def lost(tensors: dict[str, Tensor], chance: random.Random) -> str:
    key = chance.choice([key for key in sorted(tensors) if ignorable(key) is False])
    del tensors[key]
    return key.replace("_norm.scale", "_norm.").replace("scale_weight", "weight").split(".quant_state")[0]


def ignorable(key: str) -> bool:
    # Without its note, or the range of its inputs, a weight in fp8 is as before; a bias of guidance is not.
    return key.endswith(("comfy_quant", "input_scale", "scale_input", "scaled_fp8", "pre_quant_scale"))


def shortened(tensors: dict[str, Tensor], chance: random.Random) -> str:
    key = chance.choice([key for key in sorted(tensors) if tensors[key].ndim and len(tensors[key]) > 1])
    tensors[key] = tensors[key][:-1].clone()
    return key


def flattened(tensors: dict[str, Tensor], chance: random.Random) -> str:
    key = chance.choice(
        [key for key in sorted(tensors) if len(tensors[key].squeeze().shape) == 2 and "scale" not in key]
    )
    tensors[key] = tensors[key].flatten().clone()
    return key


def odd_scale(tensors: dict[str, Tensor], chance: random.Random) -> str:
    ends = ("weight_scale", "weight_scale_2", "scale_weight", "pre_quant_scale", "absmax", "_norm.scale")
    key = chance.choice([key for key in sorted(tensors) if key.endswith(ends)])
    tensors[key] = torch.ones(3).to(tensors[key].dtype)
    return key


def not_a_number(tensors: dict[str, Tensor], chance: random.Random) -> str:
    reals = (torch.float32, torch.bfloat16, torch.float16)
    key = chance.choice(
        [k for k in sorted(tensors) if tensors[k].dtype in reals and not ignorable(k) and tensors[k].numel()]
    )
    tensors[key] = tensors[key].clone()
    # All of it: not every place of a table is taken.
    tensors[key].fill_(chance.choice([float("nan"), float("inf")]))
    ends = ("weight_scale_2", "weight_scale", "scale_weight", "weight.nested_absmax", "weight.absmax",
            "weight.quant_map", "weight.nested_quant_map")  # fmt: skip
    end = next((end for end in ends if key.endswith(f".{end}")), None)
    return key if end is None else key.removesuffix(end)


def other_type(tensors: dict[str, Tensor], chance: random.Random) -> str:
    key = chance.choice([key for key in sorted(tensors) if not ignorable(key)])
    tensors[key] = torch.ones(tensors[key].shape, dtype=torch.int32)
    return key


def stranger(tensors: dict[str, Tensor], chance: random.Random) -> str:
    key = chance.choice([key for key in sorted(tensors) if key.endswith(".weight")])
    name = key.removesuffix("weight") + chance.choice(["weight_proj_down", "zero_point", "SCB", "weight.deltas"])
    tensors[name] = torch.ones(2)
    return name


def holed(tensors: dict[str, Tensor], chance: random.Random) -> str:
    block = chance.choice(["double_blocks.0.", "single_blocks.0.", "double_blocks.1.", "single_blocks.1."])
    for key in [key for key in tensors if key.startswith(block)]:
        del tensors[key]
    if block[-2] == "1":
        tensors[block.replace("1", "3") + "linear9.weight"] = torch.ones(1)
    return block.split(".")[0]


def rotation(group: object) -> bytes:
    return json.dumps({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}).encode()


NOTES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda text: text[: len(text) // 2],
    "no object": lambda text: b"[1, 2]",
    "no text": lambda text: bytes([255, 254, 0, 7]),
    "empty": lambda text: b"",
    "deep": lambda text: b"[" * 100_000,
    "unknown format": lambda text: json.dumps({"format": "int3_spiral"}).encode(),
    "number as format": lambda text: json.dumps({"format": 8}).encode(),
    "no format": lambda text: b"{}",
    "other group": lambda text: json.dumps(
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 8}
    ).encode(),
    "group in words": lambda text: json.dumps(
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": "many"}
    ).encode(),
    "large group": lambda text: json.dumps(
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 4096}
    ).encode(),
}
DAMAGE = [lost, shortened, flattened, odd_scale, not_a_number, other_type, stranger, holed]
DAMAGED_LAYOUTS: dict[str, Callable[[dict[str, Tensor]], Written]] = {
    "bf16": plain(torch.bfloat16),
    "fp8": scaled_old(False),
    "new fp8": scaled_new(torch.float8_e4m3fn, rows=True, header=False),
    "int8": integers(group=256),
    "int4": integers(group=256, bits=4, column=False),
    "nvfp4": nvfp4(True),
    "mxfp8": mxfp8,
    "nf4": bitsandbytes(False),
    "nested nf4": bitsandbytes(True),
}


def refused(path: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        list(read_weights(str(path), "cpu"))
    assert path.name in str(caught.value), caught.value
    return str(caught.value)


@pytest.mark.parametrize("layout", DAMAGED_LAYOUTS)
def test_damaged_files_are_refused_with_file_and_key(state: dict[str, Tensor], tmp_path: Path, layout: str) -> None:
    whole = DAMAGED_LAYOUTS[layout](state)
    chance = random.Random(layout)
    for damage in DAMAGE:
        for _ in range(3):
            tensors = dict(whole.tensors)
            key = damage(tensors, chance)
            words = refused(save(whole._replace(tensors=tensors), tmp_path / f"{damage.__name__}.safetensors"))
            assert key in words, (damage.__name__, key, words)


@pytest.mark.parametrize("damage", NOTES)
@pytest.mark.parametrize("layout", ["int8", "nvfp4", "nf4"])
def test_notes_that_say_nothing_are_refused(state: dict[str, Tensor], tmp_path: Path, layout: str, damage: str) -> None:
    whole = DAMAGED_LAYOUTS[layout](state)
    key = sorted(key for key in whole.tensors if "comfy_quant" in key or "quant_state" in key)[3]
    text = NOTES[damage](bytes(whole.tensors[key].tolist()))
    tensors = whole.tensors | {key: torch.tensor(list(text), dtype=torch.uint8)}
    words = refused(save(whole._replace(tensors=tensors), tmp_path / "noted.safetensors"))
    assert key.split(".comfy_quant")[0].split(".weight.quant_state")[0] in words


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"layers": 3}', '{"layers": {"double_blocks.0.img_mlp.0": "float8_e4m3fn"}}']
)
def test_a_header_that_says_nothing_is_refused(state: dict[str, Tensor], tmp_path: Path, text: str) -> None:
    written = plain(torch.bfloat16)(state)._replace(metadata={"_quantization_metadata": text})
    assert "_quantization_metadata" in refused(save(written, tmp_path / "noted.safetensors"))


def test_weights_of_integers_without_a_word_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    whole = integers(group=256)(state)
    tensors = {key: tensor for key, tensor in whole.tensors.items() if "comfy_quant" not in key}
    words = refused(save(whole._replace(tensors=tensors), tmp_path / "bare.safetensors"))
    assert "comfy_quant, which says how to use it, is missing" in words
    tensors = {key: tensor for key, tensor in tensors.items() if "scale" not in key or "norm" in key}
    assert "nothing beside it says" in refused(save(whole._replace(tensors=tensors), tmp_path / "bare.safetensors"))


def test_a_noted_format_must_be_that_of_the_tensor(state: dict[str, Tensor], tmp_path: Path) -> None:
    whole = integers()(state)
    key = "single_blocks.1.linear2.comfy_quant"
    for name in ("float8_e4m3fn", "nvfp4", "mxfp8"):
        tensors = whole.tensors | {key: note(format=name)}
        words = refused(save(whole._replace(tensors=tensors), tmp_path / "noted.safetensors"))
        assert "single_blocks.1.linear2.weight is of type I8" in words


def test_an_incomplete_folder_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    small_model(state).save_pretrained(folder, max_shard_size="4MB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    first = sorted(load_file(shard))[0]
    shutil.move(shard, tmp_path / "elsewhere")
    with pytest.raises(BaseModelError, match="is missing") as caught:
        read(folder)
    assert first.split(".")[0] in str(caught.value)


def test_nothing_is_read_before_the_header_is_known_to_be_right(state: dict[str, Tensor], tmp_path: Path) -> None:
    written = plain(torch.bfloat16)(state)
    del written.tensors["final_layer.linear.bias"]
    path = save(written, tmp_path / "flux.safetensors")
    with pytest.raises(BaseModelError, match=r"final_layer\.linear\.bias is missing"):
        next(read_weights(str(path), "cpu"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_file_is_given_up_piece_by_piece(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of a mapped file counts as memory in use until the mapping is gone."""
    monkeypatch.setattr(tensor_files, "WINDOW", 1 << 20)
    written = plain(torch.bfloat16)(state)
    path = save(written, tmp_path / "flux.safetensors")
    found, most = {}, 0
    for name, weight in read_weights(str(path), "cpu"):
        found[name] = weight.clone()
        most = max(most, Path("/proc/self/maps").read_text().count(path.name))
    # The old one lives for as long as the tensor that is at hand.
    assert 1 <= most <= 3
    check(found, written)
    del weight
    kept = read(path)
    mapped = Path("/proc/self/maps").read_text().count(path.name)
    # A window is mapped once, however many tensors are of it: each keeps the file open.
    assert 4 < mapped <= path.stat().st_size // (1 << 20) + 1 < len(kept) / 4
    check(kept, written)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_is_brought_into_int8_keeps_no_part_of_its_file(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the few matrices outside the blocks; biases and norms, which are everywhere, kept all of it."""
    monkeypatch.setattr(tensor_files, "WINDOW", 1 << 20)
    path = save(plain(torch.bfloat16)(state), tmp_path / "flux.safetensors")
    windows = path.stat().st_size >> 20
    base = load_base(BaseReference(str(path), "int8"), "cpu")
    assert base.dtype == torch.bfloat16 and windows == 13
    assert Path("/proc/self/maps").read_text().count(path.name) <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="Linux refuses to map more than there is memory")
def test_a_file_larger_than_the_memory_is_read(tmp_path: Path) -> None:
    """FLUX.1-dev in bf16 on a machine of 16 GB: a file of holes that is as much too large for this one."""
    memory = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    size = 1024 * (int(memory["MemTotal:"]) + int(memory["SwapTotal:"]))
    block = 2 * sum(math.prod(shape) for key, shape in flux_shapes().items() if key.startswith("double"))
    path = write_headers(tmp_path / "flux1.safetensors", double=size // block + 1, single=1, context=64)
    assert path.stat().st_size > size
    first = dict(itertools.islice(read_weights(str(path), "cpu"), 4))
    assert first["x_embedder.weight"].shape == (3072, 64) and not first["x_embedder.weight"].any()


def test_what_is_written_into_a_tensor_does_not_reach_the_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(plain(torch.bfloat16)(state), tmp_path / "flux.safetensors")
    before = path.read_bytes()
    next(iter(read(path).values())).add_(1)
    assert path.read_bytes() == before


def test_quantisable_weights_are_a_part(state: dict[str, Tensor]) -> None:
    assert 0 < sum(map(quantisable, state)) < len(state)
