"""LoRA files for other programs: layouts of their keys, metadata, and a write that is all or nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from ..atomic_file import write_whole
from ..base.base_model import BaseModelError
from ..base.families.lora_layouts import LoRALayout
from ..failure_words import reason
from ..readable import readable
from .alphas import PEFT_METADATA, PEFT_PREFIX
from .packing import file_layers, pack
from .sampling_advice import trained_resolution
from .usual_cfg import advice_for
from .value import FluxLoRA, LoRAError, at_strength, base_family, module_names

FORMATS = ("diffusers", "kohya")
METADATA_KEY = "fluxduel"
METADATA_VERSION = 1


def layout_of(lora: FluxLoRA, format: str) -> LoRALayout:
    """How a file of this format is laid out for the family of the base. Raises ``ValueError`` for an unknown format."""
    layouts = base_family(lora.base).lora_layouts
    if format not in layouts:
        raise ValueError(f"format must be one of {', '.join(layouts)}, got {format!r}.")
    return layouts[format]


def exact_format(lora: FluxLoRA) -> str:
    """The first of the formats in which every LoRA of this base comes back bit for bit."""
    return next(format for format in FORMATS if layout_of(lora, format).alpha)


def file_tensors(lora: FluxLoRA, format: str = FORMATS[0], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of a LoRA file, by key, in the layout that the base's family has for ``format``.

    ``.alpha``, where the layout has it, is in fp32. Where it has none, the second matrices hold alpha / rank.

    Raises ``LoRAError`` for a weight that is not finite, or too large for ``dtype``, and ``ValueError`` for an
    unknown format.
    """
    layout = layout_of(lora, format)
    layers = file_layers(base_family(lora.base), lora.base.config, layout.naming)
    strength = 1.0 if layout.alpha else lora.config.alpha / lora.config.rank
    tensors = pack(layout, layers, at_strength(lora.tensors, strength), lora.config.alpha)
    return {key: t if key.endswith(".alpha") else _converted(key, t, dtype) for key, t in tensors.items()}


def doubts(lora: FluxLoRA, format: str) -> list[str]:
    """What another program makes of some layers in this format, in sentences; none where all read all."""
    said = []
    for pattern, what in layout_of(lora, format).doubts:
        names = [name for name in module_names(lora.tensors) if re.fullmatch(pattern, name)]
        if names:
            said.append(
                f"Of this LoRA's layers {len(names)}, such as {names[0]}, suit ComfyUI alone in the {format} format: "
                f"{what}."
            )
    return said


def content(
    lora: FluxLoRA, title: str, format: str, dtype: torch.dtype = torch.float32, metadata: bool = True
) -> bytes:
    """A whole file. Raises as ``file_tensors`` does."""
    texts = {"format": "pt", **ranks_metadata(lora, format)}
    texts |= file_metadata(lora, title, format) if metadata else {}
    return serialise(file_tensors(lora, format, dtype), metadata=texts)


def _converted(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    converted = tensor.detach().to(dtype).contiguous()
    if not bool(torch.isfinite(converted).all()):
        if bool(torch.isfinite(tensor).all()):
            raise LoRAError(f"{key} reaches {tensor.abs().max():.3g}, too large for {dtype}. Save as bf16 or fp32.")
        raise LoRAError(f"{key} holds NaN or infinity. The training diverged: use an earlier state of the LoRA.")
    return converted


def file_metadata(lora: FluxLoRA, title: str, format: str = FORMATS[0]) -> dict[str, str]:
    """Metadata: modelspec (Stability's 1.0.1), kohya's ``ss_`` keys that browsers show, and ``fluxduel``.

    ``fluxduel`` is a JSON object: lora_config, provenance, base (name, fingerprint), version; from it ``load_file``
    restores the LoRA.
    """
    try:
        fingerprint = lora.base.fingerprint()
    except BaseModelError:
        # The base may be gone by now; that must not cost anybody the LoRA.
        fingerprint = ""
    own = {
        "lora_config": dataclasses.asdict(lora.config),
        "provenance": list(lora.provenance),
        "base": {"name": lora.base.name, "fingerprint": fingerprint},
        "version": METADATA_VERSION,
    }
    metadata = base_family(lora.base).notes(lora.base.config) | {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": title,
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ss_sd_model_name": lora.base.name,
        "ss_output_name": title,
        "ss_steps": str(_steps_done(lora)),
        METADATA_KEY: json.dumps(own),
    }
    if layout_of(lora, format).alpha:
        # Elsewhere a reader would apply it once more.
        metadata["ss_network_dim"], metadata["ss_network_alpha"] = str(lora.config.rank), str(lora.config.alpha)
    hint, phrase = advice_for(lora)
    if hint:
        metadata["modelspec.usage_hint"] = hint
    if phrase:
        metadata["modelspec.trigger_phrase"] = phrase
    if resolution := trained_resolution(lora.provenance):
        metadata["modelspec.resolution"] = f"{resolution}x{resolution}"
    return metadata


def ranks_metadata(lora: FluxLoRA, format: str) -> dict[str, str]:
    """The ranks of the file's layers as PEFT's settings, where they differ and alpha is not beside them.

    Without them diffusers 0.37 to 0.39 take one alpha for all layers, and so change what those of other ranks do.
    """
    layout = layout_of(lora, format)
    layers = file_layers(base_family(lora.base), lora.base.config, layout.naming)
    adapted = set(module_names(lora.tensors))
    written = [layer for layer in layers.values() if adapted & {part.name for part in layer.parts}]
    ranks = {part.name: lora.config.rank * len(layer.parts) for layer in written for part in layer.parts}
    if layout.alpha or len(set(ranks.values())) == 1:
        return {}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    # As PEFT and diffusers take them: expressions for the ends of names.
    others = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != usual}
    record = {
        "r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others, "target_modules": list(ranks),
    }  # fmt: skip
    return {PEFT_METADATA: json.dumps({PEFT_PREFIX + key: value for key, value in record.items()})}


def _steps_done(lora: FluxLoRA) -> int:
    # Read back from a file, they may be anything. It must be possible to save it again.
    said = [stage.get("steps_done") for stage in lora.provenance]
    return sum(steps for steps in said if type(steps) is int)


def save(
    lora: FluxLoRA,
    path: Path,
    format: str = FORMATS[0],
    dtype: torch.dtype = torch.float32,
    metadata: bool = True,
) -> Path:
    """Write ``lora`` to ``path`` (``.safetensors`` is added where it lacks) and return the file's path.

    The file appears complete or not at all: on any failure a file that was there before is untouched, and nothing
    else is left behind. ``metadata=False`` writes tensors and at most their ranks, without settings or the names of the
    training data.

    Raises ``LoRAError`` for a disk that is full, a folder that cannot be written to, and weights that are not finite
    in ``dtype``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    whole = content(lora, readable(path.stem), format, dtype, metadata)
    try:
        # Not save_file, whose files only their owner can read, and whose errors do not say which error it was.
        write_whole(path, whole)
    except OSError as error:
        raise LoRAError(
            f"The LoRA could not be written to {path}: {reason(error)}. A file that was there before is unchanged."
        ) from error
    return path
