"""Damaged and odd LoRA files, made from a seed: each is read, or refused by a LoRAError that names the file."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fluxduel.headless.inspect_command import describe
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import LoRAError
from fluxduel.training.lora.files import file_metadata

COUNT = 500
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "I64", "I8", "U8", "BOOL", "X", "")
ODD: tuple[Any, ...] = (None, True, 0, -1, 3, 2**63, 2**70, 1.5, "", "nan", "x" * 9999, [], [[]], {}, {"a": 1})
ENDINGS = (
    "alpha", "scalar", "lora_down.weight", "lora_up.weight", "lora_A.default.weight", "lora_mid.weight", "lora_B.bias",
    "hada_w1_a", "hada_w2_b", "hada_t1", "lokr_w1", "lokr_w2_a", "lokr_t2", "dora_scale", "diff", "diff_b", "w_norm",
    "weight",
)  # fmt: skip
NAMES = ("transformer.transformer_blocks.0.attn.to_q", "lora_unet_single_blocks_0_linear1", "", "\x00", "é")
VALUES = (0.5, -1.5, 0.0, math.nan, math.inf)
WEIGHTS = (1000, 1000, 100, 0.02, 0.02)
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "I64": 64, "F4": 4}
HEADER_KEYS = (
    "ss_network_alpha", "lora_alpha", "alpha", "lora_adapter_metadata", "fluxduel", "modelspec.architecture",
    "ss_base_model_version", "modelspec.title", "modelspec.usage_hint", "format",
)  # fmt: skip

Header = dict[str, Any]


def unpacked(content: bytes) -> tuple[Header, bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def packed(header: str, body: bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


def tensors_of(header: Header) -> list[str]:
    return [key for key in header if key != "__metadata__"]


def entry(chance: random.Random, header: Header) -> Header:
    return header[chance.choice(tensors_of(header))]


def odd_dtype(chance: random.Random, header: Header) -> None:
    entry(chance, header)["dtype"] = chance.choice(DTYPES)


def odd_shape(chance: random.Random, header: Header) -> None:
    found = entry(chance, header)
    shape = list(found["shape"])
    chance.choice([shape.reverse, lambda: shape.append(1), lambda: shape.insert(0, 0), shape.clear])()
    found["shape"] = chance.choice([shape, chance.choice(ODD)])


def same_size(chance: random.Random, header: Header) -> None:
    """Shapes that hold as many values, and so pass for whole."""
    found = entry(chance, header)
    count = 1
    for side in found["shape"]:
        count *= side
    found["shape"] = chance.choice([[count], [1, count], [count, 1], [1, 1, count, 1], [2, count // 2]])


def odd_offsets(chance: random.Random, header: Header) -> None:
    entry(chance, header)["data_offsets"] = chance.choice([[0, 0], [0, 2**62], [-4, 0], [10, 2], chance.choice(ODD)])


def lost(chance: random.Random, header: Header) -> None:
    for key in chance.sample(tensors_of(header), chance.randint(1, 4)):
        del header[key]


def renamed(chance: random.Random, header: Header) -> None:
    key = chance.choice(tensors_of(header))
    name, ending = chance.choice(NAMES), chance.choice(ENDINGS)
    header[chance.choice([f"{name}.{ending}", f"{key}.{ending}", name])] = header.pop(key)


def odd_metadata(chance: random.Random, header: Header) -> None:
    texts = ["nan", "inf", "-1", "0", "1e400", "{", "[]", "{}", "\ud800", json.dumps(chance.choice(ODD))]
    records = [{"lora_alpha": chance.choice(ODD)}, {"alpha_pattern": chance.choice(ODD)}, {"use_rslora": True}]
    records += [{"lora_config": chance.choice(ODD), "provenance": chance.choice(ODD), "base": chance.choice(ODD)}]
    texts += [json.dumps(record) for record in records]
    value = chance.choice([*texts, *ODD])
    if chance.random() < 0.2:
        header["__metadata__"] = chance.choice(ODD)
    else:
        before = header.get("__metadata__")
        header["__metadata__"] = (before if isinstance(before, dict) else {}) | {chance.choice(HEADER_KEYS): value}


def odd_own_record(chance: random.Random, header: Header) -> None:
    """FluxDuel's own settings, one of them changed."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("fluxduel"), str):
        return odd_metadata(chance, header)
    record = json.loads(metadata["fluxduel"])
    inner = record
    for step in chance.choice([(), ("lora_config",), ("base",), ("provenance", 0), ("provenance", 0, "config")]):
        inner = inner.get(step) if isinstance(inner, dict) else inner[0] if isinstance(inner, list) and inner else None
    if isinstance(inner, dict) and inner:
        inner[chance.choice(sorted(inner))] = chance.choice([*ODD, 2, 4.0, "regex"])
    metadata["fluxduel"] = json.dumps(record)


CHANGES: tuple[Callable[[random.Random, Header], None], ...] = (
    odd_dtype, odd_shape, same_size, odd_offsets, lost, renamed, odd_metadata, odd_own_record,
)  # fmt: skip


