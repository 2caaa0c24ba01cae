"""Folders of real PNG, JPEG, WebP and BMP files, captions and masks."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxduel.training.data import images as images_module
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.images import ImageFolderError, folder_fingerprint, list_images, load_folder

RED, BLUE = (255, 0, 0), (0, 0, 255)


def write(path: Path, colour=RED, size: tuple[int, int] = (24, 16), mode: str = "RGB", **options) -> Path:
    """A picture of ``size`` (width, height) in one colour, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def caption(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def load(folder: Path, caption_rule: str = "file name", trigger_word: str = "", mask_rule: str = "none"):
    return load_folder(folder, caption_rule=caption_rule, trigger_word=trigger_word, mask_rule=mask_rule)


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]


# Listing


def test_pictures_are_listed_sorted_and_recursively(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "d.bmp", "e.jpeg", "sub/deep/f.png"):
        write(tmp_path / name)
    caption(tmp_path / "a.txt", "a")
    caption(tmp_path / "notes.md", "no picture")
    for name in (".hidden.png", ".cache/x.png", "masks/a.png", "sub/masks/f.png", "b.mask.png"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a.jpg", "b.PNG", "c.webp", "d.bmp", "e.jpeg", "sub/deep/f.png"]


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert names(tmp_path / "set") == ["linked/a.png"]


def test_kohya_repeats(tmp_path: Path) -> None:
    write(tmp_path / "3_sks dog" / "a.png")
    write(tmp_path / "3_sks dog" / "crops" / "b.png")
    write(tmp_path / "3_sks dog" / "2_inner" / "c.png")
    write(tmp_path / "0_off" / "d.png")
    write(tmp_path / "plain" / "e.png")
    assert names(tmp_path) == [
        *["3_sks dog/2_inner/c.png"] * 2,
        *["3_sks dog/a.png"] * 3,
        *["3_sks dog/crops/b.png"] * 3,
        "plain/e.png",
    ]
    images, report = load(tmp_path)
    assert [image.name for image in images] == names(tmp_path)
    assert images[2] is images[3] is images[4]
    assert "Repeats (pictures x repeats): 0_off: 1 x 0, 3_sks dog: 1 x 3, 3_sks dog/2_inner: 1 x 2" in report
    assert "That makes 9 training pictures." in report
    assert "Pictures: 4." in report


def test_the_chosen_folders_own_name_gives_no_repeats(tmp_path: Path) -> None:
    write(tmp_path / "5_dog" / "a.png")
    assert names(tmp_path / "5_dog") == ["a.png"]


# Captions


@pytest.mark.parametrize(
    ("rule", "trigger", "expected"),
    [
        ("text file", "", ["a red cat, sitting", "a blue dog"]),
        ("file name", "", ["red cat 1", "blue dog"]),
        ("folder name", "", ["animals"] * 2),
        ("trigger word only", "ohwx", ["ohwx"] * 2),
        ("text file", "ohwx", ["ohwx, a red cat, sitting", "ohwx, a blue dog"]),
        ("text file", "Blue", ["Blue, a red cat, sitting", "a blue dog"]),
        ("text file", "red cat", ["a red cat, sitting", "red cat, a blue dog"]),
        ("text file", "sit", ["sit, a red cat, sitting", "sit, a blue dog"]),
    ],
)
def test_caption_rules(tmp_path: Path, rule: str, trigger: str, expected: list[str]) -> None:
    folder = tmp_path / "animals"
    write(folder / "red_cat-1.png")
    write(folder / "blue-dog.jpg", BLUE)
    caption(folder / "red_cat-1.txt", "\ufeff a red cat,\n sitting\n")
    caption(folder / "blue-dog.caption", "a blue dog")
    by_name = {image.name: image.caption for image in load(folder, rule, trigger)[0]}
    assert [by_name["red_cat-1.png"], by_name["blue-dog.jpg"]] == expected


def test_folder_name_is_kohyas_text_of_the_innermost_such_folder(tmp_path: Path) -> None:
    write(tmp_path / "10_sks dog" / "a.png")
    write(tmp_path / "10_sks dog" / "crops" / "b.png")
    write(tmp_path / "10_sks dog" / "2_puppy" / "d.png")
    write(tmp_path / "plain" / "c.png")
    images, _ = load(tmp_path, "folder name")
    assert {image.name: image.caption for image in images} == {
        "10_sks dog/a.png": "sks dog",
        "10_sks dog/crops/b.png": "sks dog",
        "10_sks dog/2_puppy/d.png": "puppy",
        "plain/c.png": "plain",
    }
    assert {image.caption for image in load(tmp_path / "10_sks dog", "folder name")[0]} == {"sks dog", "puppy"}


@pytest.mark.parametrize("place", ["{trigger}", "[trigger]"])
def test_trigger_places(tmp_path: Path, place: str) -> None:
    write(tmp_path / "a.png")
    caption(tmp_path / "a.txt", f"a photo of {place} in {place}'s garden")
    assert load(tmp_path, "text file", r"o\1x")[0][0].caption == r"a photo of o\1x in o\1x's garden"
    with pytest.raises(ImageFolderError, match=rf"'a.png' holds {re.escape(place)}, but trigger_word is empty"):
        load(tmp_path, "text file")


def test_an_empty_caption_file_is_an_empty_caption(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    caption(tmp_path / "a.txt", " \n")
    assert load(tmp_path, "text file")[0][0].caption == ""
    assert load(tmp_path, "text file", "ohwx")[0][0].caption == "ohwx"


def test_txt_comes_before_caption_and_dots_stay_in_the_stem(tmp_path: Path) -> None:
    write(tmp_path / "v1.5.png")
    caption(tmp_path / "v1.5.caption", "from caption")
    assert load(tmp_path, "text file")[0][0].caption == "from caption"
    caption(tmp_path / "v1.5.txt", "from txt")
    assert load(tmp_path, "text file")[0][0].caption == "from txt"
    (tmp_path / "v1.5.txt").rename(tmp_path / "v1.5.TXT")
    assert load(tmp_path, "text file")[0][0].caption == "from txt"


def test_pictures_without_a_caption_file_are_listed(tmp_path: Path) -> None:
    for index in range(8):
        write(tmp_path / f"{index}.png")
    caption(tmp_path / "3.txt", "three")
    with pytest.raises(ImageFolderError) as caught:
        load(tmp_path, "text file")
    message = str(caught.value)
    assert "7 of 8 pictures" in message and str(tmp_path) in message
    assert "'0.png', '1.png', '2.png', '4.png', '5.png' and 2 more" in message
    assert "for example '0.txt'" in message and "choose another caption rule" in message
    assert "by a click on the picture in Load Dataset Images" in message


def test_a_caption_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    caption(tmp_path / "a.txt", "süß".encode("latin-1"))
    with pytest.raises(ImageFolderError, match="'a.txt' is not UTF-8 text .* at byte 1.*Save it again as UTF-8"):
        load(tmp_path, "text file")


def test_orphans_and_unused_files_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "a.mask.png")
    write(tmp_path / "masks" / "gone.png")
    caption(tmp_path / "a.txt", "a")
    caption(tmp_path / "gone.txt", "gone")
    caption(tmp_path / "sub" / "a.txt", "elsewhere")
    _, report = load(tmp_path, "text file")
    assert "Warning: caption files without a picture of their name: 2 ('gone.txt', 'sub/a.txt')." in report
    assert "Warning: mask files without a picture of their name: 1 ('masks/gone.png')." in report
    assert "Warning: mask files that are not used, because the mask rule is 'none': 1 ('a.mask.png'). To use" in report
    assert "caption files that are not used" not in report
    _, report = load(tmp_path, "file name", mask_rule="mask files")
    assert "Warning: caption files that are not used, because the caption rule is 'file name': 1 ('a.txt')." in report
    assert "mask files that are not used" not in report


# Pixels


def pixel(folder: Path, **options) -> list[float]:
    (image,), _ = load(folder, **options)
    assert image.pixels.dtype == torch.float32 and image.pixels.shape[2] == 3 and image.pixels.is_contiguous()
    return image.pixels[0, 0].tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (255, 128, 0), (1.0, 128 / 255, 0.0)),
        ("L", 128, (128 / 255,) * 3),
        ("1", 1, (1.0, 1.0, 1.0)),
        ("LA", (0, 51), (0.8, 0.8, 0.8)),
        ("RGBA", (255, 0, 0, 51), (1.0, 0.8, 0.8)),
        ("RGBA", (9, 9, 9, 0), (1.0, 1.0, 1.0)),
        ("RGBA", (255, 128, 0, 255), (1.0, 128 / 255, 0.0)),
    ],
)
def test_png_modes(tmp_path: Path, mode: str, colour, expected) -> None:
    write(tmp_path / "a.png", colour, mode=mode)
    assert pixel(tmp_path) == pytest.approx(expected, abs=1e-6)


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0] + [0] * 750)
    palette.save(tmp_path / "a.png")
    assert pixel(tmp_path) == [0.0, 1.0, 0.0]
    palette.save(tmp_path / "a.png", transparency=1)
    assert pixel(tmp_path) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [0, 300, 32768, 65535])
