"""All encodings of a dataset while it is made: in memory while they are few, in the cache on disk beyond that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from .data_error import DataError
from .latent_cache import LatentCache
from .stored_latents import Encoding, Tensors

# What a machine that trains FLUX has to spare.
MOST_IN_MEMORY = 2 << 30
_FLOAT_BYTES = 4


class Encodings:
    """Finds encodings in ``cache`` or has them made, and keeps up to ``most_in_memory`` bytes of tensors.

    Beyond that, tensors are left to the cache: ``stored`` is true from then on, and for all encodings. A cache without
    a folder leaves them in memory, however many.
    """

    def __init__(self, cache: LatentCache, most_in_memory: int) -> None:
        self.stored = False
        self._cache = cache
        self._most = most_in_memory
        self._kept: dict[str, Tensors] = {}
        self._bytes = 0
        self._shapes: dict[tuple, dict[str, tuple[int, ...]]] = {}

    def expect(self, size: int) -> None:
        """Say that at least ``size`` more bytes will come, so that none are kept in vain. Raises as ``get`` does."""
        if self._bytes + size > self._most:
            self._leave_to_cache()

    def get(
        self,
        key: str,
        make: Callable[[], Tensors],
        convert: Callable[[Tensors], dict[str, Tensor]],
    ) -> tuple[Encoding, bool]:
        """The encoding under ``key``, and whether it was in the cache. ``make`` makes it otherwise.

        ``convert`` makes of what is in the cache what training takes.

        Raises ``DataError`` where encodings must be left to the cache, and it cannot be written.
        """
        if self.stored:
            contents = self._cache.contents(key)
            found = contents is not None
            if contents is None:
                contents = self._cache.store(key, make())
                self._check_written()
            return self._encoding(key, contents.content, contents.shapes), found
        loaded = self._cache.load(key)
        if loaded is None:
            tensors = make()
            contents = self._cache.store(key, tensors)
        else:
            tensors, contents = loaded
        if key not in self._kept:
            self._kept[key] = convert(tensors)
            self._bytes += sum(_FLOAT_BYTES * math.prod(shape) for shape in contents.shapes.values())
        if self._bytes > self._most:
            self._leave_to_cache()
        return self._encoding(key, contents.content, contents.shapes), loaded is not None

    def tensors(self, encoding: Encoding) -> Tensors:
        """Those of an encoding that ``get`` gave, while not ``stored``."""
        return self._kept[encoding.key]

    def _leave_to_cache(self) -> None:
        if self._cache.folder is None:
            return
        self._check_written()
        self._kept.clear()
        self.stored = True

    def _check_written(self) -> None:
        if self._cache.failure is not None:
            raise DataError(
                f"The encodings of this dataset are too large for memory (more than {self._most / 2**30:g} GiB) and "
                f"are read from the cache while training, but {self._cache.folder} cannot be written: "
                f"{self._cache.failure}. Free disk space there, or choose another cache folder, and start again: what "
                "is encoded already is found in the cache."
            ) from self._cache.failure

    def _encoding(self, key: str, content: str, shapes: Mapping[str, tuple[int, ...]]) -> Encoding:
        # A hundred thousand encodings have a few shapes between them.
        shared = self._shapes.setdefault(tuple(shapes.items()), dict(shapes))
        return Encoding(key, content, shared)
