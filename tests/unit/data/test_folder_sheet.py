"""A training folder as the page shows it: the same pictures, captions and faults that training would find."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxduel.tests.unit.data.odd_pictures import noise
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.folder_sheet import (
    NO_CAPTION,
    NO_MASK,
    NOT_USED,
    ODD_NAME,
    OUTSIDE,
    Entry,
    FolderSheet,
    folder_sheet,
)
from fluxduel.training.data.images import load_folder


def write(path: Path, caption: str | bytes | None = "words") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise().save(path)
    if caption is not None:
        content = caption.encode() if isinstance(caption, str) else caption
        path.with_suffix(".txt").write_bytes(content)
    return path


def sheet(folder: Path, **options: str) -> FolderSheet:
    rules = {"caption_rule": "text file", "trigger_word": "", "mask_rule": "none"}
    return folder_sheet(folder, **(rules | options))


def entries(folder: Path, **options: str) -> dict[str, Entry]:
    found = sheet(folder, **options)
    return {entry.name: entry for entry in found.entries(0, len(found.found.pictures))}


@pytest.mark.parametrize("rule", ["text file", "file name", "folder name", "trigger word only"])
def test_captions_are_those_that_are_trained_on(tmp_path: Path, rule: str) -> None:
    write(tmp_path / "a_b.png", "a {trigger} house\n")
    write(tmp_path / "3_cats" / "c.png", " of  ohwx\n")
    write(tmp_path / "d.png", "")
    options = {"caption_rule": rule, "trigger_word": "ohwx", "mask_rule": "none"}
    trained, _ = load_folder(tmp_path, **options)
    found = sheet(tmp_path, **options)
    shown = [entry for entry in found.entries(0, 9) for _ in range(entry.repeats)]
    assert [(entry.name, entry.caption) for entry in shown] == [(image.name, image.caption) for image in trained]
    assert found.trained == len(trained) == 5
    assert all(entry.editable == (rule == "text file") and not entry.problems for entry in shown)
    texts = {entry.name: entry.text for entry in shown}
    assert texts["a_b.png"] == ("a {trigger} house\n" if rule == "text file" else None)


def test_what_training_would_refuse_is_named_at_its_picture(tmp_path: Path) -> None:
    write(tmp_path / "lone.png", None)
    write(tmp_path / "trigger.png", "a {trigger}")
    write(tmp_path / "latin.png", "Caf\xe9".encode("latin-1"))
    write(tmp_path / "0_none" / "unused.png")
    write(tmp_path / "sound.png")
    found = entries(tmp_path)
    assert found["lone.png"].problems == (NO_CAPTION,) and found["lone.png"].editable
    assert found["lone.png"].text is None and found["lone.png"].caption is None
    assert "trigger_word is empty" in found["trigger.png"].problems[0] and found["trigger.png"].editable
    # What cannot be read cannot be shown, and must not be written over.
    assert "UTF-8" in found["latin.png"].problems[0] and not found["latin.png"].editable
    assert found["0_none/unused.png"].problems == (NOT_USED,)
    assert not found["sound.png"].problems
    assert sheet(tmp_path).without_caption == 1
    for name in ("lone.png", "trigger.png", "latin.png"):
        with pytest.raises(ImageFolderError, match=name.removesuffix(".png")):
            load_folder(tmp_path, caption_rule="text file", trigger_word="", mask_rule="none")
        (tmp_path / name).unlink()


def test_masks_by_the_rule_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    write(tmp_path / "masks" / "a.png", None)
    with_masks = sheet(tmp_path, mask_rule="mask files")
    assert with_masks.without_mask == 1 and sheet(tmp_path).without_mask == 0
    found = entries(tmp_path, mask_rule="mask files")
    assert (found["a.png"].mask, found["b.png"].mask) == ("masks/a.png", None)
    assert found["b.png"].problems == (NO_MASK,)
    assert entries(tmp_path)["a.png"].mask is None


def test_the_version_changes_with_picture_and_mask(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    noise().save(tmp_path / "a.mask.png")
    seen = set()
    for change in (lambda: None, lambda: noise(30, 30).save(tmp_path / "a.png"),
                   lambda: noise(31, 31).save(tmp_path / "a.mask.png")):  # fmt: skip
        change()
        seen.add(entries(tmp_path, mask_rule="mask files")["a.png"].version)
    assert len(seen) == 3


def test_a_part_of_a_large_folder(tmp_path: Path) -> None:
    for number in range(7):
        write(tmp_path / f"{number}.png")
    found = sheet(tmp_path)
    assert [entry.name for entry in found.entries(5, 50)] == ["5.png", "6.png"]
    assert found.entries(7, 50) == []


def test_links_that_lead_out_are_named_and_neither_shown_nor_written(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    write(outside / "secret.png", "secret words")
    write(inside / "own.png")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "link.txt").write_text("mine")
    write(inside / "words.png", None)
    (inside / "words.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)
    found = entries(inside)
    assert found["own.png"].shown and found["own.png"].editable
    assert not found["link.png"].shown and OUTSIDE in found["link.png"].problems
    assert found["words.png"].text is None and found["words.png"].caption is None
    assert found["words.png"].shown and not found["words.png"].editable
    assert not found["folder/secret.png"].shown and not found["folder/secret.png"].editable
    assert "secret words" not in str(found)


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    odd = bytes(tmp_path) + b"/odd\xff.png"
    with open(odd, "wb") as file:
        noise().save(file, "PNG")
    (entry,) = [entry for name, entry in entries(tmp_path, caption_rule="file name").items() if name != "a.png"]
    assert ODD_NAME in entry.problems and not entry.shown


def test_two_captions_for_one_picture_are_named(tmp_path: Path) -> None:
    write(tmp_path / "cat.png", None)
    for name in ("CAT.txt", "Cat.txt"):
        (tmp_path / name).write_text(name)
    assert "more than one caption file" in sheet(tmp_path).problems[0]


def test_an_unknown_rule_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="caption_rule must be one of"):
        sheet(tmp_path, caption_rule="guess")
    with pytest.raises(ImageFolderError, match="holds no picture"):
        sheet(tmp_path)
    write(tmp_path / "a.png")
    assert "needs a trigger word" in sheet(tmp_path, caption_rule="trigger word only").problems[0]