def test_sixteen_bit_greyscale_is_scaled_not_clipped(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((4, 6), value, np.uint16)).save(tmp_path / "a.png")
    assert pixel(tmp_path) == pytest.approx([value / 65535] * 3, abs=1e-6)


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">3H", 65535, 32896, 0) * 2
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    assert pixel(tmp_path) == pytest.approx([1.0, 0.502, 0.0], abs=0.005)


def test_jpeg_webp_bmp_and_cmyk(tmp_path: Path) -> None:
    for name, mode, colour in (
        ("a.jpg", "RGB", RED),
        ("b.webp", "RGB", RED),
        ("c.bmp", "RGB", RED),
        ("d.jpeg", "CMYK", (0, 255, 255, 0)),
    ):
        write(tmp_path / name, colour, mode=mode)
    for image in load(tmp_path)[0]:
        assert image.pixels.shape == (16, 24, 3)
        assert image.pixels[0, 0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0.02), image.name


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (24, 16), RED)
    image.paste(BLUE, (0, 0, 24, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (loaded,), _ = load(tmp_path)
    assert loaded.pixels.shape == (24, 16, 3)
    assert loaded.pixels[12, 15].tolist() == pytest.approx([0, 0, 1], abs=0.05)
    assert loaded.pixels[12, 0].tolist() == pytest.approx([1, 0, 0], abs=0.05)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert pixel(tmp_path) == pytest.approx([1.0, 0.0, 0.0], abs=0.02)


def test_very_large_pictures_are_reduced_and_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(images_module, "MAX_PIXELS", 40 * 40)
    write(tmp_path / "big.png", (255, 0, 0, 128), size=(160, 90), mode="RGBA")
    write(tmp_path / "fits.png", size=(40, 40))
    (big, fits), report = load(tmp_path, mask_rule="alpha")
    assert fits.pixels.shape == (40, 40, 3)
    height, width, _ = big.pixels.shape
    assert 0.9 * 1600 < height * width <= 1600 and width / height == pytest.approx(16 / 9, rel=0.05)
    assert big.mask.shape == (height, width) and torch.allclose(big.mask, torch.tensor(128 / 255), atol=1e-3)
    assert "reduced to that area: 1 ('big.png')" in report


# Masks


def test_alpha_is_the_mask_and_colours_stay(tmp_path: Path) -> None:
    write(tmp_path / "a.png", (255, 0, 0, 51), mode="RGBA")
    write(tmp_path / "b.png", RED)
    (a, b), report = load(tmp_path, mask_rule="alpha")
    assert a.pixels[0, 0].tolist() == [1.0, 0.0, 0.0]
    assert a.mask.shape == (16, 24) and torch.allclose(a.mask, torch.tensor(0.2))
    assert b.mask is None
    assert "Pictures without an alpha channel, learned whole: 1 ('b.png')." in report
    assert "Masks from the picture's alpha channel: 1 ('a.png')." in report


def test_mask_files_beside_the_picture_and_in_a_masks_folder(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "sub/c.webp"):
        write(tmp_path / name)
    write(tmp_path / "a.mask.png", 51, mode="L")
    write(tmp_path / "masks" / "a.png", 255, mode="L")
    write(tmp_path / "masks" / "b.jpg", (102, 102, 102))
    write(tmp_path / "sub" / "masks" / "c.png", 1, mode="1")
    images, _ = load(tmp_path, mask_rule="mask files")
    assert [image.name for image in images] == ["a.png", "b.jpg", "sub/c.webp"]
    for image, value in zip(images, (0.2, 0.4, 1.0), strict=True):
        assert image.mask.shape == (16, 24)
        assert torch.allclose(image.mask, torch.tensor(value), atol=0.01), image.name
    assert all(image.mask is None for image in load(tmp_path)[0])


def test_missing_masks_are_listed(tmp_path: Path) -> None:
    for index in range(7):
        write(tmp_path / f"{index}.png")
    write(tmp_path / "0.mask.png", 255, mode="L")
    with pytest.raises(ImageFolderError) as caught:
        load(tmp_path, mask_rule="mask files")
    message = str(caught.value)
    assert "6 of 7 pictures" in message and "'5.png' and 1 more" in message
    assert "'1.mask.png' beside the picture or 'masks/1.png'" in message


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "a.mask.png", 255, size=(16, 16), mode="L")
    with pytest.raises(ImageFolderError, match="'a.mask.png' is 16 x 16 pixels, its picture 'a.png' is 24 x 16"):
        load(tmp_path, mask_rule="mask files")


# Errors


def test_a_missing_folder_is_named_absolutely(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for act in (list_images, folder_fingerprint, load):
        with pytest.raises(ImageFolderError, match=re.escape(f"{tmp_path / 'nowhere'} does not exist")):
            act(Path("nowhere"))


def test_no_folder_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageFolderError, match="No folder is given"):
        list_images("  ")
    write(tmp_path / "a.png")
    with pytest.raises(ImageFolderError, match="a.png is a file. Give the folder"):
        list_images(tmp_path / "a.png")
    write(tmp_path / "set" / "masks" / "a.png")
    caption(tmp_path / "set" / "a.txt", "a")
    with pytest.raises(ImageFolderError, match=r"set holds no picture.*\.png, \.jpg, \.jpeg, \.webp, \.bmp.*'masks'"):
        list_images(tmp_path / "set")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "chunk"])
