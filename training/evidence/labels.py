"""Words on pictures: broken into lines, cut short where they are too long, and never drawn as empty boxes."""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageDraw, ImageFont

ELLIPSIS = "…"
# Of a label's size: from one line to the next.
LINE = 1.25


def drawable(text: str) -> str:
    """``text`` in characters that some font of this machine has.

    Line breaks stay, other white space becomes one space, and what has no shape of its own goes. A character that no
    font has is taken apart (``½`` into ``1⁄2``), or else is written as its code, such as ``\\u732b``.
    """
    return "\n".join(map(_drawable_line, unicodedata.normalize("NFC", text).split("\n")))


def has_codes(text: str) -> bool:
    """Whether ``drawable`` writes some of the characters as their codes."""
    return drawable(text).count("\\") > text.count("\\")


def _drawable_line(line: str) -> str:
    shaped = (char for char in line if unicodedata.category(char) not in ("Cf", "Cs"))
    words = " ".join("".join(" " if unicodedata.category(char) == "Cc" else char for char in shaped).split())
    return "".join(map(_drawable_character, words))


def _drawable_character(char: str) -> str:
    if font_of(char) is not None:
        return char
    parts = unicodedata.normalize("NFKD", char)
    if all(font_of(part) is not None for part in parts):
        return parts
    return char.encode("ascii", "backslashreplace").decode()


def lines(text: str, size: int, width: float, most: int) -> list[str]:
    """``text`` as at most ``most`` lines no wider than ``width`` pixels at ``size``; the last may end in an ellipsis.

    Lines end at spaces and underscores. A word that is wider than a line is broken anywhere. ``text``: ``drawable``;
    a line break in it is kept.
    """
    found: list[str] = []
    for paragraph in text.split("\n"):
        found += _broken(paragraph, size, width)
    if len(found) <= most:
        return found
    kept = found[:most]
    last = kept[-1]
    while last and length(last + ELLIPSIS, size) > width:
        last = last[:-1]
    return [*kept[:-1], last.rstrip() + ELLIPSIS]


def _broken(text: str, size: int, width: float) -> list[str]:
    found = [""]
    for piece in _pieces(text):
        if length((found[-1] + piece).rstrip(), size) <= width:
            found[-1] += piece
            continue
        if found[-1]:
            found.append("")
        for char in piece:
            if found[-1] and length((found[-1] + char).rstrip(), size) > width:
                found.append("")
            found[-1] += char
    return [line.rstrip() for line in found]


def _pieces(text: str) -> list[str]:
    """The parts of a text after which a line may end."""
    pieces = [""]
    for char in text:
        pieces[-1] += char
        if char in " _":
            pieces.append("")
    return pieces


def length(text: str, size: int) -> float:
    """Pixels that a line of ``drawable`` text takes."""
    return sum(_loaded(path, size).getlength(run) for path, run in _runs(text))


def height(count: int, size: int) -> int:
    """Pixels that so many lines take, one below the other."""
    return math.ceil(count * size * LINE)


def draw_lines(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: Sequence[str], size: int, colour: str = "black"
) -> None:
    """Draw lines of ``drawable`` text with the first one's upper left corner at ``at``."""
    x, y = at
    for number, line in enumerate(text):
        # All lines stand on their baseline, whatever font they are of.
        place, baseline = x, y + (number * LINE + 1) * size
        for path, run in _runs(line):
            font = _loaded(path, size)
            pen.text((place, baseline), run, colour, font=font, anchor="ls")
            place += font.getlength(run)


def _runs(text: str) -> list[tuple[str, str]]:
    """(font file, characters) one after the other."""
    parts = itertools.groupby(text, key=lambda char: font_of(char) or plain_font())
    return [(path, "".join(chars)) for path, chars in parts]


@functools.cache
def font_of(char: str) -> str | None:
    """The file of the first font that has a shape for a character: the plain one, else one of this machine's."""
    code = ord(char)
    if code in _shapes(plain_font()):
        return plain_font()
    return next((path for path in _other_fonts() if code in _shapes(path)), None)


@functools.cache
def plain_font() -> str:
    """The file of DejaVu Sans, which comes with Matplotlib: Pillow's own has one size in older versions."""
    from matplotlib.font_manager import FontProperties, findfont

    return findfont(FontProperties(family="DejaVu Sans"))


@functools.cache
def _other_fonts() -> tuple[str, ...]:
    """Font files of this machine that Pillow can draw with, upright and of ordinary weight first."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    entries = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.name))
    # Matplotlib's own are for formulas, but for one that has a box for every character there is.
    files = dict.fromkeys(font.fname for font in entries if not Path(font.fname).is_relative_to(get_data_path()))
    return tuple(files)


@functools.cache
def _shapes(path: str) -> frozenset[int]:
    """The characters (code points) that a font file has shapes for; none where it cannot be drawn with."""
    from matplotlib.ft2font import FT2Font

    try:
        _loaded(path, 16)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        # Such as the pictures of an emoji font, which have one size, or a font that was removed since it was listed.
        return frozenset()


@functools.lru_cache(maxsize=64)
def _loaded(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
