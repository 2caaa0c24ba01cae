"""The caption of a picture: from a text file, a file's or a folder's name, with the trigger word."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from ..failure_words import reason
from ..readable import readable
from .data_error import ImageFolderError
from .folder_files import REPEATS, Folder

CAPTION_RULES = ("text file", "file name", "folder name", "trigger word only")

_PLACEHOLDER = re.compile(r"\{trigger\}|\[trigger\]")
# Control characters, and code points that never will be letters: the bytes mean something else.
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1b\ufdd0-\ufdef\ufffe\uffff]")
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ADVICE = "Save it again as UTF-8."


def caption_of(found: Folder, path: Path, rule: str, trigger_word: str, file: Path | None) -> str:
    """The caption of the picture at ``path`` by ``rule``, one of ``CAPTION_RULES``, in composed Unicode letters.

    ``file``: its caption file, for the rule "text file". Raises ``ImageFolderError``.
    """
    caption = ""
    if rule == "text file":
        assert file is not None
        caption = _read(found, file)
    elif rule == "file name":
        caption = path.stem.replace("_", " ").replace("-", " ")
    elif rule == "folder name":
        caption = _folder_caption(found, path)
    # Names from other systems come with letters and accents apart, which text encoders read as other tokens.
    caption = unicodedata.normalize("NFC", " ".join(readable(caption).split()))
    trigger_word = unicodedata.normalize("NFC", trigger_word)
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


def _read(found: Folder, file: Path) -> str:
    try:
        return decoded(file.read_bytes())
    except ValueError as error:
        raise ImageFolderError(f"The caption file '{found.name(file)}' {error}. {_ADVICE}") from error
    except OSError as error:
        raise ImageFolderError(f"The caption file '{found.name(file)}' cannot be read: {reason(error)}.") from error


def decoded(content: bytes) -> str:
    """The text in a file: UTF-8, or UTF-16 and UTF-32 as Windows' editors write them, with or without their mark.

    Raises ``ValueError`` for anything else. Other encodings cannot be told from each other.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _text(content.removeprefix(mark), encoding)
    if (wide := _two_bytes_a_letter(content)) is not None:
        return _text(content, wide)
    return _text(content, "utf-8")


def _two_bytes_a_letter(content: bytes) -> str | None:
    """The form of UTF-16 that ``content`` without a mark is in; ``None`` where nothing speaks for one."""
    low, high = content[0::2].count(0), content[1::2].count(0)
    if len(content) % 2 or bool(low) == bool(high):
        return None
    # Of Latin letters the upper byte is zero, in other scripts that of spaces at least, and never the lower one.
    if 2 * max(low, high) < len(content) // 2:
        try:
            _text(content.replace(b"\0", b""), "utf-8")
        except ValueError:
            pass
        else:
            return None  # Text of single bytes with a few stray zeros.
    return "utf-16-le" if high else "utf-16-be"


def _text(content: bytes, encoding: str) -> str:
    what = f"is not {encoding.upper().removesuffix('-LE').removesuffix('-BE')} text"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} ({error.reason} at byte {error.start})") from error
    if match := _NO_TEXT.search(text):
        raise ValueError(f"{what} (the character U+{ord(match[0]):04X} at place {match.start()})")
    return text


def _folder_caption(found: Folder, path: Path) -> str:
    parents = [found.root.name, *path.relative_to(found.root).parts[:-1]]
    for part in reversed(parents):
        match = REPEATS.fullmatch(part)
        if match is not None:
            return match[2]
    return parents[-1]
