"""LoRA files for other programs: diffusers' and kohya's keys, metadata, and a write that is all or nothing."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from ..atomic_file import write_whole
from ..base.base_model import BaseModelError
from ..failure_words import reason
from ..readable import readable
from . import kohya as lora_kohya
from .sampling_advice import advice_of
from .value import DOWN, UP, FluxLoRA, LoRAError, module_names

FORMATS = ("diffusers", "kohya")
DIFFUSERS_PREFIX = "transformer."
METADATA_KEY = "fluxduel"
METADATA_VERSION = 1


def file_tensors(lora: FluxLoRA, format: str = "diffusers", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of a LoRA file, by key.

    ``diffusers``: ``transformer.<module>.lora_A.weight``, ``.lora_B.weight``, ``.alpha``. ``kohya``: see
    ``lora_kohya``. ``.alpha`` is always there, in fp32, for ComfyUI takes a LoRA without it at alpha = rank.

    Raises ``LoRAError`` for a weight that is not finite, or too large for ``dtype``, and ``ValueError`` for an
    unknown format.
    """
    if format == "kohya":
        tensors = lora_kohya.fuse(lora.tensors, lora.config.alpha)
    elif format == "diffusers":
        tensors = {}
        for module in module_names(lora.tensors):
            for suffix in (DOWN, UP):
                tensors[DIFFUSERS_PREFIX + module + suffix] = lora.tensors[module + suffix]
            tensors[f"{DIFFUSERS_PREFIX}{module}.alpha"] = torch.tensor(lora.config.alpha, dtype=torch.float32)
    else:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    return {key: t if key.endswith(".alpha") else _converted(key, t, dtype) for key, t in tensors.items()}


def _converted(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    converted = tensor.detach().to(dtype).contiguous()
    if not bool(torch.isfinite(converted).all()):
        if bool(torch.isfinite(tensor).all()):
            raise LoRAError(f"{key} reaches {tensor.abs().max():.3g}, too large for {dtype}. Save as bf16 or fp32.")
        raise LoRAError(f"{key} holds NaN or infinity. The training diverged: use an earlier state of the LoRA.")
    return converted


def file_metadata(lora: FluxLoRA, title: str) -> dict[str, str]:
    """Metadata: modelspec (Stability's 1.0.1), kohya's ``ss_`` keys that browsers show, and ``fluxduel``.

    ``fluxduel`` is a JSON object: lora_config, provenance, base (name, fingerprint), version; from it ``load_file``
    restores the LoRA exactly.
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
    metadata = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "modelspec.title": title,
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ss_network_module": "networks.lora_flux",
        "ss_network_dim": str(lora.config.rank),
        "ss_network_alpha": str(lora.config.alpha),
        "ss_base_model_version": "flux1",
        "ss_sd_model_name": lora.base.name,
        "ss_output_name": title,
        "ss_steps": str(sum(steps for steps in _of_each_stage(lora, "steps_done") if type(steps) is int)),
        METADATA_KEY: json.dumps(own),
    }
    hint, phrase = advice_of(lora.provenance)
    if hint:
        metadata["modelspec.usage_hint"] = hint
    if phrase:
        metadata["modelspec.trigger_phrase"] = phrase
    resolutions = [value for value in _of_each_stage(lora, "resolution") if type(value) is int]
    if resolutions:
        metadata["modelspec.resolution"] = f"{resolutions[-1]}x{resolutions[-1]}"
    return metadata


def _of_each_stage(lora: FluxLoRA, name: str) -> list[Any]:
    # Read back from a file, they may be anything. It must be possible to save it again.
    return [stage.get(name) for stage in lora.provenance]


def save(
    lora: FluxLoRA,
    path: Path,
    format: str = "diffusers",
    dtype: torch.dtype = torch.float32,
    metadata: bool = True,
) -> Path:
    """Write ``lora`` to ``path`` (``.safetensors`` is added where it lacks) and return the file's path.

    The file appears complete or not at all: on any failure a file that was there before is untouched, and nothing
    else is left behind. ``metadata=False`` writes tensors alone, without settings or the names of the training data.

    Raises ``LoRAError`` for a disk that is full, a folder that cannot be written to, and weights that are not finite
    in ``dtype``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    tensors = file_tensors(lora, format, dtype)
    texts = {"format": "pt", **(file_metadata(lora, readable(path.stem)) if metadata else {})}
    try:
        # Not save_file, whose files only their owner can read, and whose errors do not say which error it was.
        write_whole(path, serialise(tensors, metadata=texts))
    except OSError as error:
        raise LoRAError(
            f"The LoRA could not be written to {path}: {reason(error)}. A file that was there before is unchanged."
        ) from error
    return path
