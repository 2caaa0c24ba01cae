"""Files of tensors, .safetensors or .gguf: what their headers say, and their tensors one at a time as they lie."""

from __future__ import annotations

import json
import mmap
import struct
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..failure_words import reason
from . import gguf_files
from .errors import BaseModelError

SUFFIXES = (".safetensors", ".sft", gguf_files.SUFFIX)
# Bytes of a file that are mapped together.
WINDOW = 1 << 28
# What is smaller than that part of a window is copied.
SMALL = 256
# Types of safetensors that torch has; older ones of torch lack the last.
TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": getattr(torch, "float8_e8m0fnu", torch.uint8),
}  # fmt: skip


class Entry(NamedTuple):
    """A tensor in a file. ``dtype``: as safetensors names it (``BF16``, ``F8_E4M3`` …), or GGUF (``Q4_K`` …).

    ``shape``: of the tensor as it lies; in GGUF that of the weight which it stands for.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def is_gguf(self) -> bool:
        """Whether it lies in one of GGUF's formats."""
        return self.file.suffix == gguf_files.SUFFIX


class Header(NamedTuple):
    """What is known of one file, or of the parts of one model, without reading weights.

    ``entries``: by key. ``metadata``: the notes of whoever wrote it.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(files: Sequence[Path]) -> Header:
    """The header of ``files``, which are taken for one. Raises ``BaseModelError`` for one that cannot be read."""
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if file.suffix == gguf_files.SUFFIX:
            tensors, notes = gguf_files.read_header(file)
            entries |= {key: Entry(file, *each) for key, each in tensors.items()}
        else:
            with _as_safetensors(file), safe_open(file, framework="np") as tensors:
                slices = {key: tensors.get_slice(key) for key in tensors.keys()}
                entries |= {key: Entry(file, tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
                notes = tensors.metadata() or {}
        metadata |= notes
    return Header(entries, metadata)


@contextmanager
def opened(header: Header) -> Iterator[Callable[[str], Tensor]]:
    """What gives a tensor by its key, on the CPU and as it lies: flat bytes, for GGUF.

    Raises ``BaseModelError`` for a file that cannot be read.
    """
    files = {entry.file for entry in header.entries.values()}
    takers = {
        file: gguf_files.opened(file) if file.suffix == gguf_files.SUFFIX else _Mapped(file).take for file in files
    }
    yield lambda key: takers[header.entries[key].file](key)


class _Mapped:
    """A safetensors file that is mapped in windows, each of which is given up with the last tensor of it.

    What was read of a mapping counts as memory in use for as long as the mapping lives: in the end the whole file.
    Besides, Linux refuses to map a file as a whole that is larger than the memory of the machine, as torch would. Nor
    is each tensor mapped by itself: a mapping keeps its file open, and systems allow some hundreds of those.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        with _as_safetensors(file), open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        self._entries: dict[str, Any] = entries
        # By their number: the first byte and the end of what begins in it.
        self._spans: dict[int, tuple[int, int]] = {}
        for start, end in (entry["data_offsets"] for entry in entries.values()):
            first, last = self._spans.get(start // WINDOW, (start, end))
            self._spans[start // WINDOW] = min(first, start), max(last, end)
        self._begin = 8 + length
        self._windows: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()
        self._latest: mmap.mmap | None = None

    def take(self, key: str) -> Tensor:
        """The tensor of this key. What is written into it does not reach the file."""
        entry = self._entries[key]
        start, end = entry["data_offsets"]
        if start == end:
            return torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])
        number = start // WINDOW
        first, last = self._spans[number]
        page = (self._begin + first) // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        window = self._windows.get(number)
        if window is None:
            self._latest = None
            with _as_safetensors(self._file), open(self._file, "rb") as stream:
                size = self._begin + last - page
                window = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY, offset=page)
            self._windows[number] = self._latest = window
        raw = torch.frombuffer(window, dtype=torch.uint8, offset=self._begin + start - page, count=end - start)
        # A bias would keep its window, and all that was read of it, for as long as it lives.
        raw = raw.clone() if end - start < WINDOW // SMALL else raw
        return raw.view(TYPES[entry["dtype"]]).reshape(entry["shape"])


@contextmanager
def _as_safetensors(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise BaseModelError(
            f"{file} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error
