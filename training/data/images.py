"""A folder of captioned pictures, as people lay it out, read into tensors."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..failure_words import reason
from ..readable import readable
from .buckets import MAX_RESOLUTION, resize
from .data_error import DataError, listed
from .image_sources import FileSequence, FileState, file_state

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTION_SUFFIXES = (".txt", ".caption")
CAPTION_RULES = ("text file", "file name", "folder name", "trigger word only")
MASK_RULES = ("none", "alpha", "mask files")
MASK_FOLDER = "masks"
MASK_ENDING = ".mask"
MAX_REPEATS = 1000
MAX_PIXELS = MAX_RESOLUTION**2

_REPEATS = re.compile(r"(\d+)_(.+)")
_PLACEHOLDER = re.compile(r"\{trigger\}|\[trigger\]")
# What Pillow's readers raise for damaged files: some chunks are parsed with struct and zlib directly.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, struct.error, zlib.error)


class ImageFolderError(DataError):
    """A folder cannot be read as a training set. The message names the folder or files and says what to do."""


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """A picture (H, W, 3) in [0, 1], fp32, its caption, and a mask (H, W) in [0, 1], 1 where it is to be learned.

    ``name`` is the file's path inside the folder, with forward slashes.
    """

    name: str
    pixels: Tensor
    caption: str
    mask: Tensor | None


@dataclass(frozen=True)
class _Folder:
    """The files of a folder by their role. Captions and masks are found by the picture's folder and stem."""

    root: Path
    pictures: tuple[Path, ...]
    captions: dict[tuple[Path, str], Path]
    masks: dict[tuple[Path, str], Path]

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def list_images(folder: Path | str) -> list[Path]:
    """The pictures in ``folder`` and below, sorted by path.

    A picture inside a folder called ``<number>_<text>`` comes that many times (kohya's repeats; the innermost such
    folder counts, 0 leaves its pictures out). Masks, hidden files and hidden folders are not listed. Raises
    ``ImageFolderError`` where the folder is missing, holds no picture, or asks for more than 1000 repeats.
    """
    found = _scan(folder)
    return [path for path in found.pictures for _ in range(_repeats(found, path))]


def load_folder(
    folder: Path | str, *, caption_rule: str, trigger_word: str, mask_rule: str
) -> tuple[list[TrainingImage], str]:
    """The training set in ``folder``, in the order of ``list_images``, and a text that describes it.

    ``caption_rule``: "text file" (.txt or .caption beside the picture), "file name" (underscores and dashes become
    spaces), "folder name" (kohya: what follows ``<number>_``), "trigger word only". ``trigger_word`` replaces
    ``{trigger}`` and ``[trigger]``, and is put before a caption that does not hold it.

    ``mask_rule``: "none", "alpha" (the alpha channel; a picture without one has no mask), "mask files"
    (``<stem>.mask.png`` beside the picture, or the same file name in a folder ``masks``; white is learned). Without
    "alpha", transparent pictures are put on white.

    Pictures are turned as their EXIF says; of animations the first frame is read. Pictures of more than 2048 x 2048
    pixels, which no bucket can use, are reduced to that area. Repeats share their tensors.

    Raises ``ValueError`` for an unknown rule, ``ImageFolderError`` for whatever is wrong with the folder's files.
    """
    found, repeats, captions = _selected(folder, caption_rule, trigger_word, mask_rule)
    images = []
    reduced, without_alpha = [], []
    for path in captions:
        pixels, alpha = _read(path, found.name(path))
        mask = _mask(found, path, pixels, alpha, mask_rule)
        if mask_rule == "alpha" and alpha is None:
            without_alpha.append(found.name(path))
        pixels = _opaque(pixels, alpha, mask_rule)
        if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
            reduced.append(found.name(path))
            pixels, mask = _reduce(pixels, mask)
        images += [TrainingImage(found.name(path), pixels, captions[path], mask)] * repeats[path]
    return images, _report(found, repeats, caption_rule, mask_rule, trigger_word.strip(), reduced, without_alpha)


@dataclass(frozen=True, eq=False)
class FolderImages:
    """The training set of a folder, of which only names and captions are in memory.

    ``pixels`` and ``masks`` (``None``: no picture has one) give what ``TrainingImage`` has, read at each access.
    """

    names: list[str]
    captions: list[str]
    pixels: FileSequence[Tensor]
    masks: FileSequence[Tensor | None] | None


