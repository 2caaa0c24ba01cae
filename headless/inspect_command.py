"""What is in a file, in words or as JSON: how a LoRA was made, how to sample with it; what kind of base one is."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..training.base.base_model import BaseModelError
from ..training.base.families.lora_layouts import DIFFUSION_MODEL, KOHYA, TRANSFORMER
from ..training.failure_words import reason
from ..training.lora import alphas
from ..training.lora import files as lora_files
from ..training.lora.keys import TEXT_ENCODER, checked, layer_name, split_key
from ..training.lora.low_rank import number
from ..training.lora.sampling_advice import UNCHANGED
from ..training.lora.value import LoRAError
from ..training.runs.checkpoints import Checkpoints
from ..training.runs.run_directory import CHECKPOINTS, RESULT
from ..training.stages import discriminator_files
from .inspect_base import base_json, base_lines, is_base

LARGEST = 5
_BLOCK = re.compile(r"(single_transformer|single|transformer|double)_blocks_\d+_(.+)")
# By the layer's name within its block, with underscores; the first that is found counts.
_KINDS = (
    ("modulation", re.compile(r"norm|mod_|modulation")),
    ("attention and MLP in one", re.compile(r"^(linear1|attn_to_qkv_mlp_proj)$")),
    ("output", re.compile(r"^(linear2|proj_out|attn_to_out)$")),
    ("MLP", re.compile(r"^ff|mlp")),
    ("attention", re.compile(r"attn|qkv|to_[qkv]|processor")),
)


@dataclass(frozen=True)
class _Layer:
    """One adapted layer. ``norm``: the Frobenius norm of the change of its weight; not finite where a weight is not."""

    name: str
    group: str
    rank: int
    alpha: float
    norm: float
    untrained: bool


@dataclass(frozen=True)
class _Contents:
    """A LoRA's tensors, read once."""

    layers: tuple[_Layer, ...]
    dtypes: Counter[str]
    non_finite: int
    others: tuple[str, ...]


def describe(path: Path | str) -> str:
    """What ``describe_json`` finds, in lines for people. Raises as it does."""
    told = describe_json(path)
    lines = {"base": base_lines, "discriminator": _discriminator_lines, "lora": _lora_lines}[told["kind"]]
    return "\n".join(lines(told))


