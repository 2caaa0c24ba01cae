"""What a file of a FLUX transformer is, from its header: whose names, which formats, which configuration."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import gguf_files
from .decoding import Settings, Shape, Tensors
from .errors import BaseModelError
from .families import FAMILIES
from .families.modules import DIFFUSERS, ORIGINAL
from .int8 import GROUP, Int8Weight
from .tensor_files import Entry, Header, opened, read_header
from .weight_formats import (
    BITSANDBYTES,
    BITSANDBYTES_NESTED,
    COMFY_FORMATS,
    FLOAT8,
    FLOATS,
    PLAIN,
    WeightFormat,
)

OTHER_FILES = "the bf16, fp8, int8 or GGUF file of the same model"

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.", "")
_FIRST_BLOCKS = {
    ORIGINAL: ("double_blocks.0.", "single_blocks.0."),
    DIFFUSERS: ("transformer_blocks.0.", "single_transformer_blocks.0."),
}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# What older ComfyUI wrote, and what it writes now.
_RENAMED = {
    "scale_weight": "weight_scale",
    "scale_input": "input_scale",
    # Of musubi-tuner.
    "scale_weight_tensor": "weight_scale_tensor",
}
_STATE = "weight.quant_state.bitsandbytes__"
_METADATA = "_quantization_metadata"
_LARGEST_NOTE = 1 << 20
_PLAIN_WORDS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}

_BASES = ", or ".join(family.model for family in reversed(FAMILIES))

# Other things that lie in the same folders: what they are, a mark in their keys, and what to do.
_OTHERS = (
    (
        "a Nunchaku file",
        r"\.qweight$",
        f"Its weights are packed for Nunchaku's own kernels, which cannot train. Choose {OTHER_FILES}",
    ),
    ("Chroma", r"(?:^|\.)distilled_guidance_layer\.", f"Choose {_BASES}"),
    ("a Redux adapter", r"(?:^|\.)redux_(?:up|down)\.", f"Choose the transformer: {_BASES}"),
    (
        "a ControlNet",
        r"(?:^|\.)(?:controlnet_|input_hint_block|pos_embed_input)",
        f"Choose the transformer: {_BASES}",
    ),
    (
        "a LoRA",
        r"\.lora_(?:A|B|up|down)\.|\.lora[AB]?\.(?:up|down)\.",
        "Choose the transformer it was trained on as the base, and this file as the LoRA to continue",
    ),
)


@dataclass(frozen=True)
class Layer:
    """A module as it lies. ``keys``: by their end, such as ``weight`` and ``bias``."""

    keys: Mapping[str, str]
    format: WeightFormat
    settings: Settings


class FileLayout:
    """A FLUX transformer in one file, or in the parts of a diffusers folder."""

    def __init__(self, header: Header, name: str, prefix: str, naming: str) -> None:
        self.header, self.name, self.prefix, self.naming = header, name, prefix, naming
        self._ends: dict[str, dict[str, str]] = defaultdict(dict)
        for key in header.entries:
            if key.startswith(prefix):
                inner = key[len(prefix) :]
                for dot in (place for place, letter in enumerate(inner) if letter == "."):
                    end = inner[dot + 1 :]
                    self._ends[inner[:dot]][_RENAMED.get(end, end)] = key
        self._notes = self._read_notes()
        self._scaled_kinds = {_kind(module) for module, ends in self._ends.items() if "weight_scale" in ends}

    def layer(self, module: str) -> Layer:
        """The module of this name; without a weight where it has none.

        A norm's weight may be called scale. Raises ``BaseModelError`` where its format is not known.
        """
        keys = dict(self._ends.get(module, {}))
        # Newer ComfyUI renames the norms' scales.
        if "scale" in keys and "weight" not in keys:
            keys["weight"] = keys.pop("scale")
        if "weight" not in keys:
            return Layer(keys, PLAIN, {})
        form, settings = self._format(module, keys, self.header.entries[keys["weight"]])
        return Layer(keys, form, settings)

    def key(self, module: str) -> str:
        """The key of the module's weight."""
        return self.layer(module).keys["weight"]

    def shape(self, module: str) -> Shape:
        """The shape of the module's weight once it is decoded."""
        layer = self.layer(module)
        return layer.format.logical(self.header.entries[layer.keys["weight"]].shape, layer.settings)

    def has(self, modules: str) -> bool:
        """Whether there is any key of the module, or of those whose names start with it."""
        return modules in self._ends

    def lacks(self, module: str) -> bool:
        """Whether the module has no weight here."""
        ends = self._ends.get(module, {})
        return "weight" not in ends and "scale" not in ends

    def count(self, blocks: str) -> int:
        """How many blocks there are whose names are ``blocks`` and a number.

        Raises ``BaseModelError`` where one is left out between two others.
        """
        numbers = {int(rest) for name in self._ends if (rest := name.removeprefix(blocks)) != name and rest.isdecimal()}
        lost = next((number for number in range(len(numbers)) if number not in numbers), None)
        if lost is not None:
            raise BaseModelError(f"{self.name}: the keys of {self.prefix}{blocks}{lost} are missing. Is it complete?")
        return len(numbers)

    @property
    def kind(self) -> str:
        """The format of most of its weights, in a few words."""
        words: Counter[str] = Counter()
        for module in [name for name, ends in self._ends.items() if "blocks." in name and "weight" in ends]:
            layer = self.layer(module)
            entry = self.header.entries[layer.keys["weight"]]
            if len(entry.shape) > 1:
                rotated = ", rotated" if layer.settings.get("convrot") else ""
                words[layer.format.words + rotated if layer.format is not PLAIN else _PLAIN_WORDS[entry.dtype]] += 1
        return max(words, key=lambda each: words[each])

    def _format(self, module: str, keys: Mapping[str, str], entry: Entry) -> tuple[WeightFormat, Settings]:
        key = keys["weight"]
        if entry.is_gguf:
            return self.plain_format(key), {}
        note = self._notes.get(module)
        if note is not None:
            return self._noted_format(module, note)
        state = next((end for end in keys if end.startswith(_STATE)), None)
        if state is not None:
            return self._state_format(keys[state], keys)
        if "weight_scale" not in keys:
            if entry.dtype not in PLAIN.dtypes:
                raise BaseModelError(
                    f"{self.name}: key {key} is of type {entry.dtype}, and nothing beside it says how it is quantised. "
                    f"Choose {OTHER_FILES}."
                )
            if entry.dtype in FLOAT8 and _kind(module) in self._scaled_kinds:
                raise BaseModelError(
                    f"{self.name}: key {key} is fp8 without a scale, which this layer has in other blocks. Download it "
                    "again, or choose another file."
                )
            return PLAIN, {}
        if entry.dtype not in FLOATS:
            raise BaseModelError(
                f"{self.name}: key {key} is of type {entry.dtype} with a scale ({keys['weight_scale']}), but "
                f"{self.prefix}{module}.comfy_quant, which says how to use it, is missing. Choose {OTHER_FILES}."
            )
        return COMFY_FORMATS["float8_e4m3fn"], {}

    def plain_format(self, key: str) -> WeightFormat:
        """How the tensor of this key is decoded by itself. Raises ``BaseModelError`` for a type that cannot be."""
        entry = self.header.entries[key]
        return _gguf_format(self.name, key, entry) if entry.is_gguf else PLAIN

    def _noted_format(self, module: str, note: Mapping[str, Any]) -> tuple[WeightFormat, Settings]:
        name = note.get("format")
        form = COMFY_FORMATS.get(name) if isinstance(name, str) else None
        if form is None:
            raise BaseModelError(
                f"{self.name}: {self.prefix}{module} is in the format {name!r}, which FluxDuel cannot decode. Choose "
                f"{OTHER_FILES}."
            )
        inner = note.get("params")
        given = (inner if isinstance(inner, dict) else {}) | note
        rotated = name == "convrot_w4a4" or bool(given.get("convrot", False))
        return form, {"convrot": rotated, "convrot_groupsize": given.get("convrot_groupsize", GROUP)}

    def _state_format(self, key: str, keys: Mapping[str, str]) -> tuple[WeightFormat, Settings]:
        state = self._notes[key]
        shape = state.get("shape")
        if not isinstance(shape, list) or not all(isinstance(size, int) and size > 0 for size in shape):
            raise BaseModelError(f"{self.name}: key {key} has the shape {shape!r}. Download the file again.")
        nested = "weight.nested_absmax" in keys
        form = BITSANDBYTES_NESTED if nested else BITSANDBYTES
        return form, {**state, "shape": tuple(shape), "nested": nested}

    def _read_notes(self) -> dict[str, dict[str, Any]]:
        """What is written about a module (by its name), and the states of bitsandbytes (by their key)."""
        notes = dict(self._noted_in_metadata())
        keys = [key for key in self.header.entries if key.endswith(".comfy_quant") or f".{_STATE}" in key]
        if not keys:
            return notes
        with opened(self.header) as take:
            for key in keys:
                if key.startswith(self.prefix):
                    name = key.removeprefix(self.prefix).removesuffix(".comfy_quant")
                    notes[name if key.endswith(".comfy_quant") else key] = self._note(key, take)
        return notes

    def _note(self, key: str, take: Callable[[str], Tensor]) -> dict[str, Any]:
        shape, dtype = self.header.entries[key].shape, self.header.entries[key].dtype
        if dtype != "U8" or len(shape) != 1 or shape[0] > _LARGEST_NOTE:
            raise BaseModelError(f"{self.name}: key {key} is no text, but {dtype} of {list(shape)}.")
        return self._parsed(bytes(take(key).tolist()), f"key {key}")

    def _noted_in_metadata(self) -> dict[str, dict[str, Any]]:
        text = self.header.metadata.get(_METADATA)
        if text is None:
            return {}
        what = f"{_METADATA} in its header"
        layers = self._parsed(text, what).get("layers")
        if not isinstance(layers, dict) or not all(isinstance(note, dict) for note in layers.values()):
            raise BaseModelError(f"{self.name}: {what} lists no layers. Download the file again.")
        return {name.removeprefix(self.prefix): note for name, note in layers.items()}

    def _parsed(self, text: str | bytes, what: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BaseModelError(f"{self.name}: {what} is no JSON ({error}). Download the file again.") from error
        if not isinstance(found, dict):
            raise BaseModelError(f"{self.name}: {what} is JSON, but no object. Download the file again.")
        return found


def _kind(module: str) -> str:
    """The module's name without the number of its block."""
    return _NUMBER.sub("*", module, count=1)


def _gguf_format(name: str, key: str, entry: Entry) -> WeightFormat:
    if not gguf_files.can_decode(entry.dtype):
        raise BaseModelError(
            f"{name}: key {key} is of GGUF's type {entry.dtype}, which cannot be decoded here. Choose a file of type "
            "Q8_0, Q6_K, Q5_K or Q4_K."
        )

    def decode(tensors: Tensors, shape: Shape, settings: Settings) -> Tensor | Int8Weight:
        return gguf_files.decoded(tensors["weight"], entry.dtype, shape)

    return WeightFormat(f"GGUF {entry.dtype}", (entry.dtype,), decode)


def single_file_layout(file: Path) -> FileLayout:
    """What the one file ``file`` is. Raises ``BaseModelError`` for what is no FLUX transformer, by its name."""
    header = read_header([file])
    _refuse_others(header, file.name)
    for naming, blocks in _FIRST_BLOCKS.items():
        for prefix in _PREFIXES:
            if any(key.startswith(tuple(prefix + block for block in blocks)) for key in header.entries):
                return FileLayout(header, file.name, prefix, naming)
    prefix = next((each for each in _PREFIXES if any(key.startswith(each) for key in header.entries)), "")
    return FileLayout(header, file.name, prefix, ORIGINAL)


def folder_layout(files: Sequence[Path]) -> FileLayout:
    """What the parts ``files`` of a diffusers folder are. Raises ``BaseModelError`` as ``single_file_layout`` does."""
    header, name = read_header(files), files[0].parent.name
    _refuse_others(header, name)
    return FileLayout(header, name, "", DIFFUSERS)


def _refuse_others(header: Header, name: str) -> None:
    for what, mark, advice in _OTHERS:
        key = next((key for key in header.entries if re.search(mark, key)), None)
        if key is not None:
            raise BaseModelError(f"{name} is {what} (key {key}). {advice}.")


def config_of(layout: FileLayout) -> dict[str, Any]:
    """diffusers' configuration of the transformer in a single file, from the shapes of its weights.

    Raises ``BaseModelError`` where it is of no family, or not as its family has them.
    """
    # What no family knows is told as the oldest one misses it.
    family = next((each for each in FAMILIES if each.recognises(layout)), FAMILIES[-1])
    return family.config_of(layout)
