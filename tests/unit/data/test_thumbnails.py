"""Small pictures show what is trained on."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxduel.tests.unit.data.odd_pictures import damaged, noise, with_exif, written_by_pillow
from fluxduel.training.data.buckets import resize
from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.images import load_folder
from fluxduel.training.data.orientation import ON_ITS_SIDE, TURNS
from fluxduel.training.data.picture_file import FIRST_FRAME, check_picture, read_picture
from fluxduel.training.data.thumbnails import SIDE, thumbnail


def pixels(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).astype(np.float32) / 255)


def trained(folder: Path, mask_rule: str) -> dict:
    found, _ = load_folder(folder, caption_rule="file name", trigger_word="", mask_rule=mask_rule)
    return {image.name: image for image in found}


def smooth(width: int, height: int) -> Image.Image:
    """A picture that keeps its look when it is scaled."""
    across, down = np.linspace(0, 255, width)[None, :], np.linspace(0, 255, height)[:, None]
    values = np.stack([across + 0 * down, down + 0 * across, 255 - (across + down) / 2], -1)
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif"])
@pytest.mark.parametrize("size", [(900, 600), (50, 80), (2000, 300)])
def test_a_thumbnail_is_the_trained_picture_made_small(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    smooth(*size).save(tmp_path / f"a{suffix}")
    found = thumbnail(tmp_path, f"a{suffix}", "none")
    small = pixels(found.content)
    assert (found.width, found.height) == size and not found.masked
    assert max(small.shape[:2]) == min(SIDE, max(size))
    image = trained(tmp_path, "none")[f"a{suffix}"]
    whole = resize(image.pixels.permute(2, 0, 1), *small.shape[:2]).permute(1, 2, 0)
    assert (whole - small).abs().mean() < 0.03


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_a_turned_picture_is_upright(tmp_path: Path, orientation: int) -> None:
    source = smooth(600, 300)
    exif = Image.Exif()
    exif[0x0112] = orientation
    source.save(tmp_path / "a.jpg", exif=exif)
    found = thumbnail(tmp_path, "a.jpg", "none")
    assert (found.width, found.height) == ((300, 600) if orientation in ON_ITS_SIDE else (600, 300))
    whole = trained(tmp_path, "none")["a.jpg"].pixels.permute(2, 0, 1)
    small = pixels(found.content)
    assert (resize(whole, *small.shape[:2]).permute(1, 2, 0) - small).abs().mean() < 0.03


def test_every_kind_that_is_read_has_a_thumbnail(tmp_path: Path) -> None:
    kinds = written_by_pillow()
    assert len(kinds) > 15
    for suffix, content in kinds.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
        check_picture(content, f"a{suffix}")
        found = thumbnail(tmp_path, f"a{suffix}", "alpha")
        whole = read_picture(tmp_path / f"a{suffix}", "a")
        assert (found.width, found.height) == (whole.width, whole.height), suffix


def test_sixteen_bits_are_not_spoilt(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 400 * 300).reshape(300, 400).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = pixels(thumbnail(tmp_path, "a.png", "none").content)
    assert found.shape == (144, 192, 3)
    assert found[0].mean() < 0.05 and found[-1].mean() > 0.95


@pytest.mark.parametrize("rule", ["alpha", "mask files"])
def test_what_is_not_learned_is_dimmed(tmp_path: Path, rule: str) -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[:, :200] = 255
    picture = Image.new("RGB", (400, 300), (200, 200, 200))
    if rule == "alpha":
        picture.putalpha(Image.fromarray(mask))
    else:
        Image.fromarray(mask).save(tmp_path / "a.mask.png")
    picture.save(tmp_path / "a.png")
    found = thumbnail(tmp_path, "a.png", rule, "a.mask.png" if rule == "mask files" else None)
    small = pixels(found.content)
    assert found.masked
    assert small[:, :90].mean() == pytest.approx(200 / 255, abs=0.02)
    assert small[:, 102:].mean() == pytest.approx(50 / 255, abs=0.02)


def test_a_missing_mask_leaves_the_picture_to_be_looked_at_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    noise(400, 300).save(tmp_path / "a.png")
    assert not thumbnail(tmp_path, "a.png", "mask files").masked
    noise(300, 400).save(tmp_path / "a.mask.png")
    with pytest.raises(ImageFolderError, match="is 300 x 400 pixels, its picture 'a.png' is 400 x 300"):
        thumbnail(tmp_path, "a.png", "mask files", "a.mask.png")


def test_remarks_come_along(tmp_path: Path) -> None:
    frames = [noise(64, 64, seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    noise(64, 64).convert("RGBA").save(tmp_path / "b.png")
    assert thumbnail(tmp_path, "a.gif", "none").remarks == (FIRST_FRAME,)
    assert thumbnail(tmp_path, "b.png", "none").remarks == ()


def test_damaged_files_are_named_or_shown_and_never_break(tmp_path: Path) -> None:
    rng, refused = random.Random(3), 0
    sound = [*written_by_pillow().items(), (".jpg", with_exif("JPEG", b"II*\0"))]
    for number in range(300):
        suffix, content = rng.choice(sound)
        name = f"{number}{suffix}"
        (tmp_path / name).write_bytes(damaged(rng, content))
        try:
            thumbnail(tmp_path, name, "none")
        except ImageFolderError as error:
            assert name in str(error)
            refused += 1
    assert 30 < refused < 300


@pytest.mark.parametrize("content", [b"", b"abc", b"<html><script>alert(1)</script></html>", b"MZ" + bytes(99)])
def test_what_is_no_picture_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(ImageFolderError, match=r"'a\.png'"):
        check_picture(content, "a.png")
