"""Samples and prompts that stay in the cache on disk and are read when they are looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.families.latent_space import space_of
from ..failure_words import reason
from .data_error import DataError
from .latent_cache import DamagedEncoding, LatentCache, digest, read_tensors

# Mean and deviation of a sample are asked for one after the other, and a caption is often that of many pictures.
RECENT = 8

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of a picture, caption or mask: its key in the cache, and what there is to know without reading it.

    ``content`` is the hash (hex) of its tensors, ``shapes`` has a shape for each of their names.
    """

    key: str
    content: str
    shapes: Mapping[str, tuple[int, ...]]


def own(tensor: Tensor) -> Tensor:
    """A contiguous fp32 CPU copy that autograd may save: the host calls us in inference mode, training leaves it."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)


def posterior(raw: Tensors) -> dict[str, Tensor]:
    """The VAE's raw ``mean`` and, where it has one, ``std`` (C, h, w) in model space."""
    space = space_of(raw["mean"].shape[0])
    in_model_space = {"mean": own(space.normalise(raw["mean"]))}
    if "std" in raw:
        in_model_space["std"] = own(raw["std"] * space.scale)
    return in_model_space


def as_they_are(raw: Tensors) -> dict[str, Tensor]:
    """Prompt embeddings and masks are kept as training takes them."""
    return {name: own(tensor) for name, tensor in raw.items()}


class Shelf:
    """Reads encodings from ``cache``, which has a folder. Remembers the few that were read last."""

    def __init__(self, cache: LatentCache) -> None:
        self._cache = cache
        self._recent: dict[str, Tensors] = {}

    def read(self, encoding: Encoding, convert: Callable[[Tensors], dict[str, Tensor]], what: str) -> Tensors:
        """The tensors of ``encoding`` after ``convert``; ``what`` names the picture or caption in messages.

        Raises ``DataError`` where the file is gone, damaged, or holds another encoding than it did. A damaged file is
        removed, so that encoding again makes it anew.
        """
        # Taken out and put in again: the first of a dict is the one that was put in first.
        tensors = self._recent.pop(encoding.key, None)
        if tensors is None:
            tensors = convert(self._load(encoding, what))
        self._recent[encoding.key] = tensors
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return tensors

    def _load(self, encoding: Encoding, what: str) -> Tensors:
        path = self._cache.path(encoding.key)
        try:
            tensors, contents = read_tensors(path)
        except FileNotFoundError as error:
            raise DataError(
                f"{what}: its encoding is gone from the cache: {path} does not exist. Encode the data again; what is "
                "still in the cache is not encoded anew. Leave the cache folder alone while training."
            ) from error
        except OSError as error:
            raise DataError(
                f"{what}: its encoding {path} cannot be read: {reason(error)}. Make the file readable, or encode "
                "the data again with another cache folder."
            ) from error
        except DamagedEncoding as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise DataError(
                f"{what}: its encoding {path} is damaged ({error}). The file was removed: encode the data again, which "
                "makes it anew. If this comes again, check the disk."
            ) from error
        if contents.content != encoding.content:
            raise DataError(
                f"{what}: its encoding {path} was made anew since the data was encoded, with another result. Encode "
                "the data again."
            )
        return tensors


class StoredSample:
    """A ``LatentSample`` whose latents and mask are read from the cache at each access.

    Reading raises ``DataError`` where a file is gone or damaged. ``shape``, ``content``, ``flippable`` and ``masked``
    read nothing.
    """

    __slots__ = ("_mask", "_mirrored", "_shelf", "_straight", "name", "prompt")

    def __init__(
        self,
        name: str,
        prompt: int,
        shelf: Shelf,
        straight: Encoding,
        mirrored: Encoding | None,
        mask: Encoding | None,
    ) -> None:
        self.name = name
        self.prompt = prompt
        self._shelf = shelf
        self._straight = straight
        self._mirrored = mirrored
        self._mask = mask

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of the latents."""
        return self._straight.shapes["mean"]

    @property
    def content(self) -> str:
        """A hash (hex) of latents and mask: that of a picture that comes again is the same."""
        return digest(self._straight.content, self._mask.content if self._mask else "none")

    @property
    def flippable(self) -> bool:
        """Whether there is an encoding of the mirrored picture."""
        return self._mirrored is not None

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self._mask is not None

    @property
    def mean(self) -> Tensor:
        return self._read(self._straight)["mean"]

    @property
    def std(self) -> Tensor | None:
        return self._read(self._straight).get("std")

    @property
    def flipped_mean(self) -> Tensor | None:
        return None if self._mirrored is None else self._read(self._mirrored)["mean"]

    @property
    def flipped_std(self) -> Tensor | None:
        return None if self._mirrored is None else self._read(self._mirrored).get("std")

    @property
    def mask(self) -> Tensor | None:
        if self._mask is None:
            return None
        return self._shelf.read(self._mask, as_they_are, f"The mask of picture '{self.name}'")["mask"]

    def _read(self, encoding: Encoding) -> Tensors:
        return self._shelf.read(encoding, posterior, f"Picture '{self.name}'")


class StoredPrompt:
    """A ``Prompt`` whose embeddings are read from the cache at each access.

    Reading raises ``DataError`` where the file is gone or damaged. ``length``, ``width`` and ``pooled_width`` read
    nothing.
    """

    __slots__ = ("_encoding", "_shelf", "caption")

    def __init__(self, caption: str, shelf: Shelf, encoding: Encoding) -> None:
        self.caption = caption
        self._shelf = shelf
        self._encoding = encoding

    @property
    def length(self) -> int:
        """Tokens of ``prompt_embeds``."""
        return self._encoding.shapes["prompt_embeds"][0]

    @property
    def width(self) -> int:
        """Width of ``prompt_embeds``."""
        return self._encoding.shapes["prompt_embeds"][1]

    @property
    def pooled_width(self) -> int:
        """Width of ``pooled_prompt_embeds``."""
        return self._encoding.shapes["pooled_prompt_embeds"][0]

    @property
    def prompt_embeds(self) -> Tensor:
        return self._read()["prompt_embeds"]

    @property
    def pooled_prompt_embeds(self) -> Tensor:
        return self._read()["pooled_prompt_embeds"]

    def _read(self) -> Tensors:
        return self._shelf.read(self._encoding, as_they_are, f"Caption '{self.caption[:60]}'")
