"""Text files in any encoding: read as what they say, or refused by name."""

from __future__ import annotations

import codecs
import random
import unicodedata
from pathlib import Path

import pytest

from fluxduel.tests.unit.data.odd_pictures import noise
from fluxduel.training.data.captions import decoded
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.images import load_folder

CAPTIONS = ("a red cat", "Füße im Schnee, 8 °C", "кошка на диване", "一只猫，坐在沙发上。 a", "a cat 🐈 on it", "")
MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-8": codecs.BOM_UTF8,
}


@pytest.mark.parametrize("caption", CAPTIONS)
@pytest.mark.parametrize("encoding", MARKS)
def test_text_with_a_mark(caption: str, encoding: str) -> None:
    assert decoded(MARKS[encoding] + caption.encode(encoding)) == caption
    assert decoded(MARKS[encoding] + f"{caption}\r\n".encode(encoding)).strip() == caption


@pytest.mark.parametrize("caption", ["a red cat", "Füße im Schnee, 8 °C", "кошка на диване", "a cat 🐈 on a sofa"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_text_without_a_mark(caption: str, encoding: str) -> None:
    assert decoded(caption.encode(encoding)) == caption


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("süß".encode("latin-1"), "is not UTF-8 text .* at byte 1"),
        ("кошка".encode("cp1251"), "is not UTF-8 text"),
        ("猫".encode("shift-jis"), "is not UTF-8 text"),
        (b"a cat\0", r"U\+0000 at place 5"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not UTF-8 text"),
        (b"PK\3\4 zip", r"U\+0003 at place 2"),
        (codecs.BOM_UTF16_LE + b"a\0b", "is not UTF-16 text"),
        (codecs.BOM_UTF16_LE + b"\0\xd8a\0", "is not UTF-16 text"),
        ("a".encode("utf-32-le") * 2, r"U\+0000"),
    ],
)
def test_what_is_no_text(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decoded(content)


def folder_of(tmp_path: Path, contents: list[bytes]) -> Path:
    tmp_path.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        noise(8, 8).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_bytes(content)
    return tmp_path


def load(folder: Path, trigger_word: str = ""):
    return load_folder(folder, caption_rule="text file", trigger_word=trigger_word, mask_rule="none")[0]


def test_all_captions_that_are_no_text_are_named_at_once(tmp_path: Path) -> None:
    folder_of(tmp_path, [b"a cat", "süß".encode("latin-1"), "a dog".encode("utf-16-le"), b"\0", b"{trigger}"])
    with pytest.raises(ImageFolderError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert all(f"'{name}'" in message for name in ("1.txt", "3.txt", "4.png"))
    assert "Save it again as UTF-8" in message and "'2.txt'" not in message and "'0.txt'" not in message


def test_utf_16_is_trained_on_as_its_letters(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a red cat".encode("utf-16-le"), "a red cat".encode("utf-16-be")])
    assert [image.caption for image in load(tmp_path)] == ["a red cat"] * 2


def test_captions_are_in_composed_letters(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Füße im Café")
    folder_of(tmp_path, [apart.encode()])
    assert [image.caption for image in load(tmp_path)] == ["Füße im Café"]
    assert [image.caption for image in load(tmp_path, unicodedata.normalize("NFD", "Café"))] == ["Füße im Café"]
    (tmp_path / "0.png").rename(tmp_path / f"{apart}.png")
    images, _ = load_folder(tmp_path, caption_rule="file name", trigger_word="", mask_rule="none")
    assert images[0].caption == "Füße im Café"


def test_five_hundred_captions_of_random_bytes(tmp_path: Path) -> None:
    """Each is a text without control characters, or named; all of a folder at once."""
    rng = random.Random(0)
    kinds = (
        lambda: rng.randbytes(rng.randrange(40)),
        lambda: "".join(chr(rng.choice([rng.randrange(1, 0x250), rng.randrange(0x3000)])) for _ in range(9)).encode(
            rng.choice(["utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32"]), "ignore"
        ),
        lambda: rng.choice([*MARKS.values()]) + rng.randbytes(rng.randrange(30)),
        lambda: bytes(rng.randrange(128) for _ in range(rng.randrange(30))),
    )
    named_in_all = 0
    for start in range(0, 500, 50):
        contents = [rng.choice(kinds)() for _ in range(50)]
        folder = folder_of(tmp_path / str(start), contents)
        good = {}
        for number, content in enumerate(contents):
            try:
                good[number] = decoded(content)
            except ValueError:
                continue
            assert not any(ord(letter) < 32 and not letter.isspace() for letter in good[number])
        with pytest.raises(ImageFolderError) as caught:
            load(folder)
        named = {number for number in range(50) if f"'{number}.txt'" in str(caught.value)}
        assert named == set(range(50)) - set(good)
        named_in_all += len(named)
    assert 100 < named_in_all < 450
