"""Near-duplicates: found whatever was done to a photo, and nothing else is taken for one."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fluxduel.training.data.alike import _STEPS, MOST_DIFFERENT, _near, _waves, alike, look
from fluxduel.training.data.encode import _held_out


def photo(seed: int, side: int = 256) -> Image.Image:
    """As photographs do, it has power in all sizes, the more the larger: 1 / f."""
    rng = np.random.default_rng(seed)
    across, down = np.fft.fftfreq(side)[None], np.fft.fftfreq(side)[:, None]
    filter = 1 / np.maximum(np.hypot(across, down), 1 / side)
    noise = rng.standard_normal((3, side, side)) + rng.standard_normal((side, side))
    values = np.fft.ifft2(filter * np.fft.fft2(noise)).real.transpose(1, 2, 0)
    values = (values - values.mean()) / values.std() * 50 + 128
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def look_of(image: Image.Image) -> bytes:
    return look(torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255))


def saved(image: Image.Image, kind: str, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_photo_are_alike(seed: int) -> None:
    image = photo(seed)
    copies = [
        saved(image, "JPEG", quality=75),
        saved(image, "JPEG", quality=30),
        saved(image, "WEBP", quality=50),
        saved(image.convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
        image.resize((128, 128), Image.Resampling.LANCZOS),
        image.resize((100, 100), Image.Resampling.BILINEAR),
        image.resize((512, 512), Image.Resampling.BICUBIC),
    ]
    for copy in copies:
        assert alike([look_of(image), look_of(copy)], [1.0, copy.width / copy.height]) == [[0, 1]]


def test_other_photos_are_not() -> None:
    images = [photo(seed) for seed in range(60)]
    tiles = [images[0].crop((x, y, x + 64, y + 64)) for x in range(0, 256, 64) for y in range(0, 256, 64)]
    looks = [look_of(image) for image in [*images, *tiles, images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)]]
    assert alike(looks, [1.0] * len(looks)) == []
    # The same seen through another shape is another picture.
    assert alike([looks[0], looks[0]], [1.0, 1.1]) == []


def test_flat_pictures_have_no_look() -> None:
    flat = Image.new("RGB", (64, 64), (90, 90, 90))
    assert look_of(flat) == b"" and alike([b"", b"", look_of(photo(0))], [1.0] * 3) == []
    assert len(look_of(photo(0, 9))) == 256


def test_no_pair_is_missed_and_none_invented() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([np.frombuffer(look_of(photo(seed, 32)), np.int8) for seed in range(300)]).astype(np.float64)
    # Copies around the threshold, on both sides of it.
    spread = np.linspace(0, 2 * MOST_DIFFERENT * _STEPS, 300)[:, None]
    # Some differ in any way, some in the waves by which pictures are sorted, in every direction.
    waves = _waves() * 16 / len(_waves()) ** 0.5
    other_ways = rng.standard_normal(rows.shape), rng.choice([-1, 0, 1], (300, len(waves))) @ waves
    rows = np.concatenate([rows, *((rows + spread * way).round().clip(-127, 127) for way in other_ways)])
    distances = np.sqrt(((rows[:, None] - rows[None]) ** 2).mean(-1))
    wanted = {(i, j) for i, j in zip(*np.nonzero(distances <= MOST_DIFFERENT * _STEPS), strict=True) if i < j}
    found = [tuple(sorted(pair)) for pair in _near(rows.astype(np.int8))]
    assert len(found) == len(set(found)) and set(found) == wanted
    assert 300 < len(wanted) < 700


def test_many_pictures_are_not_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    frequency = np.maximum(np.hypot(np.fft.fftfreq(16)[:, None], np.fft.fftfreq(16)), 1 / 16)
    rows = np.fft.ifft2(np.fft.fft2(rng.standard_normal((20_000, 16, 16))) / frequency).real
    rows = (rows - rows.mean((1, 2), keepdims=True)) / rows.std((1, 2), keepdims=True) * _STEPS
    looks = [row.tobytes() for row in rows.round().clip(-127, 127).astype(np.int8)]
    started = time.process_time()
    groups = alike([*looks, *looks[:100]], [1.0] * 20_100)
    assert sorted(groups) == [[index, 20_000 + index] for index in range(100)]
    assert time.process_time() - started < 20


# The split


def identities(count: int) -> list[str]:
    return [f"picture {index}" for index in range(count)]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_kin_stay_on_one_side(share: float) -> None:
    names = identities(40)
    kin = [names[0:2], names[2:5], names[10:16]]
    for seed in range(30):
        held_out = {names[index] for index in _held_out(names, kin, share, seed)}
        assert all(len(held_out & set(group)) in (0, len(group)) for group in kin)
        assert 0 < len(held_out) <= round(share * 40)
    sides = {names[0] in {names[i] for i in _held_out(names, kin, 0.5, seed)} for seed in range(30)}
    assert sides == {True, False}, "kin are held out as others are"


def test_without_kin_the_split_is_by_rank_alone() -> None:
    names = identities(20)
    for seed in range(5):
        some = _held_out(names, [], 0.3, seed)
        assert len(some) == 6 and set(_held_out(names, [], 0.2, seed)) < set(some)


def test_where_all_are_kin_something_is_held_out_all_the_same() -> None:
    names = identities(10)
    assert len(_held_out(names, [names], 0.3, 0)) == 3
    # Two groups, both larger than what is wanted: the smaller one goes.
    assert _held_out(names, [names[:4], names[4:]], 0.1, 0) == (0, 1, 2, 3)
    assert _held_out(names, [names], 0.0, 0) == ()
