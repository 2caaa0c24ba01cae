"""Reading a LoRA file as a value, whoever wrote it: FluxDuel, ComfyUI, diffusers, PEFT, kohya, LyCORIS, XLabs."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..base.base_model import BaseReference
from ..base.families import Family
from ..base.families.modules import Module
from ..config import LoRAConfig
from ..failure_words import reason
from . import alphas, other_models
from .files import METADATA_KEY
from .keys import EMBEDDINGS, TEXT_ENCODER, checked, split_key
from .low_rank import Change, change_of, number
from .packing import file_layers, pack, split_change, unpack
from .places import check_ambiguity, check_model, places_of
from .value import (
    DOWN,
    UP,
    FluxLoRA,
    LoRAError,
    at_strength,
    base_family,
    base_layers,
    fresh_down,
    target_layers,
)

log = logging.getLogger(__name__)

# What cannot be written as a product of two matrices, with the reason.
_REFUSED = (
    (r"\.(dora_scale|lora_magnitude_vector)", "a DoRA, which scales the base's own weights as well"),
    (r"\.(oft_|boft_)", "an OFT adapter, which turns the base's own weights"),
    (r"\.(lora_mid\.|lokr_t|hada_t)", "an adapter with a Tucker core, which is for convolutions"),
    (r"\.(a1|a2|b1|b2)\.weight$", "a GLoRA, which scales the base's own weights as well"),
)
_INSTEAD = (
    "A LoRA cannot do the same: start a new one; or merge the file into the checkpoint with another program, and train "
    "on that."
)
_DIFFERENCES = ("diff", "diff_b", "w_norm", "b_norm")
# Names of files that torch or Python has pickled.
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
# What ``save`` writes.
_OWN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALPHA = next(field for field in dataclasses.fields(LoRAConfig) if field.name == "alpha")
# The ranks of LoHa and LoKr multiply: what was a small file may become a LoRA that fills the card.
_HIGH_RANK = 256
# Weight, gradient and both of AdamW's moments, in fp32.
_BYTES_IN_TRAINING = 16


def load_file(path: Path, reference: BaseReference) -> FluxLoRA:
    """Read a LoRA file as an adapter of the base ``reference``. Reads the base's headers, not its weights.

    Of a file by ``save`` with metadata everything comes back: settings, provenance, and in fp32 the tensors bit for
    bit, or to a rounding where the file holds them multiplied by alpha / rank, and that is no power of two.

    Of other files the rank is the highest of a layer's, alpha comes from ``.alpha`` or from what ``alphas.stated``
    finds (else alpha is the rank), the targets from the layers; the change of each layer's weight is kept exactly. LoHa
    and LoKr become LoRAs of the rank of their change. Keys of text encoders, and differences of biases and norms, are
    left out with a warning.

    Raises ``LoRAError`` for a file that is missing, damaged, no LoRA, a kind of adapter that is no product of two
    matrices, or made for another model; ``BaseModelError`` where the base is missing or of no family.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    read = _own(path, tensors, metadata, reference) or _foreign(path, tensors, metadata, reference)
    return dataclasses.replace(read, file=path.stem)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.is_dir():
        raise LoRAError(f"{path} is a folder. Name the LoRA's .safetensors file in it.")
    if not path.is_file():
        raise LoRAError(f"There is no LoRA file {path}.")
    if path.suffix.lower() in _PICKLES:
        raise LoRAError(
            f"{path} is a file of torch, which may run a program when it is read, and is not opened. Look for the same "
            "LoRA as .safetensors."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LoRAError(
            f"{path} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error


def _own(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], reference: BaseReference
) -> FluxLoRA | None:
    if METADATA_KEY not in metadata:
        return None
    odd = next((key for key, tensor in tensors.items() if tensor.dtype not in _OWN_DTYPES), None)
    family = base_family(reference)
    layout = next(
        (each for each in family.lora_layouts.values() if all(k.startswith(each.prefix) for k in tensors)), None
    )
    try:
        if odd is not None or layout is None:
            raise ValueError(f"{odd or path} is nothing that save writes")
        record = json.loads(metadata[METADATA_KEY])
        config = LoRAConfig(**record["lora_config"])
        provenance = tuple(dict(stage) for stage in record["provenance"])
        base = dict(record["base"])
        modules = target_layers(base_layers(reference), config, family)
        layers = file_layers(family, reference.config, layout.naming)
        weights = unpack(layout, layers, tensors, modules, config.rank)
        expected = pack(layout, layers, weights, config.alpha)
        # Another program may have changed the weights and kept the metadata; then the weights are right.
        intact = expected.keys() == tensors.keys() and all(torch.equal(tensors[k], t) for k, t in expected.items())
        weights = {key: weight.float() for key, weight in weights.items()}
        strength = 1.0 if layout.alpha else config.rank / config.alpha
        lora = FluxLoRA(reference, config, dict(at_strength(weights, strength)), provenance)
    except (KeyError, TypeError, ValueError):
        log.warning("%s: its FluxDuel metadata does not fit its tensors and is left aside.", path)
        return None
    if not intact:
        log.warning("%s was changed by another program since FluxDuel wrote it; its settings are left aside.", path)
        return None
    if base.get("fingerprint") and base["fingerprint"] != reference.fingerprint():
        log.warning("%s was trained on another base (%s), not on %s.", path, base.get("name"), reference.name)
    return lora


def _foreign(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], reference: BaseReference
) -> FluxLoRA:
    family, layers = base_family(reference), base_layers(reference)
    told = alphas.stated(path, metadata)
    said, where = other_models.said_to_be(metadata, told.base)
    if said != family.name:
        check_model(path, said, where, family)
    found = _by_layer(path, _transformer_keys(path, tensors, family))
    where_to = places_of(path, found, reference)
    if said != family.name:
        check_ambiguity(path, found, reference)
    changes = _of_each_module(path, where_to, _changes(path, found, where_to, told))
    if not changes:
        raise LoRAError(f"{path}: all of its weights are zero, or its alpha is. Start a new LoRA instead.")
    rank = max(change.rank for change in changes.values())
    scale = _common([change.scale for change in changes.values()], rank)
    weights: dict[str, Tensor] = {}
    for module, change in changes.items():
        # One alpha must hold for all layers, so what differs goes into the weights.
        up = change.up if scale else change.up * change.scale
        weights[module + DOWN], weights[module + UP] = _widened(change.down, up, rank, module)
    try:
        targets = _targets(list(changes), layers, family)
        config = LoRAConfig(rank=rank, alpha=(scale or 1.0) * rank, **targets)
    except ValueError as error:
        raise LoRAError(f"{path} cannot be trained further: {error}") from error
    if rank > _HIGH_RANK:
        numbers = sum(weight.numel() for weight in weights.values())
        log.warning(
            "%s: as a LoRA it has rank %d. Training it takes %.1f GB for weights, gradients and AdamW's state in fp32; "
            "a new LoRA of rank 16 to 64 takes a fraction of that.",
            path,
            rank,
            numbers * _BYTES_IN_TRAINING / 1e9,
        )
    narrower = sum(change.rank < rank for change in changes.values())
    if narrower:
        log.info("%s: %d of its layers have a lower rank, and are widened without changing them.", path, narrower)
    log.info("%s: rank %d, alpha %g, %d layers (%s).", path, rank, config.alpha, len(changes), config.targets)
    return FluxLoRA(reference, config, weights)