def open_folder(
    folder: Path | str, *, caption_rule: str, trigger_word: str, mask_rule: str
) -> tuple[FolderImages, str]:
    """As ``load_folder``, for folders of any size: no picture is read before it is looked at.

    The text does not say which pictures are reduced or lack an alpha channel, for that shows when they are read.

    Raises as ``load_folder`` does; what is wrong with a picture is raised when it is read.
    """
    found, repeats, captions = _selected(folder, caption_rule, trigger_word, mask_rule)
    paths = [path for path in captions for _ in range(repeats[path])]
    masks = None if mask_rule == "none" else _MaskFiles(found, paths, mask_rule)
    images = FolderImages(
        [found.name(path) for path in paths],
        [captions[path] for path in paths],
        _PictureFiles(found, paths, mask_rule),
        masks,
    )
    return images, _report(found, repeats, caption_rule, mask_rule, trigger_word.strip(), (), ())


class _PictureFiles(FileSequence[Tensor]):
    """Pixels (H, W, 3) of picture files."""

    def __init__(self, found: _Folder, paths: Sequence[Path], mask_rule: str) -> None:
        self._found, self._paths, self._mask_rule = found, paths, mask_rule

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self._paths[index]
        pixels = _opaque(*_read(path, self._found.name(path)), self._mask_rule)
        return _reduce(pixels, None)[0] if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS else pixels

    def state(self, index: int) -> FileState:
        way = "pixels under alpha" if self._mask_rule == "alpha" else "pixels"
        return _state(self._found, self._paths[index], way)


class _MaskFiles(FileSequence[Tensor | None]):
    """Masks (H, W), from alpha channels or from files of their own."""

    def __init__(self, found: _Folder, paths: Sequence[Path], mask_rule: str) -> None:
        self._found, self._paths, self._mask_rule = found, paths, mask_rule

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor | None:
        path = self._paths[index]
        pixels, alpha = _read(path, self._found.name(path))
        mask = _mask(self._found, path, pixels, alpha, self._mask_rule)
        if mask is None or bool((mask == 1).all()):
            return None
        return _reduce(pixels, mask)[1] if mask.shape[0] * mask.shape[1] > MAX_PIXELS else mask

    def state(self, index: int) -> FileState:
        path = self._paths[index]
        if self._mask_rule == "alpha":
            return _state(self._found, path, "alpha")
        return _state(self._found, self._found.masks[path.parent, path.stem], "mask")


def _state(found: _Folder, path: Path, way: str) -> FileState:
    try:
        return file_state(path, way)
    except OSError as error:
        raise ImageFolderError(
            f"The file '{found.name(path)}' in {found.root} cannot be read: {reason(error)}."
        ) from error


def _selected(
    folder: Path | str, caption_rule: str, trigger_word: str, mask_rule: str
) -> tuple[_Folder, dict[Path, int], dict[Path, str]]:
    """The folder's files, how often each picture comes, and the captions of those that come at all."""
    for value, option, choices in ((caption_rule, "caption_rule", CAPTION_RULES), (mask_rule, "mask_rule", MASK_RULES)):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")
    trigger_word = trigger_word.strip()
    if caption_rule == "trigger word only" and not trigger_word:
        raise ImageFolderError("The caption rule 'trigger word only' needs a trigger word, and trigger_word is empty.")
    found = _scan(folder)
    repeats = {path: _repeats(found, path) for path in found.pictures}
    used = [path for path in found.pictures if repeats[path]]
    if not used:
        raise ImageFolderError(
            f"All pictures in {found.root} lie in folders whose names ask for 0 repeats. Rename one."
        )
    if caption_rule == "text file":
        _require_captions(found, used)
    captions = {path: _caption(found, path, caption_rule, trigger_word) for path in used}
    if mask_rule == "mask files":
        _require_masks(found, used)
    return found, repeats, captions


def folder_fingerprint(folder: Path | str) -> str:
    """A hash (hex) of the names and bytes of all pictures, captions and masks in ``folder``; times do not matter.

    Raises ``ImageFolderError`` as ``list_images`` does.
    """
    found = _scan(folder)
    total = hashlib.blake2b(digest_size=20)
    for path in sorted({*found.pictures, *found.captions.values(), *found.masks.values()}, key=found.name):
        name = os.fsencode(found.name(path))
        content = hashlib.blake2b(digest_size=20)
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    content.update(block)
        except OSError as error:
            raise ImageFolderError(
            f"The file '{found.name(path)}' in {found.root} cannot be read: {reason(error)}."
        ) from error
        total.update(len(name).to_bytes(8, "little") + name + content.digest())
    return total.hexdigest()


