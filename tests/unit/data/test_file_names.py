"""Names and files that a page may put into a training folder."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from fluxduel.tests.unit.data.odd_pictures import noise
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.file_names import MOST_CAPTION_BYTES, check_training_file, plain_name

SOUND = ["a.png", "10_my cat/a b (1).txt", "Käse/猫.jpg", "a/b/c/d/e.png", "masks/a.png", "-x.png", "a..b.png"]
UNSOUND = [
    "", "/", "/a.png", "a/", "a//b.png", ".", "..", "../a.png", "a/../b.png", "a/./b.png", ".hidden", "a/.git/b.png",
    "C:/a.png", "C:a.png", "a\\b.png", "..\\a.png", "a\0.png", "a\n.png", "a.png:stream", "con", "CON.png", "lpt1.txt",
    "a.", "a ", " a", "a /b.png", "a" * 130, "a/b/c/d/e/f.png", "a\u202egnp.exe", "a\ud800.png", "a?.png", "*", "<a>",
]  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_plain_names_are_taken(name: str) -> None:
    assert plain_name(name) == name


@pytest.mark.parametrize("name", UNSOUND)
def test_others_are_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match=r"Rename it|shorter path"):
        plain_name(name)


def test_letters_and_accents_that_came_apart_are_composed() -> None:
    assert plain_name("Ka\u0308se.png") == "K\u00e4se.png"


def test_no_made_up_name_leaves_its_folder(tmp_path: Path) -> None:
    rng = random.Random(12)
    parts = ["..", ".", "", "a", "b.png", "/", "\\", "%2e%2e", "~", "\0", " ", "con", "é", "\ud83d", "...", "a" * 9]
    taken = 0
    for _ in range(5000):
        name = "".join(rng.choice([*parts, "/", "/"]) for _ in range(rng.randrange(1, 8)))
        try:
            plain = plain_name(name)
        except ValueError:
            continue
        taken += 1
        assert (tmp_path / plain).resolve().is_relative_to(tmp_path.resolve()) and plain != "."
    assert taken > 50


def test_pictures_and_captions_by_their_content() -> None:
    file = io.BytesIO()
    noise().save(file, "PNG")
    check_training_file("a.png", file.getvalue())
    # What a file is shows in its content: a PNG that is called .jpg is read, too.
    check_training_file("a.jpg", file.getvalue())
    check_training_file("a.txt", "Käse".encode())
    check_training_file("a.caption", "Käse".encode("utf-16"))
    for name, content in (
        ("a.png", b"words"),
        ("a.txt", b"caf\xe9"),
        ("a.txt", b"a" * (MOST_CAPTION_BYTES + 1)),
        ("a.py", b"pass"),
        ("a.safetensors", b""),
        ("a", b""),
        ("a.svg", b"<svg/>"),
        ("a.html", b"<html/>"),
    ):
        with pytest.raises(ImageFolderError, match=name):
            check_training_file(name, content)
