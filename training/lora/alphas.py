"""Alpha where the tensors do not hold it: PEFT's settings in the header or beside the file, and what trainers write."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..failure_words import reason
from .value import LoRAError

log = logging.getLogger(__name__)

PEFT_METADATA = "lora_adapter_metadata"
SIDECAR = "adapter_config.json"
# A number each: kohya's name first, then those of other trainers.
HEADER = ("ss_network_alpha", "lora_alpha", "network_alpha", "networkAlpha", "alpha")
PEFT_PREFIX = "transformer."


@dataclass(frozen=True)
class Stated:
    """What a file says of alpha beside its tensors. ``patterns``: alpha by an expression for the end of a layer's name.

    ``is_rank``: alpha is the rank in every layer. ``base``: the name of the model that the LoRA was trained on, where
    PEFT's settings give it.
    """

    alpha: float | None = None
    patterns: Mapping[str, float] | None = None
    rslora: bool = False
    source: str = ""
    is_rank: bool = False
    base: str = ""

    def scale(self, layer: str, rank: int) -> float:
        """alpha / rank of a layer, or alpha / sqrt(rank) for rsLoRA (arXiv:2312.03732); 1 where nothing is said."""
        patterns = self.patterns or {}
        # As PEFT finds a layer's own alpha.
        alpha = next((a for end, a in patterns.items() if re.match(rf"(?:.*\.)?(?:{end})$", layer)), self.alpha)
        if alpha is None or self.is_rank:
            return 1.0
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def stated(path: Path, metadata: Mapping[str, str]) -> Stated:
    """What header and neighbour of the file ``path`` say of alpha, the most exact first; a contradiction is told.

    PEFT's ``adapter_config.json`` counts where it lies beside the one LoRA of its folder, or beside PEFT's own file
    name. Raises ``LoRAError`` for settings that cannot be read.
    """
    found = [*_from_header_record(path, metadata), *_from_sidecar(path), *_from_header_numbers(path, metadata)]
    told = [each for each in found if each.alpha is not None]
    for other in told[1:]:
        if other.alpha != told[0].alpha:
            log.warning(
                "%s: alpha is %g after %s and %g after %s. The first is taken.",
                path,
                told[0].alpha,
                told[0].source,
                other.alpha,
                other.source,
            )
    base = next((each.base for each in found if each.base), "")
    first = told[0] if told else Stated()
    return dataclasses.replace(first, base=base)


def _from_header_record(path: Path, metadata: Mapping[str, str]) -> list[Stated]:
    if PEFT_METADATA not in metadata:
        return []
    source = f"its metadata {PEFT_METADATA}"
    record = _json(f"{path}: {source}", metadata[PEFT_METADATA])
    ours = {key.removeprefix(PEFT_PREFIX): value for key, value in record.items() if key.startswith(PEFT_PREFIX)}
    return [_from_peft(f"{path}: {source}", source, ours or record)]


def _from_sidecar(path: Path) -> list[Stated]:
    file = path.with_name(SIDECAR)
    if not file.is_file():
        return []
    others = [each for each in path.parent.glob("*.safetensors") if each.name != path.name]
    if path.stem != "adapter_model" and others:
        return []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LoRAError(f"{file}, which belongs to {path.name}, cannot be read: {reason(error)}.") from error
    return [
        _from_peft(f"{path}: {SIDECAR} beside it", f"{SIDECAR} beside it", _json(f"{path}: {SIDECAR} beside it", text))
    ]


def _from_header_numbers(path: Path, metadata: Mapping[str, str]) -> list[Stated]:
    found = []
    for key in HEADER:
        text = metadata.get(key, "").strip()
        if text in ("", "None"):
            continue
        try:
            alpha = float(text)
        except ValueError:
            alpha = math.nan
        if math.isfinite(alpha):
            found.append(Stated(alpha, source=f"its metadata {key}"))
        else:
            log.warning("%s: its metadata %s is %r, no finite number, and is left aside.", path, key, text)
    return found


def _json(where: str, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoRAError(f"{where} is no JSON.") from error
    if not isinstance(record, dict):
        raise LoRAError(f"{where} is no JSON object.")
    return record


def _from_peft(where: str, source: str, record: Mapping[str, Any]) -> Stated:
    # LoHa and LoKr of PEFT call it alpha.
    key = next((key for key in ("lora_alpha", "alpha") if record.get(key) is not None), None)
    alpha = None if key is None else _number(where, key, record[key])
    patterns = record.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise LoRAError(f"{where}: alpha_pattern is no JSON object.")
    for end in patterns:
        try:
            re.compile(end)
        except re.error as error:
            raise LoRAError(f"{where}: alpha_pattern {end!r} is no valid expression: {error}.") from error
    numbers = {end: _number(where, f"alpha_pattern {end}", value) for end, value in patterns.items()}
    base = record.get("base_model_name_or_path")
    # In a file whose layers have other names than PEFT's, the patterns would not be found.
    is_rank = alpha is not None and record.get("r") == alpha and (record.get("rank_pattern") or {}) == patterns
    return Stated(
        alpha=alpha,
        patterns=numbers,
        rslora=bool(record.get("use_rslora")),
        source=source,
        is_rank=is_rank and not record.get("use_rslora"),
        base=base if isinstance(base, str) else "",
    )


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LoRAError(f"{where}: {key} is {value!r}, no finite number.")
    return float(value)