def _scan(folder: Path | str) -> _Folder:
    if not str(folder).strip():
        raise ImageFolderError("No folder is given. Give the folder that holds the training pictures.")
    root = Path(folder).expanduser().absolute()
    if not root.exists():
        raise ImageFolderError(
            f"The folder {root} does not exist. Check the path; it is read on the machine that trains."
        )
    if not root.is_dir():
        raise ImageFolderError(f"{root} is a file. Give the folder that holds the training pictures.")
    pictures: list[Path] = []
    captions: dict[tuple[Path, str], Path] = {}
    masks: dict[tuple[Path, str], Path] = {}
    for path in _files(root):
        suffix, in_mask_folder = path.suffix.lower(), MASK_FOLDER in path.relative_to(root).parts[:-1]
        if suffix in PICTURE_SUFFIXES:
            if path.stem.lower().endswith(MASK_ENDING):
                # Stated beside the picture, it comes before one in a masks folder.
                masks[path.parent, path.stem[: -len(MASK_ENDING)]] = path
            elif in_mask_folder:
                masks.setdefault((path.parent.parent, path.stem), path)
            else:
                pictures.append(path)
        elif suffix in CAPTION_SUFFIXES and not in_mask_folder:
            known = captions.get((path.parent, path.stem))
            if known is None or suffix == CAPTION_SUFFIXES[0]:
                captions[path.parent, path.stem] = path
    if not pictures:
        raise ImageFolderError(
            f"The folder {root} holds no picture, nor does any folder in it. Pictures end in "
            f"{', '.join(PICTURE_SUFFIXES)}; folders called '{MASK_FOLDER}' and hidden ones are not searched."
        )
    pictures.sort(key=lambda path: path.relative_to(root).as_posix())
    return _Folder(root, tuple(pictures), captions, masks)


def _files(root: Path) -> list[Path]:
    """All files below ``root`` that are not hidden. Linked folders are followed, each real folder once."""
    visited: set[str] = set()
    files = []
    for parent, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return files


def _repeats(found: _Folder, path: Path) -> int:
    for part in reversed(path.relative_to(found.root).parts[:-1]):
        match = _REPEATS.fullmatch(part)
        if match is None:
            continue
        count = int(match[1])
        if count > MAX_REPEATS:
            raise ImageFolderError(
                f"The name of the folder '{part}' asks for {count} repeats of each picture in it; {MAX_REPEATS} is the "
                "most. If the number is no count of repeats (a year, for example), rename the folder."
            )
        return count
    return 1


