"""``python -m fluxduel convert``: a base as an int8 file, for ComfyUI and for the next run."""

from __future__ import annotations

from pathlib import Path

import torch

from ..training.base.int8_files import write_int8
from .terminal import Progress, say


def convert(base: Path, output: Path, precision: str) -> None:
    """Write ``base`` to ``output`` in ``precision``, on the card where there is one. Raises as ``write_int8`` does."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    progress = Progress("convert")
    try:
        write_int8(str(base), output, precision, device, lambda done, total: progress.update(done, total, {}))
    finally:
        progress.close()
    say(f"{output}: {output.stat().st_size / 1e9:.2f} GB in {precision}. Train on it with precision {precision}.")
