"""Names for files that come from a page: plain on every system, and never out of their folder."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

from .captions import decoded
from .data_error import ImageFolderError
from .folder_files import CAPTION_SUFFIXES
from .picture_file import check_picture, picture_suffixes

# What some system forbids in names, or reads as something else.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
MOST_FOLDERS = 4
MOST_LETTERS = 120
MOST_CAPTION_BYTES = 1 << 16


def plain_name(name: str) -> str:
    """``name``, a path inside a training folder with forward slashes, in composed Unicode letters.

    Raises ``ValueError`` with what is wrong: empty or hidden parts, ``..``, letters that some system forbids, more than
    ``MOST_FOLDERS`` folders, parts of more than ``MOST_LETTERS`` letters.
    """
    name = unicodedata.normalize("NFC", name)
    parts = name.split("/")
    if len(parts) > MOST_FOLDERS + 1:
        raise ValueError(f"{name!r} lies in more than {MOST_FOLDERS} folders. Give a shorter path.")
    for part in parts:
        why = _problem(part)
        if why:
            raise ValueError(f"{name!r} cannot be the name of a file or folder: {why}. Rename it.")
    return name


def check_training_file(name: str, content: bytes) -> None:
    """Raises ``ValueError`` where ``content`` is neither a picture nor a caption by the ending of ``name``."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in picture_suffixes():
        check_picture(content, name)
    elif suffix in CAPTION_SUFFIXES:
        if len(content) > MOST_CAPTION_BYTES:
            raise ImageFolderError(f"The caption file '{name}' has more than {MOST_CAPTION_BYTES >> 10} KB.")
        try:
            decoded(content)
        except ValueError as error:
            raise ImageFolderError(f"The caption file '{name}' {error}. Save it again as UTF-8.") from error
    else:
        raise ImageFolderError(
            f"The file '{name}' is neither a picture that is read here nor a caption ({', '.join(CAPTION_SUFFIXES)})."
        )


def _problem(part: str) -> str:
    if not part:
        return "a part of it is empty"
    if part.startswith("."):
        return "a part of it begins with a dot"
    if part != part.strip() or part.endswith("."):
        return "a part of it begins or ends with a blank, or ends with a dot"
    if match := _FORBIDDEN.search(part):
        return f"the letter {match[0]!r} is not allowed"
    if any(unicodedata.category(letter) in ("Cs", "Cc", "Cf") for letter in part):
        return "it holds letters that cannot be seen"
    if _DEVICES.fullmatch(part):
        return f"{part!r} is a device's name on Windows"
    if len(part) > MOST_LETTERS or len(part.encode()) > 250:
        return f"a part of it has more than {MOST_LETTERS} letters"
    return ""