def describe_json(path: Path | str) -> dict[str, Any]:
    """What is in the file of a LoRA, whoever wrote it, of a discriminator or of a base, as values that JSON can hold.

    ``path`` may also be the folder of a run or of a checkpoint, of which the LoRA is taken. ``norms`` are Frobenius
    norms of ``up @ down * alpha / rank``, by group of layers and for the largest layers; a group's is that of all its
    layers together. A norm of weights that are not all finite is ``None``.

    A base may also be a folder in diffusers' layout; what is told of it, ``base_json`` says.

    Raises ``LoRAError`` (a ``ValueError``) for a file that is missing, damaged, or none of the three, and for a folder
    without a LoRA; ``BaseModelError`` for a base that cannot be read.
    """
    if is_base(Path(path)):
        return base_json(Path(path))
    file = _file(Path(path))
    try:
        # Not by torch, which maps all of a file, as it cannot with a base that is larger than the memory.
        with safe_open(file, framework="np") as header:
            metadata, keys = header.metadata() or {}, list(header.keys())
        judge = discriminator_files.METADATA_KEY in metadata
        # Nunchaku's bases have factors of low rank beside what they have quantised.
        packed = any(key.endswith(".qweight") for key in keys)
        if judge or (not packed and any(split_key(key)[1] in ("down", "up") for key in keys)):
            with safe_open(file, framework="pt") as content:
                return _discriminator(file, content, metadata) if judge else _lora(file, content, metadata)
    except (SafetensorError, OSError) as error:
        raise LoRAError(
            f"{file} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error
    try:
        return base_json(file)
    except BaseModelError as error:
        held = f"its tensors are such as {keys[0]}" if keys else "it holds no tensors"
        raise LoRAError(
            f"{file} is neither a LoRA nor a discriminator of FluxDuel ({held}), nor a base: {error}"
        ) from error


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise LoRAError(f"There is no file {path}.")
    checkpoints = Checkpoints(path / CHECKPOINTS)
    places = [path, *(checkpoints.folder / name for name in reversed(checkpoints.names()))]
    found = next((place / RESULT for place in places if (place / RESULT).is_file()), None)
    if found is None:
        # Where a training leaves its LoRA under a name of its own.
        others = sorted(path.glob("*.safetensors"))
        if len(others) == 1:
            return others[0]
        raise LoRAError(
            f"{path} holds no {RESULT}, nor do checkpoints in it. Name a LoRA's .safetensors file, or the folder of a "
            "run or of a checkpoint."
        )
    return found


# LoRA.


def _lora(file: Path, content: Any, metadata: Mapping[str, str]) -> dict[str, Any]:
    contents = _read(file, content, metadata)
    own, damage = _own_record(metadata)
    layers, groups = contents.layers, _groups(contents.layers)
    largest = sorted((layer for layer in layers if math.isfinite(layer.norm)), key=lambda layer: -layer.norm)
    return {
        "kind": "lora",
        "file": str(file),
        "bytes": file.stat().st_size,
        "format": _format(content.keys()),
        "title": metadata.get("modelspec.title") or metadata.get("ss_output_name"),
        "layers": {group: len(members) for group, members in groups.items()},
        "ranks": _counted(layer.rank for layer in layers),
        "alphas": _counted(layer.alpha for layer in layers),
        "dtypes": dict(contents.dtypes),
        "base": _base(own, metadata),
        "lora_config": own.get("lora_config"),
        "stages": own.get("provenance") or [],
        "trained_elsewhere": {} if own else _kohya_training(metadata),
        "usage_hint": metadata.get("modelspec.usage_hint"),
        "trigger_phrase": metadata.get("modelspec.trigger_phrase"),
        "norms": {group: _finite(_together(members)) for group, members in groups.items()},
        "norm": _finite(_together(layers)),
        "largest": [{"layer": layer.name, "norm": layer.norm} for layer in largest[:LARGEST]],
        "untrained": [layer.name for layer in layers if layer.untrained],
        "non_finite": contents.non_finite,
        "other_tensors": list(contents.others),
        "damaged_metadata": damage,
    }


def _read(file: Path, content: Any, metadata: Mapping[str, str]) -> _Contents:
    parts: dict[str, dict[str, str]] = {}
    others = []
    for key in content.keys():
        name, part = split_key(key)
        if part in ("down", "up", "alpha"):
            parts.setdefault(name, {})[part] = key
        else:
            others.append(key)
    complete = {name: found for name, found in parts.items() if found.keys() >= {"down", "up"}}
    if not complete:
        example = next(key for found in parts.values() for key in found.values())
        raise LoRAError(f"{file} is no LoRA: of no layer both factors are there, such as {example}. Download it again.")
    others += [key for name, found in parts.items() if name not in complete for key in found.values()]
    told = alphas.stated(file, metadata)
    dtypes: Counter[str] = Counter()
    layers, non_finite = [], 0
    for name, found in complete.items():
        tensors = {part: checked(file, key, content.get_tensor(key)) for part, key in found.items()}
        dtypes.update(_dtype(tensors[part]) for part in ("down", "up"))
        non_finite += sum(int((~torch.isfinite(tensor.double())).sum()) for tensor in tensors.values())
        layers.append(_layer(file, name, tensors, told))
    for key in others:
        non_finite += int((~torch.isfinite(checked(file, key, content.get_tensor(key)).double())).sum())
    return _Contents(tuple(layers), dtypes, non_finite, tuple(sorted(others)))


def _layer(file: Path, name: str, tensors: Mapping[str, Tensor], told: alphas.Stated) -> _Layer:
    shapes = {part: tuple(tensor.shape) for part, tensor in tensors.items()}
    if len(shapes["down"]) < 2 or len(shapes["up"]) < 2 or not 0 < shapes["down"][0] == shapes["up"][1]:
        raise LoRAError(
            f"{file}: {name} is {shapes['down']} and {shapes['up']}, which are no (rank, in) and (out, rank). Download "
            "it again, or choose another file."
        )
    # A convolution's kernel is a matrix too: what goes in counts its window.
    down, up = (tensors[part].double().flatten(1) for part in ("down", "up"))
    if up.shape[1] != down.shape[0]:
        raise LoRAError(f"{file}: {name} has a kernel of {shapes['up']} behind one of {shapes['down']}: no LoRA.")
    rank = down.shape[0]
    alpha = told.scale(layer_name(name), rank) * rank
    if "alpha" in tensors:
        alpha = number(f"{file}: {name}", "alpha", tensors["alpha"].double())
    untrained = not (down.any() and up.any())
    return _Layer(name, _group(name), rank, alpha, _product_norm(down, up) * abs(alpha) / rank, untrained)


def _product_norm(down: Tensor, up: Tensor) -> float:
    """The Frobenius norm of ``up @ down`` from two matrices of rank x rank, without the product itself."""
    square = ((up.T @ up) * (down @ down.T)).sum()
    # Rounding may leave a product that is zero a little below it.
    return float(square.clamp_min(0).sqrt())


def _group(name: str) -> str:
    """Such as ``double blocks, attention``, from a layer's name in any program's style."""
    if name.startswith(TEXT_ENCODER):
        return "text encoder"
    block = _BLOCK.search(name.replace(".", "_"))
    if block is None:
        return "outside the blocks"
    side = "single blocks" if block[1].startswith("single") else "double blocks"
    return f"{side}, {next((kind for kind, mark in _KINDS if mark.search(block[2])), 'other')}"


def _groups(layers: Iterable[_Layer]) -> dict[str, list[_Layer]]:
    groups: dict[str, list[_Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.group, []).append(layer)
    return dict(sorted(groups.items()))


def _together(layers: Iterable[_Layer]) -> float:
    return math.sqrt(sum(layer.norm**2 for layer in layers))


def _format(keys: Sequence[str]) -> str:
    if all(key.startswith("lora_") for key in keys):
        return KOHYA.name
    for layout in (TRANSFORMER, DIFFUSION_MODEL):
        if any(key.startswith(layout.prefix) for key in keys) and any(key.endswith(layout.down) for key in keys):
            return layout.name
    return "other"


def _own_record(metadata: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """FluxDuel's own metadata, or nothing and what is wrong with it."""
    if lora_files.METADATA_KEY not in metadata:
        return {}, ""
    try:
        record = json.loads(metadata[lora_files.METADATA_KEY])
        dict(record["lora_config"]), dict(record["base"]), [dict(stage) for stage in record["provenance"]]
    except (ValueError, KeyError, TypeError):
        return {}, "FluxDuel's metadata cannot be read: they were changed or cut short."
    return record, ""


def _base(own: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    names = ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture")
    foreign = {"name": next((metadata[name] for name in names if metadata.get(name)), None), "fingerprint": None}
    return foreign | dict(own.get("base", {}))


def _kohya_training(metadata: Mapping[str, str]) -> dict[str, str]:
    wanted = ("ss_steps", "ss_num_epochs", "ss_learning_rate", "ss_unet_lr", "ss_optimizer", "ss_network_module")
    return {name.removeprefix("ss_"): metadata[name] for name in wanted if metadata.get(name) not in (None, "", "None")}


def _lora_lines(told: Mapping[str, Any]) -> Iterator[str]:
    count = sum(told["layers"].values())
    yield f"{told['file']}: a LoRA in {_format_name(told['format'])}, {_size(told['bytes'])}."
    if told["title"]:
        yield f"Title: {told['title']}."
    yield f"Layers: {count}. Rank {_listed(told['ranks'])}, alpha {_listed(told['alphas'])}."
    yield f"Number type: {_listed(told['dtypes'])}."
    if told["base"]["name"]:
        mark = f" (fingerprint {told['base']['fingerprint']})" if told["base"]["fingerprint"] else ""
        yield f"Base: {told['base']['name']}{mark}."
    if told["lora_config"]:
        config = told["lora_config"]
        yield f"Made with rank {config.get('rank')}, alpha {config.get('alpha')}, targets {config.get('targets')}."
    for place, stage in enumerate(told["stages"], 1):
        yield f"Stage {place}: {_stage_text(stage)}."
    if told["trained_elsewhere"]:
        yield f"Training: {', '.join(f'{name} {value}' for name, value in told['trained_elsewhere'].items())}."
    yield f"How to sample: {told['usage_hint'] or 'the file does not say.'}"
    if told["trigger_phrase"]:
        yield f"Trigger phrase: {told['trigger_phrase']}"
    yield from _norm_lines(told)
    yield from _warning_lines(told, count)


def _norm_lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"Change of the weights (Frobenius norm): {_number(told['norm'])}, by group:"
    width = max(len(group) for group in told["norms"])
    for group, norm in told["norms"].items():
        yield f"  {group:{width}}  {told['layers'][group]:4} layers  {_number(norm):>10}"
    if told["largest"]:
        yield "Largest layers:"
    for layer in told["largest"]:
        yield f"  {_number(layer['norm']):>10}  {layer['layer']}"


def _warning_lines(told: Mapping[str, Any], count: int) -> Iterator[str]:
    untrained = told["untrained"]
    if len(untrained) == count:
        yield "Warning: all layers are zero. This LoRA is untrained and changes nothing."
    elif untrained:
        yield f"Warning: {len(untrained)} layers are zero and change nothing, such as {untrained[0]}."
    if told["non_finite"]:
        yield f"Warning: {told['non_finite']} values are NaN or infinite. The file is of no use."
    if told["other_tensors"]:
        others = told["other_tensors"]
        yield f"Warning: {len(others)} tensors are no part of a plain LoRA, such as {others[0]}."
    if told["damaged_metadata"]:
        yield f"Warning: {told['damaged_metadata']}"


def _stage_text(stage: Mapping[str, Any]) -> str:
    """One stage's provenance in short. What an older version did not write is left out."""
    config, judge = stage.get("config") or {}, stage.get("discriminator") or {}
    texts = [f"{stage.get('stage', 'unknown')}, {stage.get('steps_done', '?')} steps"]
    if config.get("steps") not in (None, stage.get("steps_done")):
        texts[0] += f" of {config['steps']}"
    names = ("learning_rate", "batch_size", "gradient_accumulation", "timestep_sampling", "ema_decay")
    texts += _settings(config, names)
    if stage.get("stage") == "adversarial":
        names = ("objective", "adversarial_weight", "diffusion_weight", "balance", "target", "target_steps", "renoise")
        names += ("anchor", "guidance")
        texts += _settings(config, names)
        texts += [f"discriminator {text}" for text in _settings(judge, ("architecture", "loss", "r1", "r2"))]
    texts += _settings(stage, ("resolution", "few_step_phrase", "practice_prompts", "outside_prompts"))
    if UNCHANGED.items() <= stage.items():
        texts.append("delivered the weights that it started from")
    return ", ".join(texts)


def _settings(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{name} {_plain(values[name])}" for name in names if name in values]


# Discriminator.


def _discriminator(file: Path, content: Any, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        record = json.loads(metadata[discriminator_files.METADATA_KEY])
        config, base = dict(record["config"]), str(record["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise LoRAError(
            f"{file} is a discriminator whose metadata cannot be read: they were changed or cut short. Take "
            "the file of another run."
        ) from error
    dtypes: Counter[str] = Counter()
    values = non_finite = 0
    for key in content.keys():
        tensor = content.get_tensor(key)
        dtypes[_dtype(tensor)] += 1
        values += tensor.numel()
        non_finite += int((~torch.isfinite(tensor.double())).sum())
    return {
        "kind": "discriminator",
        "file": str(file),
        "bytes": file.stat().st_size,
        "architecture": config.get("architecture"),
        "config": config,
        "base": {"name": base},
        "values": values,
        "dtypes": dict(dtypes),
        "non_finite": non_finite,
    }


def _discriminator_lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{told['file']}: a discriminator, {_size(told['bytes'])}."
    names = ("architecture", "loss", "width", "depth", "spectral_norm", "taps", "learning_rate", "r1", "r2")
    settings = [text for text in _settings(told["config"], names) if text != "taps "]
    yield f"Settings: {', '.join(settings)}."
    yield f"Values: {told['values']:,} in {_listed(told['dtypes'])}."
    yield f"Base: {told['base']['name']}."
    if told["non_finite"]:
        yield f"Warning: {told['non_finite']} values are NaN or infinite. The file is of no use."


# Words.


def _counted(values: Iterable[float]) -> dict[str, int]:
    counts = Counter(values)
    return {_plain(value): counts[value] for value in sorted(counts)}


def _listed(counts: Mapping[str, int]) -> str:
    """``16`` where all are the same, else ``16 (76 times), 48 (38 times)``."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count} times)" for value, count in counts.items())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(norm: float | None) -> str:
    return "not finite" if norm is None else f"{norm:.4g}"


def _finite(norm: float) -> float | None:
    return norm if math.isfinite(norm) else None


def _format_name(format: str) -> str:
    return "a format of another program" if format == "other" else f"{format} format"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count:,} bytes"
