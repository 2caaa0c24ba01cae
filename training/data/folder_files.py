"""The files of a folder of training pictures by their role, and all that has none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..failure_words import reason
from .companions import Companions
from .data_error import ImageFolderError, listed, raise_together
from .picture_file import picture_suffixes

CAPTION_SUFFIXES = (".txt", ".caption")
MASK_FOLDER = "masks"
# OneTrainer's ending comes after this pack's own.
MASK_ENDINGS = (".mask", "-masklabel")
MAX_REPEATS = 1000

REPEATS = re.compile(r"(\d+)_(.+)")
_COMMON = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".avif")
# OneTrainer's pictures that steer another one.
_CONDITION_ENDING = "-condlabel"
# Pictures, layers and films that Pillow does not read, or not without a plugin.
_OTHER_PICTURES = frozenset(
    ".3fr .ai .arw .bpg .clip .cr2 .cr3 .crw .dcr .dng .emf .eps .erf .exr .hdr .heic .heics .heif .heifs .hif .iiq "
    ".jfi .jxl .jxr .kra .mef .mos .mov .mp4 .mrw .nef .nrw .orf .pdf .pef .procreate .ps .psb .psd .raf .raw .rw2 "
    ".rwl .sr2 .srf .srw .svg .svgz .webm .wdp .wmf .x3f .xcf".split()
)
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information")
)


@dataclass
class Folder:
    """The files of a folder by their role, and by the words of a report those that have none."""

    root: Path
    pictures: list[Path] = field(default_factory=list)
    captions: Companions = field(default_factory=lambda: Companions("caption files", "caption file"))
    masks: Companions = field(default_factory=lambda: Companions("mask files", "mask"))
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        """The path inside the folder, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def leave_out(self, why: str, path: Path) -> None:
        self.left_out.setdefault(why, []).append(self.name(path))

    def repeats(self, path: Path) -> int:
        """How often the picture at ``path`` comes: kohya's number in front of the innermost such folder's name."""
        for part in reversed(path.relative_to(self.root).parts[:-1]):
            match = REPEATS.fullmatch(part)
            if match is None:
                continue
            count = int(match[1])
            if count > MAX_REPEATS:
                raise ImageFolderError(
                    f"The name of the folder '{part}' asks for {count} repeats of each picture in it; {MAX_REPEATS} is "
                    "the most. If the number is no count of repeats (a year, for example), rename the folder."
                )
            return count
        return 1


HIDDEN = "Hidden files and folders, not read"
SYSTEM = "Folders of thumbnails, recycle bins and the like, not read"
OUTPUT = "Folders of runs, outputs and caches, not read"
OTHER = "Other files, not used"
UNREAD_PICTURES = "pictures of kinds that cannot be read here, left out (save them as PNG or JPEG)"
CONDITIONS = "pictures that steer others (-condlabel), left out"
NO_FILES = "pipes, devices and the like, which hold nothing that could be read, left out"
TWICE = "folders that are links to one that is read already, left out"
WARNED = (UNREAD_PICTURES, CONDITIONS, NO_FILES, TWICE)


def scan(folder: Path | str, leave_out: Sequence[Path] = ()) -> Folder:
    """The files in ``folder`` and below. Linked folders are followed, each real folder once.

    ``leave_out`` are folders that are not looked into, wherever they lie; neither are hidden ones, those of the
    system's thumbnails and the like, and those of this pack's own runs and caches.

    Raises ``ImageFolderError`` where the folder is missing, holds no picture, or a folder in it cannot be read.
    """
    if not str(folder).strip():
        raise ImageFolderError("No folder is given. Give the folder that holds the training pictures.")
    root = Path(folder).expanduser().absolute()
    if not root.exists():
        raise ImageFolderError(
            f"The folder {root} does not exist. Check the path; it is read on the machine that trains."
        )
    if not root.is_dir():
        raise ImageFolderError(f"{root} is a file. Give the folder that holds the training pictures.")
    found = Folder(root)
    readable = picture_suffixes()
    for path in _files(found, {os.path.realpath(path) for path in leave_out}):
        suffix, stem = path.suffix.lower(), path.stem
        in_mask_folder = MASK_FOLDER in path.relative_to(root).parts[:-1]
        ending = next((number for number, end in enumerate(MASK_ENDINGS) if stem.lower().endswith(end)), None)
        if path.exists() and not path.is_file():
            # To read one would wait, or go on, for ever.
            found.leave_out(NO_FILES, path)
        elif suffix in readable:
            if ending is not None:
                # Stated beside the picture, it comes before one in a masks folder.
                found.masks.add(path, path.parent, stem[: -len(MASK_ENDINGS[ending])], rank=ending)
            elif stem.lower().endswith(_CONDITION_ENDING):
                found.leave_out(CONDITIONS, path)
            elif in_mask_folder:
                found.masks.add(path, path.parent.parent, stem, rank=len(MASK_ENDINGS), whole=path.name)
            else:
                found.pictures.append(path)
        elif suffix in CAPTION_SUFFIXES and not in_mask_folder:
            found.captions.add(path, path.parent, stem, rank=CAPTION_SUFFIXES.index(suffix))
        else:
            found.leave_out(UNREAD_PICTURES if suffix in _OTHER_PICTURES else OTHER, path)
    if not found.pictures:
        others = found.left_out.get(UNREAD_PICTURES, [])
        raise ImageFolderError(
            f"The folder {root} holds no picture, nor does any folder in it. Pictures end in {', '.join(_COMMON)}, and "
            f"what else Pillow reads; folders called '{MASK_FOLDER}' and hidden ones are not searched."
            + (f" There are {len(others)} {UNREAD_PICTURES}: {listed(others)}." if others else "")
        )
    found.pictures.sort(key=found.name)
    return found


def _files(found: Folder, leave_out: set[str]) -> list[Path]:
    visited: dict[str, Path] = {}
    files: list[Path] = []
    unread: list[ImageFolderError] = []

    def note(error: OSError) -> None:
        unread.append(
            ImageFolderError(
                f"The folder '{found.name(Path(error.filename))}' in {found.root} cannot be read: {reason(error)}. "
                "Make it readable, or move it away."
            )
        )

    for parent, folders, names in os.walk(found.root, onerror=note, followlinks=True):
        here, real = Path(parent), os.path.realpath(parent)
        if here != found.root and (real in leave_out or _is_our_own(here, folders, names)):
            found.leave_out(OUTPUT, here)
            folders.clear()
            continue
        if real in visited:
            found.leave_out(TWICE, here)
            folders.clear()
            continue
        visited[real] = here
        for name in list(folders):
            if name.startswith("."):
                found.leave_out(HIDDEN, here / name)
            elif name.lower() in _SYSTEM_FOLDERS:
                found.leave_out(SYSTEM, here / name)
            else:
                continue
            folders.remove(name)
        folders.sort()
        for name in sorted(names):
            if name.startswith("."):
                found.leave_out(HIDDEN, here / name)
            else:
                files.append(here / name)
    raise_together(unread)
    return files


def _is_our_own(folder: Path, folders: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a run or a cache of encodings was written to ``folder``: their pictures show what was trained so far."""
    is_run = "run.json" in names and ("stats.jsonl" in names or "checkpoints" in folders or "previews" in folders)
    return is_run or any(name.startswith("known_files_") and name.endswith(".sqlite3") for name in names)
