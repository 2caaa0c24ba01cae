"""Why a picture cannot be read, in our own words: those of Pillow's readers are of their insides."""

from __future__ import annotations

import os
import random
import re
import warnings
from pathlib import Path

import pytest

from fluxduel.tests.unit.data.odd_pictures import damaged, noise, written_by_pillow
from fluxduel.training.data import folder_files
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.images import folder_fingerprint, load_folder
from fluxduel.training.data.picture_file import picture_suffixes, read_picture

WORDS = (
    "it is cut short: a part of it is missing",
    "its content is damaged, or of a variety of its format that Pillow does not read",
    "its content is no picture of a kind that Pillow reads here",
    r"it has (\d+ x \d+|more) pixels, and 268 million are the most",
    "its values need more than 16 bits; save it with 8 or 16 bits",
    "it is empty",
    r"it holds (1 byte|[23] bytes) only",
)


def why(path: Path) -> str:
    """What is said of the picture at ``path``; empty where it can be read."""
    try:
        read_picture(path, path.name)
    except ImageFolderError as error:
        start, end = f"The picture '{path.name}' in {path.parent} cannot be read: ", ". Repair, replace or remove it."
        assert str(error).startswith(start) and str(error).endswith(end), error
        return str(error).removeprefix(start).removesuffix(end)
    return ""


def check_words(folder: Path, count: int) -> set[str]:
    """The kinds of words that were said of so many damaged pictures of all formats, seeded."""
    rng, sound = random.Random(count), sorted(written_by_pillow().items())
    said = set()
    for _ in range(count):
        suffix, content = rng.choice(sound)
        path = folder / f"a{suffix}"
        path.write_bytes(damaged(rng, content))
        with warnings.catch_warnings():
            # Printed by default, between the lines of a run.
            warnings.simplefilter("error")
            words = why(path)
        if words:
            said.add(next((known for known in WORDS if re.fullmatch(known, words)), words))
    return said


def test_damage_is_told_in_our_own_words(tmp_path: Path) -> None:
    said = check_words(tmp_path, 500)
    assert said <= set(WORDS) and len(said) >= 3, said - set(WORDS)


@pytest.mark.slow
def test_the_damage_of_four_thousand_pictures_is_told_in_our_own_words(tmp_path: Path) -> None:
    said = check_words(tmp_path, 4000)
    assert said <= set(WORDS), said - set(WORDS)


def test_a_picture_that_is_cut_short_is_said_to_be(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".tif", ".gif", ".bmp"):
        noise(32, 32).save(tmp_path / f"a{suffix}")
        content = (tmp_path / f"a{suffix}").read_bytes()
        (tmp_path / f"a{suffix}").write_bytes(content[: len(content) * 2 // 3])
        assert why(tmp_path / f"a{suffix}") == WORDS[0], suffix


@pytest.mark.parametrize("suffix", sorted(picture_suffixes()))
def test_empty_and_short_files_of_every_kind(tmp_path: Path, suffix: str) -> None:
    """A download that never began, or was cut off at once: of too few bytes their number is said."""
    path, rng = tmp_path / f"a{suffix}", random.Random(suffix)
    sound = written_by_pillow().get(suffix, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    for length in range(16):
        for content in (sound[:length], bytes(length), rng.randbytes(length)):
            path.write_bytes(content)
            words = why(path)
            if length < 4:
                plural = "" if length == 1 else "s"
                assert words == (f"it holds {length} byte{plural} only" if length else "it is empty")
            else:
                assert any(re.fullmatch(known, words) for known in WORDS[:3]), (content, words)


@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a.mask.png", "masks/a.png", "notes.md"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_left_out_by_name(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe without a writer would be waited for without end, and a device may never end."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders on this system")
    noise().save(tmp_path / "good.png")
    (tmp_path / "masks").mkdir()
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    images, report = load_folder(tmp_path, caption_rule="file name", trigger_word="", mask_rule="none")
    assert [image.name for image in images] == ["good.png"]
    assert f"Warning: {folder_files.NO_FILES}: 1 ('{name}')." in report
    folder_fingerprint(tmp_path)
