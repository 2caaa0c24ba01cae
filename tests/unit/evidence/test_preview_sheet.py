"""The sheet of previews: what stands where, what belongs together, and files that are none of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from fluxduel.training.evidence.lettering import UNKNOWN, drawable, font, lines
from fluxduel.training.evidence.preview_sheet import (
    MOST_COLUMNS,
    PREVIEWS,
    SHEET,
    Row,
    previews,
    save_preview,
    sheet,
)

ROWS = (Row("a cat", "4 steps, euler, seed 0"), Row("a dog", "4 steps, euler, seed 0"))


def strip(*colours: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Pictures of one colour each, side by side."""
    whole = Image.new("RGB", (size[0] * len(colours), size[1]))
    for place, colour in enumerate(colours):
        whole.paste(colour, (place * size[0], 0, (place + 1) * size[0], size[1]))
    return whole


def later(path: Path, seconds: int) -> None:
    """As if the file had been written some seconds later: a coarse clock would not tell."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def centres(page: Image.Image, columns: int, rows: int, size: tuple[int, int] = (64, 48)) -> list[list[tuple]]:
    """The colour in the middle of each picture, row by row, counted from the sheet's right lower corner."""
    gap, margin = 6, 16
    return [
        [
            page.getpixel(
                (
                    page.width - margin - (columns - column) * (size[0] + gap) + gap + size[0] // 2,
                    page.height - margin - (rows - row) * (size[1] + gap) + gap + size[1] // 2,
                )
            )
            for column in range(columns)
        ]
        for row in range(rows)
    ]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def test_steps_go_across_and_prompts_down(tmp_path: Path) -> None:
    # Not in their order: a run that goes on from an earlier checkpoint comes back to a step.
    for step, colours in ((100, ("blue", "white")), (0, ("red", "green")), (100, ("blue", "white"))):
        path = save_preview(strip(*colours), ROWS, tmp_path, step)
        assert path == tmp_path / PREVIEWS / f"step-{step:06}.png"
    page = Image.open(tmp_path / PREVIEWS / SHEET)
    assert centres(page, 2, 2) == [[RED, BLUE], [GREEN, WHITE]]
    assert [path.name for path in sorted((tmp_path / PREVIEWS).iterdir())] == [
        SHEET, "step-000000.png", "step-000100.png"
    ]  # fmt: skip


def test_a_preview_says_what_it_shows(tmp_path: Path) -> None:
    rows = (Row("猫, \N{SNOWMAN}", "1 step, euler, seed 0"), Row("", "1 step, euler, seed 0"))
    save_preview(strip("red", "green"), rows, tmp_path, 7)
    columns, said = previews(tmp_path)
    assert said == rows and [column.step for column in columns] == [7]


def test_only_what_shows_the_same_as_the_newest_belongs_together(tmp_path: Path) -> None:
    for seconds, (step, rows) in enumerate(((0, ROWS), (10, ROWS), (20, ROWS[:1]), (30, ROWS))):
        picture = strip("red") if len(rows) == 1 else strip("red", "green")
        later(save_preview(picture, rows, tmp_path, step), seconds)
    assert [column.step for column in previews(tmp_path)[0]] == [0, 10, 30]
    assert previews(tmp_path, last=20)[1] == ROWS[:1] and [c.step for c in previews(tmp_path, last=20)[0]] == [20]
    assert previews(tmp_path, last=19)[1] == ROWS
    # Nothing is lost of the others.
    assert (tmp_path / PREVIEWS / "step-000020.png").is_file()


def test_columns_after_the_step_that_is_drawn_are_not_on_the_sheet(tmp_path: Path) -> None:
    for step in (0, 10, 20):
        save_preview(strip("red", "green"), ROWS, tmp_path, step)
    save_preview(strip("blue", "blue"), ROWS, tmp_path, 10)
    assert centres(Image.open(tmp_path / PREVIEWS / SHEET), 2, 2) == [[RED, BLUE], [GREEN, BLUE]]


def test_a_file_written_anew_has_another_version(tmp_path: Path) -> None:
    later(save_preview(strip("red", "green"), ROWS, tmp_path, 5), 0)
    (before,), _ = previews(tmp_path)
    later(save_preview(strip("blue", "green"), ROWS, tmp_path, 5), 9)
    (after,), _ = previews(tmp_path)
    assert before.version != after.version and before.path == after.path


def test_files_of_others_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / PREVIEWS
    assert previews(tmp_path) == ([], ())
    folder.mkdir()
    strip("red").save(folder / "step-000001.png")  # an earlier version's: it does not say what it shows
    (folder / "step-000002.png").write_bytes(b"no picture")
    (folder / "step-3.png").write_bytes(b"")
    (folder / "step-000004.png").mkdir()
    (folder / "notes.txt").write_text("mine")
    assert previews(tmp_path) == ([], ())
    path = save_preview(strip("red", "green"), ROWS, tmp_path, 5)
    whole = path.read_bytes()
    (folder / "step-000006.png").write_bytes(whole[: len(whole) // 8])
    assert [column.step for column in previews(tmp_path)[0]] == [5]
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_long_run_shows_an_even_choice_of_its_steps(tmp_path: Path) -> None:
    for step in range(0, 30 * 10, 10):
        save_preview(strip("white", "red" if step in (0, 290) else "blue"), ROWS, tmp_path, step)
    second = centres(Image.open(tmp_path / PREVIEWS / SHEET), MOST_COLUMNS, 2)[1]
    assert second == [RED, *[BLUE] * (MOST_COLUMNS - 2), RED]


@pytest.mark.parametrize("size", [(2048, 1024), (512, 1536), (8, 8)])
def test_large_pictures_are_made_small_in_their_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    save_preview(strip("red", "blue", size=size), ROWS, tmp_path, 0)
    scale = min(1, 256 / max(size))
    small = round(size[0] * scale), round(size[1] * scale)
    page = Image.open(tmp_path / PREVIEWS / SHEET)
    assert centres(page, 1, 2, small) == [[RED], [BLUE]]


def test_the_sheet_has_words_beside_and_above_the_pictures(tmp_path: Path) -> None:
    for step in (0, 100):
        save_preview(strip("white", "white", size=(256, 256)), ROWS, tmp_path, step)
    page = sheet(*previews(tmp_path)).convert("L")
    left = page.width - 16 - 2 * (256 + 6) + 6
    head, labels = page.crop((left, 0, page.width, 36)), page.crop((0, 36, left - 6, page.height))
    assert min(head.getextrema()) < 60 and min(labels.getextrema()) < 60
    assert min(labels.crop((0, 0, labels.width, 256)).getextrema()) < 60


# Words


def test_letters_that_the_font_has_not_are_marked_once_a_run() -> None:
    assert drawable("Привет, ναι, café…") == "Привет, ναι, café…"
    assert drawable("a 猫猫 here\tnow") == f"a {UNKNOWN} here now"
    assert drawable("") == ""


def test_lines_fit_and_end_with_an_ellipsis_where_there_are_more() -> None:
    text = "an alarm clock in the style of a children's book with " + "o" * 60
    broken = lines(text, 15, 120, 9)
    assert all(font(15).getlength(line) <= 120 for line in broken) and len(broken) > 4
    assert "".join(broken).replace(" ", "") == text.replace(" ", "")
    short = lines(text, 15, 120, 2)
    assert len(short) == 2 and short[0] == broken[0] and short[1].endswith("…")
    assert all(font(15).getlength(line) <= 120 for line in short)
    assert lines("", 15, 120, 2) == []
