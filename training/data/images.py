"""A folder of captioned pictures, as people lay it out, read into tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..failure_words import reason
from .buckets import MAX_RESOLUTION, resize
from .captions import CAPTION_RULES, caption_of
from .data_error import DataError, ImageFolderError, listed, raise_together
from .folder_files import MASK_ENDINGS, MASK_FOLDER, Folder, scan
from .folder_report import describe_folder
from .image_sources import FileSequence, FileState, file_state
from .masks import MASK_RULES, mask_of, on_white
from .picture_file import PictureFile, read_picture
from .remarks import Remarks

__all__ = [
    "CAPTION_RULES",
    "MASK_RULES",
    "FolderImages",
    "ImageFolderError",
    "TrainingImage",
    "folder_fingerprint",
    "list_images",
    "load_folder",
    "open_folder",
]

MAX_PIXELS = MAX_RESOLUTION**2
REDUCED = f"Pictures of more than {MAX_RESOLUTION} x {MAX_RESOLUTION} pixels, reduced to that area"


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
class _Chosen:
    """What is used of a folder: how often each picture comes, captions and masks of those that come at all."""

    found: Folder
    caption_rule: str
    mask_rule: str
    trigger_word: str
    repeats: dict[Path, int]
    captions: dict[Path, str] = field(default_factory=dict)
    caption_files: dict[Path, Path] = field(default_factory=dict)
    mask_files: dict[Path, Path] = field(default_factory=dict)
    loose: list[Path] = field(default_factory=list)

    def report(self, remarks: Remarks) -> str:
        return describe_folder(
            self.found,
            self.repeats,
            self.caption_files,
            self.mask_files,
            self.loose,
            caption_rule=self.caption_rule,
            mask_rule=self.mask_rule,
            trigger_word=self.trigger_word,
            remarks=remarks,
        )


def list_images(folder: Path | str) -> list[Path]:
    """The pictures in ``folder`` and below, sorted by path.

    A picture inside a folder called ``<number>_<text>`` comes that many times (kohya's repeats; the innermost such
    folder counts, 0 leaves its pictures out). Masks, hidden files and hidden folders are not listed. Raises
    ``ImageFolderError`` where the folder is missing, holds no picture, or asks for more than 1000 repeats.
    """
    found = scan(folder)
    return [path for path in found.pictures for _ in range(found.repeats(path))]


def load_folder(
    folder: Path | str, *, caption_rule: str, trigger_word: str, mask_rule: str, leave_out: Sequence[Path] = ()
) -> tuple[list[TrainingImage], str]:
    """The training set in ``folder``, in the order of ``list_images``, and a text that describes it.

    ``caption_rule``: "text file" (.txt or .caption beside the picture), "file name" (underscores and dashes become
    spaces), "folder name" (kohya: what follows ``<number>_``), "trigger word only". ``trigger_word`` replaces
    ``{trigger}`` and ``[trigger]``, and is put before a caption that does not hold it.

    ``mask_rule``: "none", "alpha" (the alpha channel; a picture without one has no mask), "mask files"
    (``<stem>.mask.png`` or ``<stem>-masklabel.png`` beside the picture, or the same file name in a folder ``masks``;
    white is learned, or what is opaque in a mask of one colour). Without "alpha", transparent pictures are put on
    white.

    Pictures are turned as their metadata say and converted to sRGB; of animations the first frame is read. Pictures of
    more than 2048 x 2048 pixels, which no bucket can use, are reduced to that area. Repeats share their tensors.
    ``leave_out``: folders whose pictures are no training pictures, such as the run's output.

    Raises ``ValueError`` for an unknown rule, ``ImageFolderError`` for whatever is wrong with the folder's files: all
    that cannot be used are named at once.
    """
    chosen = _chosen(folder, caption_rule, trigger_word, mask_rule, leave_out)
    images, problems, remarks = [], [], Remarks()
    for path, caption in chosen.captions.items():
        name = chosen.found.name(path)
        try:
            pixels, mask, noticed = _picture_and_mask(chosen, path)
        except ImageFolderError as error:
            problems.append(error)
            continue
        remarks.add(name, noticed)
        images += [TrainingImage(name, pixels, caption, mask)] * chosen.repeats[path]
    raise_together(problems)
    return images, chosen.report(remarks)


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
    folder: Path | str, *, caption_rule: str, trigger_word: str, mask_rule: str, leave_out: Sequence[Path] = ()
) -> tuple[FolderImages, str]:
    """As ``load_folder``, for folders of any size: no picture is read before it is looked at.

    The text does not say what is odd about single pictures, for that shows when they are read.

    Raises as ``load_folder`` does; what is wrong with a picture is raised when it is read.
    """
    chosen = _chosen(folder, caption_rule, trigger_word, mask_rule, leave_out)
    paths = [path for path in chosen.captions for _ in range(chosen.repeats[path])]
    images = FolderImages(
        [chosen.found.name(path) for path in paths],
        [chosen.captions[path] for path in paths],
        _PictureFiles(chosen, paths),
        None if mask_rule == "none" else _MaskFiles(chosen, paths),
    )
    return images, chosen.report(Remarks())


class _PictureFiles(FileSequence[Tensor]):
    """Pixels (H, W, 3) of picture files."""

    def __init__(self, chosen: _Chosen, paths: Sequence[Path]) -> None:
        self._chosen, self._paths = chosen, paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
        path = self._paths[index]
        picture = read_picture(path, self._chosen.found.name(path))
        pixels, _, noticed = _fitted(picture, None, self._chosen.mask_rule)
        return pixels, (*picture.remarks, *noticed)

    def state(self, index: int) -> FileState:
        way = "pixels 2 under alpha" if self._chosen.mask_rule == "alpha" else "pixels 2"
        return _state(self._chosen.found, self._paths[index], way)


class _MaskFiles(FileSequence[Tensor | None]):
    """Masks (H, W), from alpha channels or from files of their own."""

    def __init__(self, chosen: _Chosen, paths: Sequence[Path]) -> None:
        self._chosen, self._paths = chosen, paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[Tensor | None, tuple[str, ...]]:
        path = self._paths[index]
        picture = read_picture(path, self._chosen.found.name(path))
        mask, source = mask_of(
            self._chosen.found, path, picture, self._chosen.mask_rule, self._chosen.mask_files.get(path)
        )
        _, mask, _ = _fitted(picture, mask, self._chosen.mask_rule)
        return (None if mask is None or bool((mask == 1).all()) else mask), (source,)

    def state(self, index: int) -> FileState:
        path = self._paths[index]
        if self._chosen.mask_rule == "alpha":
            return _state(self._chosen.found, path, "alpha 2")
        return _state(self._chosen.found, self._chosen.mask_files[path], "mask 2")


def _picture_and_mask(chosen: _Chosen, path: Path) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    picture = read_picture(path, chosen.found.name(path))
    mask, source = mask_of(chosen.found, path, picture, chosen.mask_rule, chosen.mask_files.get(path))
    pixels, mask, noticed = _fitted(picture, mask, chosen.mask_rule)
    return pixels, mask, (*picture.remarks, source, *noticed)


def _fitted(
    picture: PictureFile, mask: Tensor | None, mask_rule: str
) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Pixels and mask of at most ``MAX_PIXELS``, on white unless the alpha channel is the mask, and remarks."""
    pixels, remarks = on_white(picture, mask_rule)
    height, width = pixels.shape[:2]
    if height * width <= MAX_PIXELS:
        return pixels, mask, remarks
    scale = (MAX_PIXELS / (height * width)) ** 0.5
    size = max(1, int(height * scale)), max(1, int(width * scale))
    smaller = resize(pixels.permute(2, 0, 1), *size).permute(1, 2, 0).contiguous()
    return smaller, None if mask is None else resize(mask[None], *size)[0], (*remarks, REDUCED)