def test_an_unreadable_picture_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "sub" / "good.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "sub" / "bad.png")
    content = (tmp_path / "sub" / "bad.png").read_bytes()
    broken = {
        "truncated": content[:300],
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "chunk": content[:33] + b"\0\0\0\5????" + content[41:],
    }
    (tmp_path / "sub" / "bad.png").write_bytes(broken[damage])
    with pytest.raises(
        ImageFolderError, match="The picture 'sub/bad.png' in .* cannot be read: .*replace or remove it"
    ):
        load(tmp_path)


def test_a_year_is_no_count_of_repeats(tmp_path: Path) -> None:
    write(tmp_path / "2024_holiday" / "a.png")
    with pytest.raises(ImageFolderError, match="'2024_holiday' asks for 2024 repeats.*1000 is the most.*rename"):
        list_images(tmp_path)


def test_all_pictures_left_out(tmp_path: Path) -> None:
    write(tmp_path / "0_off" / "a.png")
    with pytest.raises(ImageFolderError, match="0 repeats"):
        load(tmp_path)


def test_rules_are_checked(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(ValueError, match="caption_rule must be one of text file, .* got 'guess'"):
        load(tmp_path, "guess")
    with pytest.raises(ValueError, match="mask_rule must be one of none, alpha, mask files; got 'guess'"):
        load(tmp_path, mask_rule="guess")
    with pytest.raises(ImageFolderError, match="needs a trigger word, and trigger_word is empty"):
        load(tmp_path, "trigger word only", "  ")
    assert issubclass(ImageFolderError, DataError)


# Fingerprint


def test_the_fingerprint_follows_content_not_times(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "a.png")
    write(folder / "sub" / "b.png", BLUE)
    write(folder / "a.mask.png", 255, mode="L")
    caption(folder / "a.txt", "a")
    caption(folder / "notes.md", "no part of the set")
    seen = [folder_fingerprint(folder)]
    os.utime(folder / "a.png", (1, 1))
    caption(folder / "a.txt", "a")
    caption(folder / "notes.md", "edited")
    assert folder_fingerprint(folder) == seen[0]
    folder = folder.rename(tmp_path / "moved")
    assert folder_fingerprint(folder) == seen[0]
    for change in (
        lambda: caption(folder / "a.txt", "b"),
        lambda: caption(folder / "sub" / "b.caption", ""),
        lambda: write(folder / "a.png", BLUE),
        lambda: write(folder / "a.mask.png", 0, mode="L"),
        lambda: (folder / "sub" / "b.png").rename(folder / "sub" / "c.png"),
        lambda: write(folder / "d.png"),
        lambda: (folder / "a.txt").unlink(),
    ):
        change()
        seen.append(folder_fingerprint(folder))
    assert len(set(seen)) == len(seen)
