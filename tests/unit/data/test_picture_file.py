"""One picture file: which way up, which colours, what is too large or damaged, in every format that Pillow writes."""

from __future__ import annotations

import io
import random
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from fluxduel.tests.unit.data.odd_pictures import damaged, exif_block, noise, with_exif, written_by_pillow
from fluxduel.training.data import picture_file
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.images import load_folder
from fluxduel.training.data.picture_file import (
    CONVERTED,
    DAMAGED_METADATA,
    FIRST_FRAME,
    UNUSED_PROFILE,
    picture_suffixes,
    read_picture,
)

Image.init()


def read(path: Path) -> picture_file.PictureFile:
    return read_picture(path, path.name)


def expected(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)


# Which way up


# Exif 2.3, table 6: where the first row and the first column of what is stored belong.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored.flip(1),  # top, right
    3: lambda stored: stored.flip(0, 1),  # bottom, right
    4: lambda stored: stored.flip(0),  # bottom, left
    5: lambda stored: stored.transpose(0, 1),  # left, top
    6: lambda stored: stored.transpose(0, 1).flip(1),  # right, top
    7: lambda stored: stored.transpose(0, 1).flip(0, 1),  # right, bottom
    8: lambda stored: stored.transpose(0, 1).flip(0),  # left, bottom
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format_that_has_one(tmp_path: Path, kind: str, orientation: int) -> None:
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow has no {kind} here")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, plain = tmp_path / f"a.{kind.lower()}", tmp_path / f"b.{kind.lower()}"
    noise().save(path, kind, exif=exif)
    noise().save(plain, kind)
    with Image.open(plain) as image:
        wanted = UPRIGHT[orientation](expected(image))
    found = read(path)
    assert torch.equal(found.pixels, wanted)
    assert (found.height, found.width) == tuple(wanted.shape[:2]) and found.remarks == ()


@pytest.mark.parametrize(
    "entry",
    [
        (0x0110, TiffImagePlugin.IFDRational(72, 1), 5),  # Model as a rational
        (0x011A, "300 dpi", 2),  # a text in XResolution
        (0x011A, (1, 0), 4),
        (0x0131, 7, 3),  # Software as a number
    ],
)
def test_odd_metadata_of_a_sound_rotated_jpeg(tmp_path: Path, entry) -> None:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    tag, value, kind = entry
    directory.tagtype[tag] = kind
    directory[tag] = value
    directory[0x0112] = 6
    path = tmp_path / "a.jpg"
    noise().save(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + directory.tobytes(8))
    assert read(path).pixels.shape == (24, 16, 3)