def _state(found: Folder, path: Path, way: str) -> FileState:
    try:
        return file_state(path, way)
    except OSError as error:
        raise _unread(found, path, error) from error


def _unread(found: Folder, path: Path, error: OSError) -> ImageFolderError:
    return ImageFolderError(f"The file '{found.name(path)}' in {found.root} cannot be read: {reason(error)}.")


def _chosen(
    folder: Path | str, caption_rule: str, trigger_word: str, mask_rule: str, leave_out: Sequence[Path]
) -> _Chosen:
    for value, option, choices in ((caption_rule, "caption_rule", CAPTION_RULES), (mask_rule, "mask_rule", MASK_RULES)):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")
    trigger_word = trigger_word.strip()
    if caption_rule == "trigger word only" and not trigger_word:
        raise ImageFolderError("The caption rule 'trigger word only' needs a trigger word, and trigger_word is empty.")
    found = scan(folder, leave_out)
    repeats = {path: found.repeats(path) for path in found.pictures}
    used = [path for path in found.pictures if repeats[path]]
    if not used:
        raise ImageFolderError(
            f"All pictures in {found.root} lie in folders whose names ask for 0 repeats. Rename one."
        )
    chosen = _Chosen(found, caption_rule, mask_rule, trigger_word, repeats)
    problems: list[DataError] = []
    for companions, files, wanted in (
        (found.captions, chosen.caption_files, caption_rule == "text file"),
        (found.masks, chosen.mask_files, mask_rule == "mask files"),
    ):
        own, loose, unclear = companions.of(found.pictures, found.name)
        files.update(own)
        if wanted:
            chosen.loose.extend(loose)
            problems += unclear
    without = [path for path in used if path not in chosen.caption_files] if caption_rule == "text file" else []
    if without:
        problems.append(_no_captions(chosen, used, without))
    unmasked = [path for path in used if path not in chosen.mask_files] if mask_rule == "mask files" else []
    if unmasked:
        problems.append(_no_masks(chosen, used, unmasked))
    uncaptioned = set(without)
    for path in used:
        try:
            file = chosen.caption_files.get(path)
            if path not in uncaptioned:
                chosen.captions[path] = caption_of(found, path, caption_rule, trigger_word, file)
        except ImageFolderError as error:
            problems.append(error)
    # Where no picture has its companion, the rule is wrong, which is known without reading all of them.
    if problems and len(used) not in (len(without), len(unmasked)):
        problems += _unreadable(chosen, used)
    raise_together(problems)
    return chosen


