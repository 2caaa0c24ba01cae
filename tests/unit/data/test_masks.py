"""Masks whose shape is in an alpha channel, and what the report says each picture got."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxduel.training.data.data_error import ImageFolderError
from fluxduel.training.data.images import load_folder


def write(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path)


def load(folder: Path, mask_rule: str):
    return load_folder(folder, caption_rule="file name", trigger_word="", mask_rule=mask_rule)


def half(inside: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    """16 x 24: the left half ``inside``, the right one ``outside``."""
    values = np.empty((16, 24, len(inside)), np.uint8)
    values[:, :12], values[:, 12:] = inside, outside
    return values


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ((255, 255, 255, 255), (255, 255, 255, 0)),
        ((255, 255, 255, 255), (0, 0, 0, 0)),
        ((0, 0, 0, 255), (0, 0, 0, 0)),
        ((255, 0, 0, 255), (255, 255, 255, 0)),
    ],
)
def test_a_mask_whose_shape_is_in_its_alpha_channel(tmp_path: Path, inside, outside) -> None:
    write(tmp_path / "a.jpg", np.zeros((16, 24, 3)))
    write(tmp_path / "a.mask.png", half(inside, outside))
    (image,), report = load(tmp_path, "mask files")
    assert (image.mask[:, :12] == 1).all() and (image.mask[:, 12:] == 0).all()
    assert "Masks from the alpha channel of mask files: 1 ('a.jpg')." in report


def test_an_opaque_alpha_channel_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", np.zeros((16, 24, 3)))
    write(tmp_path / "a.mask.png", half((255, 255, 255, 255), (0, 0, 0, 255)))
    (image,), report = load(tmp_path, "mask files")
    assert image.mask[:, :12].min() == 1 and image.mask[:, 12:].max() == 0
    assert "Masks from mask files: 1 ('a.jpg')." in report


def test_greys_and_an_alpha_channel_are_refused_with_all_names(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.jpg", np.zeros((16, 24, 3)))
        write(tmp_path / f"{name}.mask.png", half((255, 255, 255, 255), (0, 0, 0, 128)))
    with pytest.raises(ImageFolderError) as caught:
        load(tmp_path, "mask files")
    assert all(f"'{name}.mask.png' has several greys and an alpha channel" in str(caught.value) for name in "ab")


def test_the_report_says_what_each_picture_got(tmp_path: Path) -> None:
    write(tmp_path / "clear.png", half((9, 9, 9, 255), (9, 9, 9, 0)))
    write(tmp_path / "opaque.png", half((9, 9, 9, 255), (9, 9, 9, 255)))
    write(tmp_path / "plain.png", np.zeros((16, 24, 3)))
    images, report = load(tmp_path, "alpha")
    assert [image.mask is None for image in images] == [False, True, True]
    assert "Masks from the picture's alpha channel: 1 ('clear.png')." in report
    assert "Pictures whose alpha channel is opaque everywhere, learned whole: 1 ('opaque.png')." in report
    assert "Pictures without an alpha channel, learned whole: 1 ('plain.png')." in report
    images, report = load(tmp_path, "none")
    assert torch.equal(images[0].pixels[:, 12:], torch.ones(16, 12, 3))
    assert "Pictures with transparent parts, put on white: 1 ('clear.png')." in report
