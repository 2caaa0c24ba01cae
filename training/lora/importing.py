"""Reading a LoRA file as a value, whoever wrote it: FluxDuel, diffusers and its kin, kohya and its kin, XLabs."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import FluxLoraLoaderMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..base.base_model import BaseReference
from ..base.families import flux1
from ..config import LoRAConfig
from ..failure_words import reason
from . import kohya as lora_kohya
from .files import DIFFUSERS_PREFIX, METADATA_KEY
from .value import DOWN, UP, FluxLoRA, LoRAError, base_layers, check_fit, module_names, target_layers

log = logging.getLogger(__name__)

_DIFFUSERS_METADATA = "lora_adapter_metadata"
_TEXT_ENCODER = ("lora_te", "text_encoder", "text_model.", "conditioner.")
_OTHER_KINDS = {
    r"\.lokr_": "a LoKr",
    r"\.hada_": "a LoHa",
    r"\.(dora_scale|lora_magnitude_vector)": "a DoRA",
    r"\.oft_": "an OFT adapter",
    r"\.lora_mid\.": "a LoCon with a Tucker core",
    r"\.(lora_B|lora_up)\.bias$": "a LoRA with biases",
    r"\.diff(_b)?$": "whole differences of weights beside a LoRA",
}
_STABLE_DIFFUSION = ("lora_unet_input_blocks", "lora_unet_down_blocks", "lora_unet_mid_block", "unet.")
_PARTS = {
    ".lora_A.weight": DOWN,
    ".lora_A.default.weight": DOWN,
    ".lora_down.weight": DOWN,
    ".lora.down.weight": DOWN,
    ".down.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_B.default.weight": UP,
    ".lora_up.weight": UP,
    ".lora.up.weight": UP,
    ".up.weight": UP,
    ".alpha": ".alpha",
}


@dataclass(frozen=True)
class _Pair:
    """A layer's adapter as it is in the file; its weight changes by ``up @ down * scale``."""

    down: Tensor
    up: Tensor
    scale: float


