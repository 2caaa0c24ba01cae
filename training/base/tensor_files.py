"""Files of tensors, .safetensors or .gguf: what their headers say, and their tensors one at a time as they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..failure_words import reason
from . import gguf_files
from .errors import BaseModelError

_MAPPED_AT_ONCE = 1 << 28
SUFFIXES = (".safetensors", ".sft", gguf_files.SUFFIX)


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
            with _as_safetensors(file), safe_open(file, framework="pt") as tensors:
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
    """A safetensors file that is mapped anew now and then.

    What was read of a mapping counts as memory in use for as long as the mapping lives: in the end the whole file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tensors: Any = None
        self._taken = 0

    def take(self, key: str) -> Tensor:
        """The tensor of this key, which keeps the mapping that it is of."""
        if self._tensors is None or self._taken > _MAPPED_AT_ONCE:
            self._tensors, self._taken = None, 0
            with _as_safetensors(self._file):
                self._tensors = safe_open(self._file, framework="pt")
        with _as_safetensors(self._file):
            tensor = self._tensors.get_tensor(key)
        self._taken += tensor.nbytes
        return tensor


@contextmanager
def _as_safetensors(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise BaseModelError(
            f"{file} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error
