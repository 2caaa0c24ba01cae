"""Whether what a graph writes can be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..failure_words import in_words
from ..lora.adapter import FluxLoRA
from .known import Known
from .prompt_graph import UNKNOWN, Node

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def check_save(node: Node, lora: FluxLoRA | None, known: Known) -> Iterator[str]:
    """What is wrong with a Save FLUX LoRA node. ``lora``: the shapes of what it is going to save."""
    dtype = node.value("dtype", "fp32")
    if dtype is not UNKNOWN and dtype not in BYTES:
        yield f"Save FLUX LoRA: dtype must be one of {', '.join(BYTES)}; got {dtype!r}."
        return
    prefix = node.value("prefix", "loras/fluxduel")
    if prefix is UNKNOWN:
        return
    problem = known.prefix_problem(prefix)
    if problem:
        yield problem
        return
    # Parts of a date are filled in when it is saved.
    folder = known.output if "%" in prefix else (known.output / prefix).parent
    size = 0 if lora is None or dtype is UNKNOWN else size_of(lora, BYTES[dtype])
    cure = "lower rank in Load FLUX LoRA, or choose fewer targets there"
    faults = folder_faults(folder, size, f"the LoRA alone takes {in_bytes(size)}", cure)
    yield from (f"Save FLUX LoRA: {fault}" for fault in faults)


def size_of(lora: FluxLoRA, width: int = 4) -> int:
    """Bytes of a LoRA's weights, ``width`` for each."""
    return width * sum(tensor.numel() for tensor in lora.tensors.values())


def in_bytes(size: int) -> str:
    """A number of bytes on a disk, for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def folder_faults(folder: Path, size: int, taken: str, cure: str) -> Iterator[str]:
    """Why no ``size`` bytes can be written to a folder, which need not be there yet.

    ``taken``: what they are, in words that follow "and"; ``cure``: what makes them fewer.
    """
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    try:
        if not there.is_dir():
            raise OSError(errno.EEXIST if there == folder else errno.ENOTDIR, "", str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, "", str(there))
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield in_words(error)
        return
    if free < size:
        yield f"the disk of {there} has {in_bytes(free)} free, and {taken}. Make room, {cure}."
