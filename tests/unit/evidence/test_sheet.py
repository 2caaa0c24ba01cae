"""The sheet of pictures: each where its row and column meet, whole, with labels that can be read."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image

from fluxduel.training.evidence import labels
from fluxduel.training.evidence.sheet import (
    MOST_COLUMNS,
    MOST_PIXELS,
    NOTE,
    SHEET_WIDTH_IN_LABELS,
    Group,
    draw_sheet,
)


def colour(number: int) -> tuple[int, int, int]:
    """A colour of its own, none of them grey."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.618 % 1, 1, 1 - 0.01 * number))


def group(rows: int, columns: int, first: int = 0, size: tuple[int, int] = (64, 64), prompt: str = "a cat") -> Group:
    cells = tuple(
        tuple(Image.new("RGB", size, colour(first + row * columns + column)) for column in range(columns))
        for row in range(rows)
    )
    return Group(prompt=prompt, columns=tuple(f"{2**c} steps" for c in range(columns)), cells=cells)


def box(picture: Image.Image, rgb: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what has a colour. All of it is to be filled."""
    found = (np.asarray(picture) == rgb).all(-1)
    assert found.any(), rgb
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    assert found[top:bottom, left:right].all()
    return left, top, right, bottom


def test_each_picture_stands_where_its_row_and_column_meet() -> None:
    sheet = draw_sheet(["base", "stage 1", "stage 2"], [group(3, 2)]).picture
    boxes = [[box(sheet, colour(row * 2 + column)) for column in range(2)] for row in range(3)]
    for row in boxes:
        assert row[0][1] == row[1][1] and row[0][2] < row[1][0]
    for column in range(2):
        assert [each[column][0] for each in boxes] == [boxes[0][column][0]] * 3
        assert boxes[0][column][3] < boxes[1][column][1] < boxes[2][column][1]
    # Small pictures are enlarged by a whole number.
    assert all(right - left == 192 and bottom - top == 192 for row in boxes for left, top, right, bottom in row)


def test_groups_stand_beside_each_other_while_there_is_room_and_then_below() -> None:
    sheet = draw_sheet(["base"], [group(1, 2, 2 * number) for number in range(4)]).picture
    firsts = [box(sheet, colour(2 * number)) for number in range(4)]
    assert firsts[0][1] == firsts[1][1] < firsts[2][1] == firsts[3][1]
    assert firsts[0][0] == firsts[2][0] < firsts[1][0] == firsts[3][0]
    # More room between prompts than between the pictures of one.
    inside = box(sheet, colour(1))[0] - firsts[0][2]
    assert firsts[1][0] - box(sheet, colour(1))[2] > 2 * inside


@pytest.mark.parametrize("columns", [7, 13])
def test_a_group_that_is_too_wide_goes_on_below(columns: int) -> None:
    sheet = draw_sheet(["base", "mine"], [group(2, columns)]).picture
    boxes = [box(sheet, colour(number)) for number in range(columns)]
    assert len({top for _, top, _, _ in boxes}) == -(-columns // MOST_COLUMNS)
    assert sheet.width < (MOST_COLUMNS + 2.5) * 192


def test_labels_can_be_read_where_the_sheet_is_shown_small() -> None:
    """A capital letter has 6 pixels or more where the host shows the sheet 500 pixels wide."""
    for groups in ([group(3, 6, size=(1024, 1024))], [group(3, 2, size=(512, 768))] * 5, [group(3, 1)]):
        sheet = draw_sheet(["base", "stage 1", "H"], groups, "euler").picture
        ink = (np.asarray(sheet)[:, : sheet.width // 60 + 30] < 100).all(-1)
        rows = np.flatnonzero(ink.any(1))
        letters = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        tallest = max(len(letter) for letter in letters)
        assert tallest * 500 / sheet.width >= 6
        assert sheet.width / SHEET_WIDTH_IN_LABELS < 2.5 * tallest


def test_a_picture_of_other_proportions_is_shown_whole() -> None:
    wide = Image.new("RGB", (90, 30), "red")
    real = Group(prompt="", columns=("",), cells=((Image.new("RGB", (64, 64), "blue"),), (wide,)))
    sheet = draw_sheet(["base", "real"], [real]).picture
    left, top, right, bottom = box(sheet, (255, 0, 0))
    assert (right - left, bottom - top) == (192, 64)
    above = box(sheet, (0, 0, 255))
    assert above[0] == left and abs((top + bottom) / 2 - (above[3] + 192 / 2)) < 8


def test_a_cell_may_be_empty() -> None:
    cells = ((Image.new("RGB", (64, 64), "blue"), Image.new("RGB", (64, 64), "lime")), (None, None))
    sheet = draw_sheet(["base", "real"], [Group(prompt="a", columns=("x", "y"), cells=cells)]).picture
    bottom = box(sheet, (0, 0, 255))[3]
    assert (np.asarray(sheet)[bottom + 10 : bottom + 180, 200:] == 255).all()


def test_a_large_sheet_is_made_smaller() -> None:
    groups = [group(6, 12, size=(1024, 1024), prompt=f"prompt {number}") for number in range(4)]
    sheet = draw_sheet([f"LoRA {number}" for number in range(6)], groups).picture
    assert 0.6 * MOST_PIXELS < sheet.width * sheet.height < 1.5 * MOST_PIXELS


def test_long_words_stay_in_their_place() -> None:
    """However long they are, no label runs into pictures or over the sheet's edge."""
    long = "a_very_long_name_of_a_file_" * 9
    plain = draw_sheet(["base", "mine"], [group(2, 3)], "title").picture
    cells = group(2, 3).cells
    sheet = draw_sheet([long, long], [Group(prompt=long * 3, columns=(long,) * 3, cells=cells)], long * 3).picture
    for number in range(6):
        left, top, right, bottom = box(sheet, colour(number))
        assert (right - left, bottom - top) == (192, 192)
    # Names take their share of the width, and no more.
    assert sheet.width < plain.width + 0.25 * plain.width
    assert (np.asarray(sheet)[:, -3:] == 255).all()


def test_what_no_font_can_draw_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_other_fonts", lambda: ())
    labels.font_of.cache_clear()
    try:
        assert draw_sheet(["base"], [group(1, 1, prompt="кошка")]).note == ""
        assert draw_sheet(["base"], [group(1, 1, prompt="猫")]).note == NOTE
        assert draw_sheet(["猫"], [group(1, 1)]).note == NOTE
    finally:
        labels.font_of.cache_clear()


def test_a_sheet_without_pictures_or_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture"):
        draw_sheet(["base"], [])
    with pytest.raises(ValueError, match="no picture"):
        draw_sheet(["base"], [Group(prompt="", columns=("",), cells=((None,),))])
    with pytest.raises(ValueError, match="'a cat': a group needs one row of cells for each of 2 names"):
        draw_sheet(["base", "mine"], [group(1, 1)])