def test_orientation_in_xmp(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    noise().save(tmp_path / "a.webp", xmp=xmp)
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    noise().save(tmp_path / "plain.jpg")
    content = (tmp_path / "plain.jpg").read_bytes()
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    (tmp_path / "a.jpg").write_bytes(content)
    for name in ("a.webp", "a.jpg"):
        assert read(tmp_path / name).pixels.shape == (24, 16, 3)


def check_exif(folder: Path, count: int) -> int:
    """Of so many random blocks, how many are said to be damaged. None may end the reading or turn it wrongly."""
    rng = random.Random(count)
    said = 0
    for number in range(count):
        kind = rng.choice(["JPEG", "PNG", "WEBP"])
        orientation = rng.choice([None, *range(1, 9)])
        is_damaged = rng.random() < 0.5
        block = exif_block(rng, orientation, is_damaged)
        path = folder / f"{number}.{kind.lower()}"
        path.write_bytes(with_exif(kind, block))
        found = read(path)
        upright, aside = (16, 24), (24, 16)
        if not is_damaged:
            wanted = aside if orientation in (5, 6, 7, 8) else upright
            assert (found.height, found.width) == wanted and found.remarks == (), (number, block)
        assert (found.height, found.width) in (upright, aside)
        said += DAMAGED_METADATA in found.remarks
        path.unlink()
    return said


def test_random_exif_blocks(tmp_path: Path) -> None:
    assert 30 < check_exif(tmp_path, 300) < 200


@pytest.mark.slow
def test_six_thousand_random_exif_blocks(tmp_path: Path) -> None:
    assert 600 < check_exif(tmp_path, 6000) < 4000


def test_damaged_metadata_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(with_exif("JPEG", b"II*\0\xff\xff\xff\xff"))
    (tmp_path / "b.jpg").write_bytes(with_exif("JPEG", exif_block(random.Random(0), 9, False)))
    (tmp_path / "c.jpg").write_bytes(with_exif("JPEG", exif_block(random.Random(0), 0, False)))
    _, report = load_folder(tmp_path, caption_rule="file name", trigger_word="", mask_rule="none")
    assert f"Warning: {DAMAGED_METADATA}: 2 ('a.jpg', 'b.jpg')." in report


# Colours


def profile_of(primaries: tuple[float, ...], gamma: float) -> bytes:
    """A matrix profile with the chromaticities of red, green and blue, and one gamma for all."""
    (xr, yr, xg, yg, xb, yb), (xw, yw) = primaries, (0.3127, 0.3290)
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in ((xr, yr), (xg, yg), (xb, yb))]).T
    white = np.array([xw / yw, 1.0, (1 - xw - yw) / yw])
    matrix = columns * np.linalg.solve(columns, white)
    # The profile connection space is lit by D50 (Bradford's adaptation).
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    matrix = np.linalg.inv(bradford) @ np.diag((bradford @ D50) / (bradford @ white)) @ bradford @ matrix

    curve = b"curv\0\0\0\0" + struct.pack(">LH", 1, round(gamma * 256)) + b"\0\0"
    tags = {name: b"XYZ \0\0\0\0" + fixed(*column) for name, column in zip(RGB_COLUMNS, matrix.T, strict=True)}
    return profile(b"mntr", b"RGB ", b"XYZ ", tags | {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")})


RGB_COLUMNS = (b"rXYZ", b"gXYZ", b"bXYZ")
D50 = np.array([0.9642, 1.0, 0.8249])


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.4, with these ``tags``."""
    text = b"desc\0\0\0\0" + struct.pack(">L", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none", b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)} | tags
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">LL", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">L4sL4s4s4s", at + len(body), b"lcms", 0x02400000, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">L", len(tags)) + table + body


def cmyk_profile(ink: tuple[int, int, int]) -> bytes:
    """A profile in which paper is white, full cyan is ``ink`` (L, a, b) and any other full ink is black."""
    corners = [(100, 0, 0), *[(0, 0, 0)] * 7, ink, *[(0, 0, 0)] * 7]  # cyan varies slowest, black fastest
    table = b"".join(struct.pack("BBB", round(light * 2.55), a + 128, b + 128) for light, a, b in corners)
    lut = b"mft1\0\0\0\0" + struct.pack("BBBB", 4, 3, 2, 0) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + bytes(range(256)) * 4 + table + bytes(range(256)) * 3})


ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)


def test_a_wide_gamut_picture_is_converted(tmp_path: Path) -> None:
    """By the formulas of Adobe RGB's own specification."""
    image = Image.new("RGB", (8, 8), (128, 160, 90))
    image.save(tmp_path / "a.png", icc_profile=profile_of(ADOBE_RGB, 2.19921875))
    found = read(tmp_path / "a.png")
    linear = (np.array([128, 160, 90]) / 255) ** 2.19921875
    # Adobe RGB (1998), section 4.3.6.1, and IEC 61966-2-1: linear Adobe RGB -> XYZ (D65) -> linear sRGB.
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    to_rgb = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    linear = np.array(to_rgb) @ np.array(to_xyz) @ linear
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert found.pixels[0, 0].tolist() == pytest.approx(wanted.tolist(), abs=2 / 255)
    assert found.remarks == (CONVERTED,)
    assert abs(found.pixels[0, 0, 0].item() - 128 / 255) > 4 / 255


def test_a_print_picture_is_converted_by_its_profile(tmp_path: Path) -> None:
    """Cyan is as dark as its ink: by the formulas of CIE 15 and IEC 61966-2-1. """
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    image.save(tmp_path / "a.tif", icc_profile=cmyk_profile((55, -37, -50)))
    image.save(tmp_path / "b.tif")
    found = read(tmp_path / "a.tif")
    y = (55 + 16) / 116
    x, z = y - 37 / 500, y + 50 / 200
    xyz = D50 * [t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29) for t in (x, y, z)]
    # D50 -> linear sRGB, Bradford-adapted.
    linear = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]) @ xyz
    wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055).clip(0, 1)
    assert found.pixels[0, 0].tolist() == pytest.approx(wanted.tolist(), abs=4 / 255)
    assert found.pixels[0, 7].tolist() == pytest.approx([1.0] * 3, abs=2 / 255)
    assert found.remarks == (CONVERTED,)
    assert read(tmp_path / "b.tif").pixels[0, 0].tolist() == [0.0, 1.0, 1.0]


