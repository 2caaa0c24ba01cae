"""The sheet of previews: what stands where, what belongs together, and files that are none of its own."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from PIL import Image

from fluxduel.training.evidence import preview_sheet
from fluxduel.training.evidence.preview_sheet import MOST_COLUMNS, PREVIEWS, SHEET, Row, previews, save_preview
from fluxduel.training.evidence.sheet import Group, Sheet

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


def boxes(page: Image.Image, colours: set[tuple]) -> list[list[tuple]]:
    """Fields of these colours on a sheet, row by row from left to right, each by its colour."""
    pixels = page.convert("RGB").load()
    found: list[tuple[int, int, tuple]] = []
    for y in range(page.height):
        for x in range(page.width):
            here = pixels[x, y]
            # A field's upper left corner.
            if here in colours and pixels[x - 1, y] != here and pixels[x, y - 1] != here:
                found.append((y, x, here))
    return [[each[2] for each in row] for _, row in itertools.groupby(found, key=lambda each: each[0])]


RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0)
ALL = {RED, GREEN, BLUE, YELLOW}


def test_steps_go_across_and_prompts_down(tmp_path: Path) -> None:
    # Not in their order: a run that goes on from an earlier checkpoint comes back to a step.
    for step, colours in ((100, ("blue", "yellow")), (0, ("red", "green")), (100, ("blue", "yellow"))):
        path = save_preview(strip(*colours), ROWS, tmp_path, step)
        assert path == tmp_path / PREVIEWS / f"step-{step:06}.png"
    page = Image.open(tmp_path / PREVIEWS / SHEET)
    assert boxes(page, ALL) == [[RED, BLUE], [GREEN, YELLOW]]
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
    assert boxes(Image.open(tmp_path / PREVIEWS / SHEET), ALL) == [[RED, BLUE], [GREEN, BLUE]]


def test_a_file_written_anew_has_another_version(tmp_path: Path) -> None:
    later(save_preview(strip("red", "green"), ROWS, tmp_path, 5), 0)
    (before,), _ = previews(tmp_path)
    later(save_preview(strip("blue", "green"), ROWS, tmp_path, 5), 9)
    (after,), _ = previews(tmp_path)
    assert before.version != after.version and before.path == after.path


def test_the_end_shows_which_state_is_delivered_until_the_run_goes_on(tmp_path: Path) -> None:
    """Stage 2 delivers its best state, which is none of its last step's; that is then no picture of the way."""

    def listed() -> list[tuple[int, str]]:
        return [(column.step, column.label) for column in previews(tmp_path)[0]]

    save_preview(strip("red", "green"), ROWS, tmp_path, 0)
    save_preview(strip("red", "green"), ROWS, tmp_path, 10)
    save_preview(strip("blue", "yellow"), ROWS, tmp_path, 20, delivered=10)
    assert listed() == [(0, "start"), (10, "update 10"), (20, "delivered: update 10")]
    save_preview(strip("red", "green"), ROWS, tmp_path, 30, delivered=30)
    assert listed() == [(0, "start"), (10, "update 10"), (30, "delivered: update 30")]
    assert boxes(Image.open(tmp_path / PREVIEWS / SHEET), ALL) == [[RED] * 3, [GREEN] * 3]
    save_preview(strip("red", "green"), ROWS, tmp_path, 40, delivered=0)
    assert listed() == [(0, "start"), (10, "update 10"), (30, "update 30"), (40, "delivered: start")]


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
        save_preview(strip("green", "red" if step in (0, 290) else "blue"), ROWS, tmp_path, step)
    # In two bands: beside each other their labels would be too small to read.
    half = MOST_COLUMNS // 2
    found = boxes(Image.open(tmp_path / PREVIEWS / SHEET), ALL)
    first, *between, last = [colour for row in found[1::2] for colour in row]
    assert [len(row) for row in found] == [half] * 4 and found[0] == found[2] == [GREEN] * half
    assert (first, last) == (RED, RED) and set(between) == {BLUE}


@pytest.mark.parametrize("size", [(2048, 1024), (512, 1536)])
def test_large_pictures_are_made_small_in_their_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save_preview(strip("red", "blue", size=size), ROWS, tmp_path, 0)
    page = Image.open(tmp_path / PREVIEWS / SHEET).convert("RGB")
    counted = {colour: count for count, colour in page.getcolors(1 << 24)}
    for colour in (RED, BLUE):
        assert counted[colour] == pytest.approx(256**2 / max(size) ** 2 * size[0] * size[1], rel=0.02)
    assert Image.open(path).size == (2 * size[0], size[1])


def test_what_all_rows_have_in_common_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple] = []
    original = preview_sheet.draw_sheet

    def told(rows: list[str], groups: list[Group], title: str) -> Sheet:
        drawn.append((rows, [group.columns for group in groups], title))
        return original(rows, groups, title)

    monkeypatch.setattr(preview_sheet, "draw_sheet", told)
    save_preview(strip("red", "blue"), ROWS, tmp_path, 0)
    save_preview(strip("red", "blue"), ROWS, tmp_path, 9, delivered=4)
    other = (Row("a cat", "4 steps, euler, seed 0"), Row("", "8 steps, heun, seed 0"))
    later(save_preview(strip("red", "blue"), other, tmp_path, 50), 9)
    assert drawn == [
        (["a cat", "a dog"], [("start",)], "4 steps, euler, seed 0"),
        (["a cat", "a dog"], [("start", "delivered: update 4")], "4 steps, euler, seed 0"),
        (["a cat\n4 steps, euler, seed 0", "(no prompt)\n8 steps, heun, seed 0"], [("update 50",)], ""),
    ]