def load_file(path: Path, reference: BaseReference) -> FluxLoRA:
    """Read a LoRA file as an adapter of the base ``reference``. Reads the base's headers, not its weights.

    Of a file by ``save`` with metadata everything comes back: settings, provenance, and in fp32 the tensors bit for
    bit. Of other files the rank comes from the tensors, alpha from ``.alpha`` or diffusers' metadata (else alpha is
    the rank), the targets from the layers; the change of each layer's weight is kept exactly. Text encoder keys are
    left out with a warning.

    Raises ``LoRAError`` for a file that is missing, damaged, no LoRA, another kind of adapter, of more than one rank,
    or made for another model; ``BaseModelError`` where the base is missing or not FLUX.1.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    layers = base_layers(reference)
    return _own(path, tensors, metadata, layers, reference) or _foreign(path, tensors, metadata, layers, reference)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise LoRAError(f"There is no LoRA file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LoRAError(
            f"{path} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error


def _own(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    layers: Mapping[str, tuple[int, int]],
    reference: BaseReference,
) -> FluxLoRA | None:
    if METADATA_KEY not in metadata:
        return None
    try:
        record = json.loads(metadata[METADATA_KEY])
        config = LoRAConfig(**record["lora_config"])
        provenance = tuple(dict(stage) for stage in record["provenance"])
        base = dict(record["base"])
        modules = target_layers(layers, config)
        if any(key.startswith(lora_kohya.PREFIX) for key in tensors):
            weights = lora_kohya.split(tensors, modules, config.rank)
            expected = lora_kohya.fuse(weights, config.alpha)
        else:
            weights = {m + part: tensors[DIFFUSERS_PREFIX + m + part] for m in modules for part in (DOWN, UP)}
            alpha = torch.tensor(config.alpha, dtype=torch.float32)
            expected = {DIFFUSERS_PREFIX + key: weight for key, weight in weights.items()}
            expected |= {f"{DIFFUSERS_PREFIX}{m}.alpha": alpha for m in modules}
        # Another program may have changed the weights and kept the metadata; then the weights are right.
        intact = expected.keys() == tensors.keys() and all(torch.equal(tensors[k], t) for k, t in expected.items())
        check_fit(weights, layers, reference.name)
        lora = FluxLoRA(reference, config, {key: weight.float() for key, weight in weights.items()}, provenance)
    except (KeyError, TypeError, ValueError) as error:
        log.warning("%s: its FluxDuel metadata does not fit its tensors (%s) and is left aside.", path, error)
        return None
    if not intact:
        log.warning("%s was changed by another program since FluxDuel wrote it; its settings are left aside.", path)
        return None
    if base.get("fingerprint") and base["fingerprint"] != reference.fingerprint():
        log.warning("%s was trained on another base (%s), not on %s.", path, base.get("name"), reference.name)
    return lora


def _foreign(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    layers: Mapping[str, tuple[int, int]],
    reference: BaseReference,
) -> FluxLoRA:
    pairs = _pairs(path, _transformer_keys(path, tensors), metadata)
    scale = _common([pair.scale for pair in pairs.values()])
    if scale is None:
        # One alpha must hold for all layers, so what differs goes into the weights.
        pairs = {name: _Pair(pair.down, pair.up * pair.scale, 1.0) for name, pair in pairs.items()}
        scale = 1.0
    weights = _in_diffusers_names(path, pairs, layers, reference.name)
    ranks = {module: weights[module + DOWN].shape[0] for module in module_names(weights)}
    modules = list(ranks)
    rank = ranks[modules[0]]
    other = next((module for module in modules if ranks[module] != rank), None)
    if other is not None:
        raise LoRAError(
            f"{path} has rank {rank} in {modules[0]} and rank {ranks[other]} in {other}. FluxDuel trains LoRAs of one "
            "rank: resize the file with another program, or start a new LoRA."
        )
    alpha = scale * rank
    try:
        config = LoRAConfig(rank=rank, alpha=alpha, **_targets(modules, layers))
    except ValueError as error:
        raise LoRAError(f"{path} cannot be trained further: {error}") from error
    log.info("%s: rank %d, alpha %g, %d layers (%s).", path, rank, alpha, len(modules), config.targets)
    return FluxLoRA(reference, config, weights)


def _transformer_keys(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    text = [key for key in tensors if key.startswith(_TEXT_ENCODER)]
    if text:
        log.warning(
            "%s: %d keys of a text encoder, such as %s, are left out. FluxDuel trains the transformer only.",
            path,
            len(text),
            text[0],
        )
    rest = {key: tensor for key, tensor in tensors.items() if key not in set(text)}
    for key in rest:
        kind = next((kind for mark, kind in _OTHER_KINDS.items() if re.search(mark, key)), None)
        if kind is not None:
            raise LoRAError(f"{path} holds {kind} (key {key}). FluxDuel continues plain LoRAs; start a new one.")
        if key.startswith(_STABLE_DIFFUSION):
            raise LoRAError(f"{path} is a LoRA for Stable Diffusion (key {key}). Choose one for FLUX.1.")
    if not any(_split_key(key)[1] in (DOWN, UP) for key in rest):
        example = f" (its keys are such as {next(iter(rest))})" if rest else ""
        raise LoRAError(f"{path} holds no LoRA keys for the transformer{example}. Choose a FLUX.1 LoRA file.")
    return rest


def _split_key(key: str) -> tuple[str, str]:
    for ending, part in _PARTS.items():
        if key.endswith(ending):
            return key[: -len(ending)], part
    return key, ""


def _pairs(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, _Pair]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = _split_key(key)
        if not part:
            raise LoRAError(f"{path}: {key} is no part of a LoRA that FluxDuel knows. Choose a plain FLUX.1 LoRA.")
        found.setdefault(name, {})[part] = tensor.float()
    alpha_of_all = _diffusers_alpha(path, metadata)
    pairs = {}
    for name, parts in found.items():
        if DOWN not in parts or UP not in parts:
            raise LoRAError(f"{path}: {name} has {' and '.join(parts)} only. Download the complete file again.")
        down, up = parts[DOWN], parts[UP]
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            raise LoRAError(
                f"{path}: {name} is {tuple(down.shape)} and {tuple(up.shape)}, not (rank, in) and (out, rank): no LoRA "
                "of a linear layer. Choose a plain FLUX.1 LoRA."
            )
        alpha = parts[".alpha"].item() if ".alpha" in parts else alpha_of_all or down.shape[0]
        if not (math.isfinite(alpha) and bool(torch.isfinite(down).all()) and bool(torch.isfinite(up).all())):
            raise LoRAError(f"{path}: {name} holds NaN or infinity. The file is of no use: choose another one.")
        pairs[name] = _Pair(down, up, alpha / down.shape[0])
    return pairs


def _diffusers_alpha(path: Path, metadata: Mapping[str, str]) -> float | None:
    """The alpha that diffusers writes once for all layers. Without it, alpha is each layer's rank."""
    try:
        record: dict[str, Any] = json.loads(metadata.get(_DIFFUSERS_METADATA, "{}"))
    except ValueError as error:
        raise LoRAError(f"{path}: its metadata {_DIFFUSERS_METADATA} is no JSON ({error}).") from error
    for option in ("alpha_pattern", "use_rslora"):
        if record.get(DIFFUSERS_PREFIX + option):
            raise LoRAError(f"{path} was made with PEFT's {option}, which FluxDuel does not train. Start a new LoRA.")
    return record.get(f"{DIFFUSERS_PREFIX}lora_alpha")