def test_a_profile_of_sixteen_bits_of_grey_is_said_to_be_unused(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((4, 6), 300, np.uint16))
    grey.save(tmp_path / "a.png", icc_profile=profile_of(ADOBE_RGB, 2.2))
    assert read(tmp_path / "a.png").remarks == (UNUSED_PROFILE,)


def test_srgb_under_any_name_leaves_every_bit(tmp_path: Path) -> None:
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = noise()
    image.save(tmp_path / "a.png", icc_profile=built_in)
    image.save(tmp_path / "b.png")
    image.convert("L").save(tmp_path / "c.png", icc_profile=built_in)
    assert torch.equal(read(tmp_path / "a.png").pixels, read(tmp_path / "b.png").pixels)
    assert torch.equal(read(tmp_path / "c.png").pixels, expected(image.convert("L")))
    assert read(tmp_path / "a.png").remarks == read(tmp_path / "c.png").remarks == ()


def test_alpha_stays_where_colours_are_converted(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (128, 160, 90, 51))
    image.save(tmp_path / "a.png", icc_profile=profile_of(ADOBE_RGB, 2.2))
    found = read(tmp_path / "a.png")
    assert found.remarks == (CONVERTED,) and torch.allclose(found.alpha, torch.tensor(0.2))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", ["empty", "random", "cut", "another space"])
def test_a_damaged_profile_is_said_and_not_fatal(tmp_path: Path, mode: str, kind: str) -> None:
    good = profile_of(ADOBE_RGB, 2.2)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    profile = {"empty": b"x", "random": random.Random(0).randbytes(500), "cut": good[:200], "another space": lab}[kind]
    image = noise().convert(mode)
    image.save(tmp_path / "a.jpg", icc_profile=profile, quality=95)
    image.save(tmp_path / "b.jpg", quality=95)
    found = read(tmp_path / "a.jpg")
    assert found.remarks == (UNUSED_PROFILE,) and torch.equal(found.pixels, read(tmp_path / "b.jpg").pixels)


def test_random_profiles_never_end_the_reading(tmp_path: Path) -> None:
    rng, good = random.Random(1), profile_of(ADOBE_RGB, 2.2)
    for number in range(200):
        profile = damaged(rng, good)
        noise().save(tmp_path / f"{number}.png", icc_profile=profile)
        assert read(tmp_path / f"{number}.png").pixels.shape == (16, 24, 3)


# Formats


def test_every_format_that_pillow_writes_is_read(tmp_path: Path) -> None:
    sound = written_by_pillow()
    assert {".png", ".bmp", ".gif", ".tif", ".webp", ".tga", ".jp2", ".ppm", ".ico"} <= picture_suffixes()
    assert len(sound) > 15
    for suffix, content in sound.items():
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        with Image.open(path) as image:
            assert torch.equal(read(path).pixels, expected(image.convert("RGBA").convert("RGB"))), suffix


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp", ".png"])
def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    found = read(tmp_path / f"a{suffix}")
    assert found.pixels[0, 0].tolist() == pytest.approx([1, 0, 0], abs=0.02) and found.remarks == (FIRST_FRAME,)
    frames[0].save(tmp_path / f"b{suffix}")
    assert read(tmp_path / f"b{suffix}").remarks == ()


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    for suffix in (".jpg", ".tga", ".gif", ".pcd"):
        shutil.copy(tmp_path / "a.png", tmp_path / f"a{suffix}")
        assert torch.equal(read(tmp_path / f"a{suffix}").pixels, expected(noise()))


