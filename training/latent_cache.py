"""Encodings on disk, so that a second run need not load the VAE or the text encoders."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_CHECKSUM = "checksum"


def digest(*parts: str | Tensor) -> str:
    """The blake2b hash (hex) of texts and tensors, their lengths and shapes included. Tensors count as fp32."""
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


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest(*(part for name in sorted(tensors) for part in (name, tensors[name])))


class LatentCache:
    """Tensors in a folder under content keys. Without a folder nothing is kept.

    A damaged file counts as absent, with a logged warning. Where the folder cannot be written (a full disk, no
    permission), one warning is logged and no further file is tried.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writable = folder is not None

    def load(self, key: str) -> dict[str, Tensor] | None:
        """What ``store`` wrote under ``key``, or ``None``."""
        if self._folder is None:
            return None
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("The cached encoding %s cannot be read (%s); it is encoded again.", path, error)
            return None
        try:
            tensors = safetensors.torch.load(content)
            checksum = tensors.pop(_CHECKSUM)
        except (safetensors.SafetensorError, KeyError) as error:
            logger.warning("The cached encoding %s is damaged (%s); it is encoded again.", path, error)
            return None
        if bytes(checksum.tolist()).hex() != _checksum(tensors):
            logger.warning("The cached encoding %s is damaged (wrong checksum); it is encoded again.", path)
            return None
        return tensors

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep fp32 CPU ``tensors`` under ``key``. The file appears whole or not at all."""
        if self._folder is None or not self._writable:
            return
        checksum = torch.tensor(list(bytes.fromhex(_checksum(tensors))), dtype=torch.uint8)
        content = safetensors.torch.save({**tensors, _CHECKSUM: checksum})
        unfinished = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(unfinished, self._path(key))
        except OSError as error:
            self._writable = False
            logger.warning("Encodings are not cached from here on: %s cannot be written (%s).", self._folder, error)
            if unfinished is not None:
                Path(unfinished).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}.safetensors"