def _common(scales: list[float]) -> float | None:
    return scales[0] if scales[0] > 0 and all(scale == scales[0] for scale in scales) else None


def _in_diffusers_names(
    path: Path, pairs: Mapping[str, _Pair], layers: Mapping[str, tuple[int, int]], base: str
) -> dict[str, Tensor]:
    underscored = {layer.replace(".", "_"): layer for layer in layers}
    fused = lora_kohya.fused_shapes(layers)
    weights: dict[str, Tensor] = {}
    to_convert: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        plain = name.removeprefix("base_model.model.").removeprefix(DIFFUSERS_PREFIX)
        flat = re.sub(r"^(diffusion_model\.|lora_unet_|lora_transformer_|lycoris_)", "", plain).replace(".", "_")
        layer = plain if plain in layers else underscored.get(flat)
        if layer is not None:
            target, down, up = weights, layer + DOWN, layer + UP
        elif flat in fused:
            _check_fused(path, name, pair, fused[flat], base)
            key = lora_kohya.PREFIX + flat
            target, down, up = to_convert, f"{key}.lora_down.weight", f"{key}.lora_up.weight"
        elif ".processor." in name:
            target, down, up = to_convert, f"{name}.down.weight", f"{name}.up.weight"
        else:
            raise LoRAError(f"{path}: {base} has no layer for {name}. The LoRA was made for another model.")
        if down in target:
            raise LoRAError(f"{path} adapts a layer twice, the second time as {name}. Choose another file.")
        target[down], target[up] = pair.down, pair.up
    weights |= _converted(path, to_convert)
    kept = {}
    for module in module_names(weights):
        # In fused files, a part that is not adapted is all zeros, and would never learn anything.
        if weights[module + DOWN].any() or weights[module + UP].any():
            kept |= {key: weights[key].clone() for key in (module + DOWN, module + UP)}
    if not kept:
        raise LoRAError(f"{path}: all of its weights are zero. Start a new LoRA instead.")
    check_fit(kept, layers, base)
    return kept


def _check_fused(path: Path, name: str, pair: _Pair, shape: tuple[int, int], base: str) -> None:
    found = (pair.up.shape[0], pair.down.shape[1])
    if found != shape:
        raise LoRAError(
            f"{path}: {name} is for a layer of {found[1]} -> {found[0]}, {base} has {shape[1]} -> {shape[0]} there. "
            "The LoRA was made for another model; choose the base that it was trained on."
        )


def _converted(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """black-forest-labs' names as diffusers', by diffusers itself; it splits the fused layers."""
    if not tensors:
        return {}
    try:
        converted = FluxLoraLoaderMixin.lora_state_dict(tensors)
    except (AssertionError, KeyError, ValueError) as error:
        raise LoRAError(
            f"{path}: diffusers cannot convert its layers from black-forest-labs' layout "
            f"({str(error) or 'sizes differ'}). It does so for FLUX.1 at full width only; use a file in the "
            "diffusers format."
        ) from error
    return {key.removeprefix(DIFFUSERS_PREFIX): tensor for key, tensor in converted.items()}


def _targets(modules: list[str], layers: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    for preset, pattern in flux1.TARGET_PRESETS.items():
        if {layer for layer in layers if re.fullmatch(pattern, layer)} == set(modules):
            return {"targets": preset}
    return {"targets": "regex", "target_regex": "|".join(re.escape(module) for module in modules)}