def test_what_starts_other_programs_is_not_opened(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(ImageFolderError, match="'a.png' .* no picture of a kind that Pillow reads here"):
        read(tmp_path / "a.png")
    assert not {".eps", ".ps", ".pdf", ".psd", ".wmf"} & picture_suffixes()


def test_floating_point_values_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageFolderError, match="'a.tif' .* floating-point numbers .* save it with 8 or 16 bits"):
        read(tmp_path / "a.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(ImageFolderError, match="'b.tif' .* more than 16 bits"):
        read(tmp_path / "b.tif")


# Size


def test_the_hosts_own_limit_of_pixels_is_neither_used_nor_changed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    noise(40, 40).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").pixels.shape == (40, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    file = io.BytesIO()
    noise(16, 16).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">LL", 30_000, 30_000)
    content[29:33] = struct.pack(">L", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(ImageFolderError, match="'bomb.png' .* 30000 x 30000 pixels, and 268 million are the most"):
        read(tmp_path / "bomb.png")


def test_very_many_pixels_are_halved_with_their_alpha(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(picture_file, "_HALVED_ABOVE", 1000)
    Image.new("RGBA", (60, 41), (255, 0, 0, 51)).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert (found.height, found.width) == (41, 60)
    assert found.pixels.shape == (21, 30, 3) and found.alpha.shape == (21, 30)
    assert torch.allclose(found.alpha, torch.tensor(0.2)) and found.pixels[0, 0].tolist() == [1, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("side", [10_200, 14_200])
def test_pictures_of_a_hundred_to_two_hundred_megapixels(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    image = Image.new("L", (side, side), 51)
    image.paste(255, (0, 0, side // 2, side))
    image.save(path, compress_level=1)
    (found,), report = load_folder(tmp_path, caption_rule="file name", trigger_word="", mask_rule="none")
    height, width, _ = found.pixels.shape
    assert (height, width) == (2048, 2048) and "reduced to that area: 1 ('a.png')" in report
    assert found.pixels[9, 9].tolist() == pytest.approx([1.0] * 3)
    assert found.pixels[9, -9].tolist() == pytest.approx([0.2] * 3)


# Damage


def check_damaged(folder: Path, count: int) -> int:
    """Each of so many damaged pictures is used or named, all of a folder at once. How many were refused."""
    rng = random.Random(count)
    sound = list(written_by_pillow().items())
    refused = 0
    for start in range(0, count, 80):
        part = folder / str(start)
        part.mkdir()
        names = []
        for number in range(start, min(count, start + 80)):
            suffix, content = rng.choice(sound)
            names.append(f"{number}{suffix}")
            (part / names[-1]).write_bytes(damaged(rng, content))
        bad = set()
        for name in names:
            try:
                found = read_picture(part / name, name)
                assert found.pixels.ndim == 3 and 0 <= found.pixels.min() <= found.pixels.max() <= 1
            except ImageFolderError as error:
                assert f"'{name}'" in str(error)
                bad.add(name)
        refused += len(bad)
        try:
            images, _ = load_folder(part, caption_rule="file name", trigger_word="", mask_rule="none")
            assert not bad and len(images) == len(names)
        except ImageFolderError as error:
            assert {name for name in names if f"'{name}'" in str(error)} == bad
    return refused


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_used_or_named(tmp_path: Path) -> None:
    assert 50 < check_damaged(tmp_path, 240) < 230


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_damaged_pictures(tmp_path: Path) -> None:
    assert 400 < check_damaged(tmp_path, 2000) < 1900
