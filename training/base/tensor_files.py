"""Files of tensors, .safetensors or .gguf: what their headers say, and their tensors one at a time as they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..failure_words import reason
from . import gguf_files
from .errors import BaseModelError

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
            with _safetensors(file) as tensors:
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
    with ExitStack() as stack:
        takers = {file: _taker(file, stack) for file in {entry.file for entry in header.entries.values()}}
        yield lambda key: takers[header.entries[key].file](key)


def _taker(file: Path, stack: ExitStack) -> Callable[[str], Tensor]:
    if file.suffix == gguf_files.SUFFIX:
        return gguf_files.opened(file)
    return stack.enter_context(_safetensors(file)).get_tensor


@contextmanager
def _safetensors(file: Path) -> Iterator[safe_open]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise BaseModelError(
            f"{file} cannot be read as safetensors ({reason(error)}). Download it again, or choose another file."
        ) from error
