"""A training folder to be looked at before it is trained on: each picture with what belongs to it and what it lacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..readable import readable
from .captions import CAPTION_RULES, caption_of, decoded
from .data_error import ImageFolderError
from .folder_files import WARNED, Folder, scan
from .masks import MASK_RULES

NO_CAPTION = "No caption file beside it"
NO_MASK = "No mask file beside it"
NOT_USED = "Not trained on: its folder asks for 0 repeats"
OUTSIDE = "A link leads out of this folder: trained on, but not shown or changed here"
ODD_NAME = "Its name is not UTF-8 text: rename it to see it here"


@dataclass(frozen=True)
class Entry:
    """One picture. ``name`` is its path inside the folder; ``text`` what its caption file holds, ``None`` without one.

    ``caption`` is what is trained on, with the trigger word, ``None`` where there is none. ``editable``: the caption
    comes from a text file here, which may be written. ``shown``: whether the picture's content may be looked at.
    ``version`` changes with the picture and its mask.
    """

    name: str
    repeats: int
    text: str | None
    caption: str | None
    mask: str | None
    editable: bool
    shown: bool
    version: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class FolderSheet:
    """The pictures of a folder in the order in which they are trained on, and what is wrong with the whole."""

    found: Folder
    caption_rule: str
    mask_rule: str
    trigger_word: str
    captions: dict[Path, Path]
    masks: dict[Path, Path]
    problems: tuple[str, ...]

    @property
    def trained(self) -> int:
        """Pictures with their repeats."""
        return sum(map(self.found.repeats, self.found.pictures))

    @property
    def without_caption(self) -> int:
        """Pictures that lack the caption file which the caption rule asks for."""
        return len(self.found.pictures) - len(self.captions) if self.caption_rule == CAPTION_RULES[0] else 0

    @property
    def without_mask(self) -> int:
        """Pictures that lack the mask file which the mask rule asks for."""
        return len(self.found.pictures) - len(self.masks) if self.mask_rule == MASK_RULES[2] else 0

    def entries(self, start: int, count: int) -> list[Entry]:
        """``count`` pictures from number ``start`` on. Only their captions are read."""
        return [self._entry(path) for path in self.found.pictures[start : start + count]]

    def caption_file(self, name: str) -> Path:
        """Where the caption of the picture ``name`` is, or would be written to. Raises ``KeyError``."""
        path = {self.found.name(path): path for path in self.found.pictures}[name]
        return self.captions.get(path, path.with_suffix(".txt"))

    def _entry(self, path: Path) -> Entry:
        found, name = self.found, self.found.name(path)
        file, mask = self.captions.get(path), self.masks.get(path)
        repeats = found.repeats(path)
        inside = [each is None or lies_inside(found.root, each) for each in (path, file, mask)]
        utf8 = readable(name) == name
        problems = [] if all(inside) else [OUTSIDE]
        problems += [] if utf8 else [ODD_NAME]
        problems += [] if repeats else [NOT_USED]
        from_files = self.caption_rule == CAPTION_RULES[0]
        text, caption, unread = None, None, from_files and not inside[1]
        if from_files and file is None:
            problems.append(NO_CAPTION)
        elif from_files and file is not None and inside[1]:
            try:
                text = decoded(file.read_bytes())
            except (ValueError, OSError):
                unread = True
        if not from_files or (file is not None and inside[1]):
            try:
                caption = caption_of(found, path, self.caption_rule, self.trigger_word, file)
            except ImageFolderError as error:
                problems.append(str(error))
        if self.mask_rule != MASK_RULES[2]:
            mask = None
        elif mask is None:
            problems.append(NO_MASK)
        return Entry(
            name=name,
            repeats=repeats,
            text=text,
            caption=caption,
            mask=None if mask is None else found.name(mask),
            editable=from_files and utf8 and not unread and lies_inside(found.root, path.parent),
            shown=utf8 and inside[0] and inside[2],
            version="-".join(_version(each) for each in (path, mask) if each is not None),
            problems=tuple(problems),
        )


def folder_sheet(
    folder: Path | str, *, caption_rule: str, trigger_word: str, mask_rule: str, leave_out: Sequence[Path] = ()
) -> FolderSheet:
    """The pictures in ``folder``, by the rules of ``images.load_folder``, which refuses what is only named here.

    Raises ``ValueError`` for an unknown rule, ``ImageFolderError`` where the folder holds no picture or cannot be read.
    """
    for value, option, choices in ((caption_rule, "caption_rule", CAPTION_RULES), (mask_rule, "mask_rule", MASK_RULES)):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")
    found = scan(folder, leave_out)
    captions, _, unclear_captions = found.captions.of(found.pictures, found.name)
    masks, _, unclear_masks = found.masks.of(found.pictures, found.name)
    problems = [f"{why}: {len(found.left_out[why])}" for why in WARNED if why in found.left_out]
    problems += map(str, unclear_captions if caption_rule == CAPTION_RULES[0] else ())
    problems += map(str, unclear_masks if mask_rule == MASK_RULES[2] else ())
    if caption_rule == "trigger word only" and not trigger_word.strip():
        problems.append("The caption rule 'trigger word only' needs a trigger word, and trigger_word is empty.")
    return FolderSheet(found, caption_rule, mask_rule, trigger_word.strip(), captions, masks, tuple(problems))


def lies_inside(root: Path, path: Path) -> bool:
    """Whether ``path``, all links followed, is ``root`` or lies below it."""
    real, inside = os.path.realpath(path), os.path.realpath(root)
    return real == inside or real.startswith(inside.rstrip(os.sep) + os.sep)


def _version(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "0"
    return f"{status.st_mtime_ns:x}.{status.st_size:x}"