def made_whole(chance: random.Random, header: Header) -> bytes:
    """A body that the header's shapes and types fit, so that the file passes for sound."""
    body = b""
    for key in tensors_of(header):
        kind, shape = header[key]["dtype"], header[key]["shape"]
        if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < 10**4 for side in shape):
            shape = [2, 32]
        count = math.prod(shape)
        values = bytes(count * BITS.get(kind, 8) // 8)
        if kind == "F32":
            values = struct.pack(f"<{count}f", *chance.choices(VALUES, WEIGHTS, k=count))
        header[key] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    return body


def damaged(chance: random.Random, content: bytes) -> bytes:
    if chance.random() < 0.15:
        raw = bytearray(content)
        for _ in range(chance.randint(1, 20)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        return bytes(raw[: chance.choice([len(raw), chance.randrange(len(raw)), 7, 0])])
    header, body = unpacked(content)
    if chance.random() < 0.2:
        body = bytearray(body)
        # Values of alpha and weights that are no numbers, or none to multiply with.
        for value in chance.choices([float("nan"), float("inf"), 0.0, -1.0, 1e38], k=3):
            struct.pack_into("<f", body, 4 * chance.randrange(len(body) // 4), value)
    for change in chance.choices(CHANGES, k=chance.randint(1, 2)):
        if tensors_of(header):
            change(chance, header)
    if chance.random() < 0.7:
        body = made_whole(chance, header)
    text = json.dumps(header)
    if chance.random() < 0.1 and len(header) > 1:
        key = chance.choice(tensors_of(header) or ["__metadata__"])
        text = f"{text[:-1]}, {json.dumps(key)}: {json.dumps(header.get(key))}}}"
    if chance.random() < 0.05:
        text += " " * chance.choice([1, 10**5, 2 * 10**6]) + chance.choice(["", "}", "\x00"])
    return packed(text, bytes(body))


@pytest.fixture(scope="module")
def sound(narrow: BaseReference, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Whole files of all kinds, to be damaged."""
    folder = tmp_path_factory.mktemp("sound")
    new = lora.create(narrow, LoRAConfig(rank=2, alpha=1.0, targets="attention"))
    tensors = {key: torch.randn(tensor.shape) for key, tensor in new.tensors.items()}
    stage = {"stage": "adversarial", "config": {"target_steps": 4}, "steps_done": 3, "resolution": 512, "data": "d"}
    some = lora.FluxLoRA(narrow, new.config, tensors, (stage,))
    files = [
        lora.save(some, folder / f"{format}{metadata}.safetensors", format, metadata=metadata).read_bytes()
        for format in ("diffusers", "kohya")
        for metadata in (True, False)
    ]
    name = "lycoris_transformer_blocks_0_attn_to_q"
    sizes = {"w1_a": (4, 2), "w1_b": (2, 4), "w2_a": (8, 2), "w2_b": (2, 8)}
    lokr = {f"{name}.lokr_{part}": torch.randn(size) for part, size in sizes.items()}
    sizes = {"w1_a": (32, 2), "w1_b": (2, 32), "w2_a": (32, 2), "w2_b": (2, 32)}
    loha = {f"{name}.hada_{part}": torch.randn(size) for part, size in sizes.items()}
    return [*files, *(save(parts | {f"{name}.alpha": torch.tensor(1.0)}) for parts in (lokr, loha))]


def test_damaged_files_are_read_or_refused_by_name(narrow: BaseReference, sound: list[bytes], tmp_path: Path) -> None:
    """Whatever else is raised is a traceback to whoever chose the file."""
    outcomes: Counter[str] = Counter()
    tracebacks: list[str] = []
    for seed in range(COUNT):
        chance = random.Random(seed)
        path = tmp_path / f"damaged-{seed}.safetensors"
        path.write_bytes(damaged(chance, chance.choice(sound)))
        for what, use in (("load", lambda p: file_metadata(lora.load_file(p, narrow), "title")), ("inspect", describe)):
            try:
                use(path)
                outcomes[f"{what}: read"] += 1
            except LoRAError as error:
                assert path.name in str(error), f"{what} {seed}: {error}"
                outcomes[f"{what}: refused"] += 1
            except BaseException as error:
                tracebacks.append(f"{what}, seed {seed}: {type(error).__name__}: {error}")
        path.unlink()
    print(dict(outcomes))
    assert not tracebacks, "\n".join(tracebacks)
    assert outcomes["load: read"] > COUNT // 20 and outcomes["load: refused"] > COUNT // 4


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), float("-inf")])
def test_an_alpha_that_is_no_number_is_named(narrow: BaseReference, tmp_path: Path, alpha: float) -> None:
    new = lora.create(narrow, LoRAConfig(rank=2, alpha=1.0, targets="attention"))
    path = lora.save(new, tmp_path / "my.safetensors", metadata=False)
    header, body = unpacked(path.read_bytes())
    key = next(key for key in header if key.endswith(".alpha"))
    first = header[key]["data_offsets"][0]
    path.write_bytes(packed(json.dumps(header), body[:first] + struct.pack("<f", alpha) + body[first + 4 :]))
    with pytest.raises(LoRAError, match=f"my.safetensors: {key.removesuffix('.alpha')}"):
        lora.load_file(path, narrow)


def test_an_own_file_with_a_weight_that_is_no_number_is_named(narrow: BaseReference, tmp_path: Path) -> None:
    new = lora.create(narrow, LoRAConfig(rank=2, alpha=1.0, targets="attention"))
    path = lora.save(new, tmp_path / "my.safetensors")
    header, body = unpacked(path.read_bytes())
    key = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    first = header[key]["data_offsets"][0]
    path.write_bytes(packed(json.dumps(header), body[:first] + struct.pack("<f", math.nan) + body[first + 4 :]))
    with pytest.raises(LoRAError, match="my.safetensors: transformer.transformer_blocks.0.attn.to_q holds NaN"):
        lora.load_file(path, narrow)


def test_a_history_that_is_odd_does_not_keep_a_lora_from_being_saved(narrow: BaseReference) -> None:
    new = lora.create(narrow, LoRAConfig(rank=2, alpha=1.0, targets="attention"))
    history = ({"steps_done": 3, "resolution": 512}, {"steps_done": "many", "resolution": [1]})
    metadata = file_metadata(lora.FluxLoRA(narrow, new.config, new.tensors, history), "title")
    assert (metadata["ss_steps"], metadata["modelspec.resolution"]) == ("3", "512x512")