def _caption(found: _Folder, path: Path, rule: str, trigger_word: str) -> str:
    caption = ""
    if rule == "text file":
        caption = _caption_file(found, path)
    elif rule == "file name":
        caption = path.stem.replace("_", " ").replace("-", " ")
    elif rule == "folder name":
        caption = _folder_caption(found, path)
    caption = " ".join(readable(caption).split())
    if not trigger_word:
        if place := _PLACEHOLDER.search(caption):
            raise ImageFolderError(
                f"The caption of '{found.name(path)}' holds {place[0]}, but trigger_word is empty. Give the trigger "
                f"word, or take {place[0]} out of the caption."
            )
        return caption
    caption = _PLACEHOLDER.sub(lambda _: trigger_word, caption)
    if re.search(rf"(?<!\w){re.escape(trigger_word)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger_word}, {caption}" if caption else trigger_word


def _caption_file(found: _Folder, path: Path) -> str:
    file = found.captions[path.parent, path.stem]
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageFolderError(
            f"The caption file '{found.name(file)}' is not UTF-8 text ({error.reason} at byte {error.start}). "
            "Save it again as UTF-8."
        ) from error
    except OSError as error:
        raise ImageFolderError(f"The caption file '{found.name(file)}' cannot be read: {reason(error)}.") from error


def _require_captions(found: _Folder, used: Sequence[Path]) -> None:
    without = [path for path in used if (path.parent, path.stem) not in found.captions]
    if without:
        raise ImageFolderError(
            f"{len(without)} of {len(used)} pictures in {found.root} have no caption file: "
            f"{listed([found.name(path) for path in without])}. Put a text file of the same name beside each (for "
            f"example '{without[0].stem}.txt'; it may be empty), or choose another caption rule."
        )


def _folder_caption(found: _Folder, path: Path) -> str:
    parents = [found.root.name, *path.relative_to(found.root).parts[:-1]]
    for part in reversed(parents):
        match = _REPEATS.fullmatch(part)
        if match is not None:
            return match[2]
    return parents[-1]


def _require_masks(found: _Folder, used: Sequence[Path]) -> None:
    without = [path for path in used if (path.parent, path.stem) not in found.masks]
    if without:
        first = without[0]
        raise ImageFolderError(
            f"{len(without)} of {len(used)} pictures in {found.root} have no mask: "
            f"{listed([found.name(path) for path in without])}. Put '{first.stem}{MASK_ENDING}.png' beside the picture "
            f"or '{MASK_FOLDER}/{first.stem}.png' below its folder, or choose another mask rule."
        )


def _read(path: Path, name: str) -> tuple[Tensor, Tensor | None]:
    """Pixels (H, W, 3) in [0, 1] and, where the picture has one, its alpha (H, W) in [0, 1]. First frame, upright."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "I" or image.mode.startswith("I;16"):
                # Pillow would clip 16 bits to 8 instead of scaling them.
                grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535).clamp(0.0, 1.0)
                return grey[..., None].repeat(1, 1, 3), None
            transparent = "A" in image.getbands() or "transparency" in image.info
            values = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    except _UNREADABLE as error:
        raise ImageFolderError(
            f"The picture '{name}' in {path.parent} cannot be read: {reason(error)}. Repair, replace or remove it."
        ) from error
    pixels = torch.from_numpy(values.astype(np.float32) / 255)
    return pixels[..., :3].contiguous(), pixels[..., 3].clone() if transparent else None


def _mask(found: _Folder, path: Path, pixels: Tensor, alpha: Tensor | None, rule: str) -> Tensor | None:
    if rule == "alpha":
        return alpha
    if rule == "none":
        return None
    file = found.masks[path.parent, path.stem]
    values, _ = _read(file, found.name(file))
    if values.shape != pixels.shape:
        raise ImageFolderError(
            f"The mask '{found.name(file)}' is {values.shape[1]} x {values.shape[0]} pixels, its picture "
            f"'{found.name(path)}' is {pixels.shape[1]} x {pixels.shape[0]}. Save the mask in the picture's size."
        )
    return values.mean(dim=-1)


def _opaque(pixels: Tensor, alpha: Tensor | None, mask_rule: str) -> Tensor:
    """On white where a picture is transparent, unless its alpha channel is the mask."""
    if mask_rule == "alpha" or alpha is None:
        return pixels
    return pixels * alpha[..., None] + (1 - alpha[..., None])


def _reduce(pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    height, width = pixels.shape[:2]
    scale = (MAX_PIXELS / (height * width)) ** 0.5
    size = max(1, int(height * scale)), max(1, int(width * scale))
    smaller = resize(pixels.permute(2, 0, 1), *size).permute(1, 2, 0).contiguous()
    return smaller, None if mask is None else resize(mask[None], *size)[0]


def _report(
    found: _Folder,
    repeats: dict[Path, int],
    caption_rule: str,
    mask_rule: str,
    trigger_word: str,
    reduced: Sequence[str],
    without_alpha: Sequence[str],
) -> str:
    used = [path for path in found.pictures if repeats[path]]
    lines = [f"Folder {found.root}. Pictures: {len(used)}."]
    if any(count != 1 for count in repeats.values()):
        by_folder = Counter((path.parent, repeats[path]) for path in found.pictures)
        folders = ", ".join(
            f"{found.name(parent)}: {number} x {count}" for (parent, count), number in sorted(by_folder.items())
        )
        lines.append(f"Repeats (pictures x repeats): {folders}. That makes {sum(repeats.values())} training pictures.")
    lines.append(f"Caption rule: {caption_rule}." + (f" Trigger word: {trigger_word}." if trigger_word else ""))
    lines.append(f"Mask rule: {mask_rule}.")
    if without_alpha:
        lines.append(
            f"Pictures without an alpha channel, learned whole: {len(without_alpha)} ({listed(without_alpha)})."
        )
    if reduced:
        lines.append(
            f"Pictures of more than {MAX_RESOLUTION} x {MAX_RESOLUTION} pixels, reduced to that area: {len(reduced)} "
            f"({listed(reduced)})."
        )
    return "\n".join(lines + [f"Warning: {warning}" for warning in _warnings(found, caption_rule, mask_rule)])


def _warnings(found: _Folder, caption_rule: str, mask_rule: str) -> list[str]:
    keys = {(path.parent, path.stem) for path in found.pictures}
    warnings = []
    for files, what in ((found.captions, "caption files"), (found.masks, "mask files")):
        orphans = sorted(found.name(path) for key, path in files.items() if key not in keys)
        if orphans:
            warnings.append(f"{what} without a picture of their name: {len(orphans)} ({listed(orphans)}).")
    unused = sum(key in keys for key in found.captions)
    if unused and caption_rule != "text file":
        warnings.append(f"caption files that are not used, because the caption rule is '{caption_rule}': {unused}.")
    unused = sum(key in keys for key in found.masks)
    if unused and mask_rule != "mask files":
        warnings.append(f"mask files that are not used, because the mask rule is '{mask_rule}': {unused}.")
    return warnings