def _unreadable(chosen: _Chosen, used: Sequence[Path]) -> list[ImageFolderError]:
    """What is wrong with pictures and masks, so that all is told in one message with what is missing beside them."""
    problems = []
    for path in used:
        try:
            if chosen.mask_rule == "mask files" and path not in chosen.mask_files:
                read_picture(path, chosen.found.name(path))
            else:
                _picture_and_mask(chosen, path)
        except ImageFolderError as error:
            problems.append(error)
    return problems


def folder_fingerprint(folder: Path | str, leave_out: Sequence[Path] = ()) -> str:
    """A hash (hex) of the names and bytes of all pictures, captions and masks in ``folder``; times do not matter.

    Raises ``ImageFolderError`` as ``list_images`` does.
    """
    found = scan(folder, leave_out)
    total = hashlib.blake2b(digest_size=20)
    for path in sorted({*found.pictures, *found.captions.files, *found.masks.files}, key=found.name):
        name = os.fsencode(found.name(path))
        content = hashlib.blake2b(digest_size=20)
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    content.update(block)
        except OSError as error:
            raise _unread(found, path, error) from error
        total.update(len(name).to_bytes(8, "little") + name + content.digest())
    return total.hexdigest()


def _no_captions(chosen: _Chosen, used: Sequence[Path], without: Sequence[Path]) -> ImageFolderError:
    return ImageFolderError(
        f"{len(without)} of {len(used)} pictures in {chosen.found.root} have no caption file: "
        f"{listed([chosen.found.name(path) for path in without])}. Put a text file of the same name beside each "
        f"(for example '{without[0].stem}.txt'; it may be empty): in ComfyUI by a click on the picture in Load Dataset "
        "Images, which opens a field for its caption. Or choose another caption rule."
    )


def _no_masks(chosen: _Chosen, used: Sequence[Path], without: Sequence[Path]) -> ImageFolderError:
    first = without[0]
    return ImageFolderError(
        f"{len(without)} of {len(used)} pictures in {chosen.found.root} have no mask: "
        f"{listed([chosen.found.name(path) for path in without])}. Put '{first.stem}{MASK_ENDINGS[0]}.png' beside "
        f"the picture or '{MASK_FOLDER}/{first.stem}.png' below its folder, or choose another mask rule."
    )
