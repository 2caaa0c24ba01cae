"""Encodings on disk, so that a second run need not load the VAE or the text encoders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..failure_words import reason

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

LEFTOVER_SECONDS = 24 * 60 * 60

_UNFINISHED = ".tmp"
_CONTENT = "content"
_LONGEST_HEADER = 1 << 20
_FLOAT_BYTES = 4


class DamagedEncoding(Exception):
    """A file of the cache is not what was written. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file of the cache holds, short of the tensors.

    ``content`` is the hash (hex) of the tensors' names, shapes and values, ``shapes`` has a shape for each name.
    """

    content: str
    shapes: Mapping[str, tuple[int, ...]]


def digest(*parts: str | Tensor) -> str:
    """The blake2b hash (hex) of texts and tensors, their lengths and shapes included. Tensors count as fp32."""
    return digest_all(parts)


def digest_all(parts: Iterable[str | Tensor]) -> str:
    """``digest`` of parts that need not be there all at once."""
    total = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, Tensor):
            content = part.detach().to("cpu", torch.float32).contiguous().numpy()
            total.update(f"tensor {tuple(part.shape)}".encode())
            total.update(content)
        else:
            text = part.encode("utf-8", "surrogatepass")
            total.update(f"text {len(text)} ".encode())
            total.update(text)
    return total.hexdigest()


class LatentCache:
    """fp32 tensors in a folder under content keys. Without a folder nothing is kept.

    A damaged file counts as absent, with a logged warning. Where the folder cannot be written (a full disk, no
    permission), one warning is logged, no further file is tried, and ``failure`` is the reason.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.failure: OSError | None = None

    def contents(self, key: str) -> Contents | None:
        """What ``store`` wrote under ``key``, without reading the tensors; ``None`` where there is nothing.

        Notices a file that is cut short or whose header is damaged, not one with other values.
        """
        return self._found(key, read_contents)

    def load(self, key: str) -> tuple[dict[str, Tensor], Contents] | None:
        """What ``store`` wrote under ``key``, or ``None``."""
        return self._found(key, read_tensors)

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> Contents:
        """Keep fp32 CPU ``tensors`` under ``key``, if the folder can be written. A file appears whole or not at all."""
        digests = {name: digest(tensor) for name, tensor in tensors.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        contents = Contents(_content(shapes, digests), shapes)
        if self.folder is None or self.failure is not None:
            return contents
        metadata = {_CONTENT: contents.content, **{_digest_of(name): value for name, value in digests.items()}}
        unfinished = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=self.folder, suffix=_UNFINISHED)
            with os.fdopen(handle, "wb") as file:
                file.write(safetensors.torch.save(dict(tensors), metadata))
            os.replace(unfinished, self.path(key))
        except OSError as error:
            self.failure = error
            logger.warning(
                "Encodings are not cached from here on: %s cannot be written (%s).", self.folder, reason(error)
            )
            if unfinished is not None:
                Path(unfinished).unlink(missing_ok=True)
        return contents

    def remove_leftovers(self) -> None:
        """Remove files that killed processes left unfinished more than a day ago."""
        if self.folder is None:
            return
        oldest = time.time() - LEFTOVER_SECONDS
        # Another process may remove them at the same time, or the folder may not be there yet.
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_UNFINISHED):
                    with contextlib.suppress(OSError):
                        if entry.stat().st_mtime < oldest:
                            os.unlink(entry.path)

    def path(self, key: str) -> Path:
        """The file that ``key`` has, or would have. The cache must have a folder."""
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def _found(self, key: str, read: Callable[[Path], Found]) -> Found | None:
        if self.folder is None:
            return None
        path = self.path(key)
        try:
            return read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The cached encoding %s cannot be read (%s); it is encoded again.", path, reason(error))
        except DamagedEncoding as error:
            logger.warning("The cached encoding %s is damaged (%s); it is encoded again.", path, error)
        return None


def read_contents(path: Path) -> Contents:
    """What the file at ``path`` holds, from its header. Raises ``DamagedEncoding``, and ``OSError``."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(4096)
        length = _header_length(start, size)
        if 8 + length > len(start):
            start += file.read(8 + length - len(start))
    contents, _ = _parse(start[8 : 8 + length], size - 8 - length)
    return contents


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Contents]:
    """The tensors in the file at ``path``, checked against their hashes. Raises ``DamagedEncoding``, ``OSError``."""
    # Read, not mapped: a mapped file that shrinks kills the process.
    raw = path.read_bytes()
    length = _header_length(raw, len(raw))
    contents, digests = _parse(raw[8 : 8 + length], len(raw) - 8 - length)
    try:
        tensors = safetensors.torch.load(raw)
    except safetensors.SafetensorError as error:
        raise DamagedEncoding(str(error)) from error
    if {name: digest(tensor) for name, tensor in tensors.items()} != digests:
        raise DamagedEncoding("wrong checksum")
    return tensors, contents


def _header_length(start: bytes, size: int) -> int:
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise DamagedEncoding("it is cut short or no safetensors file")
    return length


def _parse(header: bytes, data_size: int) -> tuple[Contents, dict[str, str]]:
    """The contents that a safetensors header tells of, and the hash of each tensor."""
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__")
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        digests = {name: metadata[_digest_of(name)] for name in shapes}
        content = metadata[_CONTENT]
        expected = sum(_FLOAT_BYTES * math.prod(shape) for shape in shapes.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEncoding("its header cannot be read") from error
    if expected != data_size:
        raise DamagedEncoding("it is cut short")
    if content != _content(shapes, digests):
        raise DamagedEncoding("wrong checksum")
    return Contents(content, shapes), digests


def _digest_of(name: str) -> str:
    return f"digest of {name}"


def _content(shapes: Mapping[str, tuple[int, ...]], digests: Mapping[str, str]) -> str:
    return digest_all(part for name in sorted(shapes) for part in (name, str(shapes[name]), digests[name]))