def _transformer_keys(path: Path, tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The tensors that belong to the transformer. Raises ``LoRAError`` for kinds and models that are no FLUX LoRA."""
    for what, marks in (("a text encoder", TEXT_ENCODER), ("an embedding", EMBEDDINGS)):
        found = [key for key in tensors if key.startswith(marks)]
        if found:
            log.warning(
                "%s: %d keys of %s, such as %s, are left out. FluxDuel trains the transformer only.",
                path,
                len(found),
                what,
                found[0],
            )
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith((*TEXT_ENCODER, *EMBEDDINGS))}
    check_model(path, *other_models.named_by_keys(rest), family)
    for key in rest:
        kind = next((kind for mark, kind in _REFUSED if re.search(mark, key)), None)
        if kind is not None:
            raise LoRAError(f"{path} holds {kind} (key {key}). {_INSTEAD}")
    parts = {split_key(key)[1] for key in rest}
    if not any(part in ("down", "up") or part.startswith(("hada_", "lokr_")) for part in parts):
        example = f" (its keys are such as {next(iter(rest))})" if rest else ""
        raise LoRAError(f"{path} holds no LoRA keys for the transformer{example}. Choose a LoRA for {family.name}.")
    return rest


def _by_layer(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer by part. Differences of biases and norms are left out and told."""
    found: dict[str, dict[str, Tensor]] = {}
    left_out: list[str] = []
    for key, stored in tensors.items():
        name, part = split_key(key)
        tensor = checked(path, key, stored).float()
        if not part:
            raise LoRAError(f"{path}: {key} is no part of a LoRA that FluxDuel knows. Choose a plain LoRA.")
        if part in (*_DIFFERENCES, "bias"):
            if not tensor.any():
                continue
            if part == "bias" or tensor.ndim > 1:
                kind = "a LoRA with biases" if part == "bias" else "a whole difference of weights"
                raise LoRAError(f"{path} holds {kind} (key {key}). {_INSTEAD}")
            left_out.append(key)
            continue
        if part in found.setdefault(name, {}):
            raise LoRAError(f"{path} holds {part} of {name} twice, the second time as {key}. Choose another file.")
        found[name][part] = tensor
    if left_out:
        log.warning(
            "%s: %d differences of biases and norms, such as %s, are left out: a LoRA holds none. Training begins a "
            "little beside what this file does.",
            path,
            len(left_out),
            left_out[0],
        )
    return found


def _changes(
    path: Path, found: Mapping[str, Mapping[str, Tensor]], places: Mapping[str, Module], told: alphas.Stated
) -> dict[str, Change]:
    """What the file does to each layer, by the file's own names."""
    changes: dict[str, Change] = {}
    contradicted: list[str] = []
    without: list[str] = []

    def stated(name: str, rank: int) -> float:
        # PEFT's settings name the layers as diffusers does, whatever the tensors' names are.
        return told.scale(places[name].parts[0].name, rank)

    def scale_of(name: str, parts: Mapping[str, Tensor], rank: int) -> float:
        if "alpha" not in parts:
            scale = stated(name, rank)
            if told.alpha is None or scale != 1:
                without.append(name)
            return scale
        scale = number(f"{path}: {name}", "alpha", parts["alpha"]) / rank
        if told.alpha is not None and not math.isclose(scale, stated(name, rank), rel_tol=1e-3):
            contradicted.append(name)
        return scale

    for name, parts in found.items():
        changes[name] = change_of(f"{path}: {name}", parts, lambda rank, n=name, p=parts: scale_of(n, p, rank))
    if without and told.alpha is None:
        log.warning(
            "%s names no alpha for %d layers. It is taken as the rank there, as ComfyUI does; if it was trained with "
            "another one, the file acts more or less strongly than it did.",
            path,
            len(without),
        )
    elif without:
        log.warning(
            "%s: alpha %g comes from %s. ComfyUI does not look there, and applies this file with alpha = rank.",
            path,
            told.alpha,
            told.source,
        )
    if len(contradicted) == len(changes):
        log.warning(
            "%s: %s says alpha %g, its tensors say otherwise, such as in %s. The tensors are right.",
            path,
            told.source,
            told.alpha,
            contradicted[0],
        )
    return changes


def _common(scales: list[float], rank: int) -> float | None:
    """The scale of all layers, where they share one that alpha can hold."""
    low, high = (_ALPHA.metadata[key] for key in ("low", "high"))
    same = all(scale == scales[0] for scale in scales)
    return scales[0] if same and low <= scales[0] * rank <= high else None


def _of_each_module(path: Path, places: Mapping[str, Module], changes: Mapping[str, Change]) -> dict[str, Change]:
    """What the file does to each of the base's layers; those that it leaves as they are, for good, are left out."""
    found: dict[str, Change] = {}
    for name, change in changes.items():
        for module, its in split_change(places[name], change).items():
            if module in found:
                raise LoRAError(f"{path} adapts {module} twice, the second time as {name}. Choose another file.")
            # What is all zeros would never learn anything. In fused files, that is a part that is not adapted.
            if its.scale and (its.down.any() or its.up.any()):
                found[module] = its
    return found


def _widened(down: Tensor, up: Tensor, rank: int, module: str) -> tuple[Tensor, Tensor]:
    """The same change with a higher rank. What is added can learn: its A is drawn, as of a new LoRA, its B is zero."""
    missing = rank - down.shape[0]
    if not missing:
        return down.clone(), up.clone()
    fresh = fresh_down(module, 0, rank, down.shape[1])[-missing:]
    return torch.cat([down, fresh]), torch.cat([up, up.new_zeros(up.shape[0], missing)], dim=1)


def _targets(modules: list[str], layers: Mapping[str, tuple[int, int]], family: Family) -> dict[str, str]:
    for preset, pattern in family.target_presets.items():
        if {layer for layer in layers if re.fullmatch(pattern, layer)} == set(modules):
            return {"targets": preset}
    return {"targets": "regex", "target_regex": "|".join(re.escape(module) for module in modules)}
