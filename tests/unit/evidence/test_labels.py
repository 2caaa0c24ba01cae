"""Labels of sheets: whole words where they fit, an ellipsis where they do not, and no character as an empty box."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from fluxduel.training.evidence import labels
from fluxduel.training.evidence.labels import ELLIPSIS, draw_lines, drawable, font_of, has_codes, length, lines

SIZE = 16
# Latin, Greek, Cyrillic, Arabic, Hebrew, Devanagari, Thai, Han, kana, Hangul, symbols, emoji, private, unassigned.
BLOCKS = (0x20, 0xC0, 0x100, 0x300, 0x370, 0x400, 0x590, 0x600, 0x900, 0xE00, 0x2000, 0x2190, 0x2500, 0x3040, 0x4E00,
          0xAC00, 0xE000, 0xFB00, 0xFE00, 0xFF00, 0x10000, 0x1D400, 0x1F300, 0x1F900, 0x20000, 0xE0000)  # fmt: skip


def some_texts(count: int) -> list[str]:
    """Texts of characters from many scripts, control characters and lone surrogates included; always the same."""
    chance = random.Random(12)
    return [
        "".join(chr(chance.choice(BLOCKS) + chance.randrange(0x80)) for _ in range(chance.randrange(1, 30)))
        + chance.choice(["", "\t", "\n", "\x00", "\ud800", "\u200d", "\ufeff", "_", "  "])
        for _ in range(count)
    ]


def test_every_character_that_is_drawn_has_a_shape() -> None:
    for text in some_texts(400):
        shown = drawable(text)
        missing = [char for char in shown if char != "\n" and font_of(char) is None]
        assert not missing, (text, shown)


def test_text_of_the_plain_font_stays_as_it_is() -> None:
    for text in ("a cat on a mat", "Ein Kätzchen, 50 % größer", "Γάτα", "кошка на ковре", "C:\\pictures\\u732b", ""):
        assert drawable(text) == text and not has_codes(text)


def test_what_no_font_has_is_taken_apart_or_written_as_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_other_fonts", lambda: ())
    font_of.cache_clear()
    try:
        assert drawable("猫 sits") == "\\u732b sits" and has_codes("猫 sits")
        assert drawable("\U00020000") == "\\U00020000"
        # Full-width letters are ordinary ones of another width.
        assert drawable("ＡＢ１") == "AB1" and not has_codes("ＡＢ１")
        assert has_codes("\\n 猫") and not has_codes("\\n")
    finally:
        font_of.cache_clear()


def test_a_font_of_the_machine_is_taken_for_what_the_plain_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib's STIX has mathematical letters that DejaVu Sans lacks."""
    from matplotlib import get_data_path

    stix = f"{get_data_path()}/fonts/ttf/STIXGeneral.ttf"
    char = next(chr(code) for code in sorted(labels._shapes(stix)) if code not in labels._shapes(labels.plain_font()))
    monkeypatch.setattr(labels, "_other_fonts", lambda: (f"{get_data_path()}/no such font.ttf", stix))
    font_of.cache_clear()
    try:
        assert font_of(char) == stix and drawable(f"a{char}") == unicodedata.normalize("NFC", f"a{char}")
        alone = ImageFont.truetype(stix, SIZE).getlength(char)
        assert length(f"a{char}a", SIZE) == pytest.approx(2 * length("a", SIZE) + alone)
    finally:
        font_of.cache_clear()


def test_lines_are_never_wider_than_asked() -> None:
    chance = random.Random(3)
    for text in some_texts(150):
        width, most = chance.randrange(40, 300), chance.randrange(1, 5)
        found = lines(drawable(text), SIZE, width, most)
        assert 1 <= len(found) <= most
        assert all(length(line, SIZE) <= width for line in found), (text, width, found)


def test_no_word_is_lost_where_there_is_room() -> None:
    text = "my_lora_of_an_old_style_v2 by the sea, in the evening light"
    found = lines(text, SIZE, 120, 20)
    assert "".join(found).replace(" ", "") == text.replace(" ", "") and ELLIPSIS not in "".join(found)
    assert found[0] == "my_lora_of_" and len(found) > 3
    assert lines("4 steps\nseed 0", SIZE, 500, 3) == ["4 steps", "seed 0"]


def test_what_does_not_fit_ends_in_an_ellipsis() -> None:
    (line,) = lines("x" * 200, SIZE, 100, 1)
    assert line.endswith(ELLIPSIS) and 80 < length(line, SIZE) <= 100
    found = lines("one two three four five six seven", SIZE, 70, 2)
    assert len(found) == 2 and found[0] == "one two" and found[1].endswith(ELLIPSIS)


def test_lines_are_drawn_where_they_are_asked_for() -> None:
    page = Image.new("RGB", (200, 100), "white")
    draw_lines(ImageDraw.Draw(page), (50, 30), ["Hxg", "Hxg"], SIZE)
    dark = np.asarray(page.convert("L")) < 128
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    assert 30 <= rows[0] < 40 and rows[-1] < 30 + labels.height(2, SIZE) + 2
    assert 50 <= columns[0] < 55 and columns[-1] < 50 + length("Hxg", SIZE) + 1
