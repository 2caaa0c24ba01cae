"""Pictures and masks before they are encoded: what they are, and that they can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .alike import look
from .buckets import Bucket, latent_mask, nearest
from .data_error import DataError, raise_together
from .encodings import Encodings
from .image_sources import FileSequence
from .known_files import Known, KnownFiles
from .latent_cache import digest
from .remarks import Remarks
from .stored_latents import Encoding, Tensors, as_they_are, own

VALUE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Picture:
    """What is known of a picture before it is encoded: the hash of its pixels, and its look from afar."""

    name: str
    identity: str
    height: int
    width: int
    bucket: Bucket
    look: bytes


def described(
    images: Sequence[Tensor],
    names: Sequence[str],
    sizes: tuple[Bucket, ...],
    known: KnownFiles,
    remarks: Remarks,
    report: Callable[[int, int], None],
) -> list[Picture]:
    """What there is to know of ``images``, of which ``sizes`` are the buckets.

    Raises ``DataError`` that names all pictures that cannot be trained on.
    """
    read = _Once(images, lambda index, image: _check_picture(image, names[index]), known, look)
    pictures: list[Picture] = []
    problems: dict[str, DataError] = {}
    for index, name in enumerate(names):
        try:
            found = read.known(index)
        except DataError as error:
            # A repeat of a picture has the same fault.
            problems.setdefault(str(error), error)
        else:
            bucket = nearest(found.height, found.width, sizes)
            pictures.append(Picture(name, found.identity, found.height, found.width, bucket, found.look))
            remarks.add(name, found.remarks.splitlines())
        # Nothing is encoded yet, but to read many files takes its time, and may be cancelled.
        if isinstance(images, FileSequence):
            report(0, len(names))
    raise_together(list(problems.values()))
    return pictures


class _Once:
    """What pixels or masks are, each read once: repeats share their memory or their file.

    Hashing memory once saves seconds for each hundred megapixels; a file that is known is not even opened.
    """

    def __init__(
        self,
        items: Sequence[Tensor | None],
        check: Callable[[int, Tensor], None],
        known: KnownFiles,
        look: Callable[[Tensor], bytes],
    ) -> None:
        self._items, self._check, self._files, self._look = items, check, known, look
        self._memory: dict[tuple, Known] = {}

    def known(self, index: int) -> Known:
        """Of item ``index``; an identity without pixels where there is none."""
        state = self._items.state(index) if isinstance(self._items, FileSequence) else None
        found = None if state is None else self._files.find(state)
        if found is None:
            is_read = isinstance(self._items, FileSequence)
            item, remarks = self._items.read(index) if is_read else (self._items[index], ())
            found = self._read(index, item, in_memory=state is None)
            found = found._replace(remarks="\n".join(filter(None, remarks)))
            if state is not None:
                self._files.keep(state, found)
        return found

    def _read(self, index: int, item: Tensor | None, in_memory: bool) -> Known:
        if item is None:
            return Known("", 0, 0)
        # Of a file's pixels nothing but this is kept, so that their place in memory is soon another's.
        memory = (item.device, item.data_ptr(), item.shape, item.stride(), item.dtype) if in_memory else ()
        if memory not in self._memory or not in_memory:
            self._check(index, item)
            self._memory[memory] = Known(digest(item), *item.shape[:2], self._look(item))
        return self._memory[memory]


def _check_picture(image: Tensor, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(
            f"Picture '{name}': expected pixels (height, width, 3), got {tuple(image.shape)}. Give single RGB "
            "pictures; split a batch, and put transparent pictures on a background first."
        )
    if not image.is_floating_point():
        raise DataError(f"Picture '{name}': expected floating-point pixels in [0, 1], got {image.dtype}.")
    if not torch.isfinite(image).all():
        raise DataError(f"Picture '{name}' holds values that are not finite. Load or make it again.")
    low, high = image.min().item(), image.max().item()
    if low < -VALUE_TOLERANCE or high > 1 + VALUE_TOLERANCE:
        raise DataError(f"Picture '{name}' has values from {low:g} to {high:g}; pixels must be in [0, 1].")


def pixels_of(image: Tensor) -> Tensor:
    """(H, W, 3) as given -> (3, H, W), fp32, CPU, in [0, 1]: resamplers in the graph overshoot a little."""
    return image.detach().to("cpu", torch.float32).permute(2, 0, 1).clamp(0.0, 1.0)


def latent_masks(
    pictures: Sequence[Picture],
    masks: Sequence[Tensor | None] | None,
    factor: int,
    store: Encodings,
    known: KnownFiles,
    remarks: Remarks,
    report: Callable[[int, int], None],
) -> list[Encoding | None]:
    """The masks in the size of the latents, as encodings with the one tensor ``mask`` (1, h, w).

    ``factor``: pixels along one side of a latent pixel.

    Raises ``DataError`` that names all masks that cannot be used.
    """
    if masks is None:
        return [None] * len(pictures)
    read = _Once(masks, lambda index, mask: _check_mask(mask, pictures[index]), known, lambda mask: b"")
    resampled: list[Encoding | None] = []
    problems: dict[str, DataError] = {}
    for index, picture in enumerate(pictures):
        try:
            found = read.known(index)
            remarks.add(picture.name, found.remarks.splitlines())
            resampled.append(_latent_mask(masks, index, picture, found, factor, store))
        except DataError as error:
            problems.setdefault(str(error), error)
        if isinstance(masks, FileSequence):
            report(0, len(pictures))
    raise_together(list(problems.values()))
    return resampled


def _latent_mask(
    masks: Sequence[Tensor | None], index: int, picture: Picture, found: Known, factor: int, store: Encodings
) -> Encoding | None:
    if not found.identity:
        return None
    if (found.height, found.width) != (picture.height, picture.width):
        raise _wrong_size((found.height, found.width), picture)

    def make() -> Tensors:
        mask = masks[index]
        assert mask is not None
        small = own(latent_mask(mask.detach().to("cpu", torch.float32).clamp(0.0, 1.0), picture.bucket, factor))
        if small.sum() <= 0:
            raise DataError(
                f"The mask of picture '{picture.name}' is 0 everywhere, so nothing of the picture would be "
                "learned. Paint what is to be learned in white, or remove the picture."
            )
        return {"mask": small}

    return store.get(digest("mask 2", found.identity, str(picture.bucket), str(factor)), make, as_they_are)[0]


def _wrong_size(shape: tuple[int, ...], picture: Picture) -> DataError:
    return DataError(
        f"The mask of picture '{picture.name}' has the shape {shape}, the picture is {picture.height} high and "
        f"{picture.width} wide. Give a mask (height, width) of the picture's size."
    )


def _check_mask(mask: Tensor, picture: Picture) -> None:
    if tuple(mask.shape) != (picture.height, picture.width):
        raise _wrong_size(tuple(mask.shape), picture)
    mask = mask.detach().to("cpu", torch.float32)
    if not torch.isfinite(mask).all() or mask.min() < -VALUE_TOLERANCE or mask.max() > 1 + VALUE_TOLERANCE:
        raise DataError(f"The mask of picture '{picture.name}' has values outside [0, 1].")
