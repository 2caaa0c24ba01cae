"""What graphs send as pictures and masks: alpha channels, the host's placeholders, batches."""

from __future__ import annotations

import pytest
import torch

from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.masks import ON_WHITE
from fluxduel.training.data.remarks import Remarks
from fluxduel.training.data.wires import PLACEHOLDERS, single_masks, single_pictures


def test_batches_and_greys_become_single_rgb_pictures() -> None:
    remarks, grey = Remarks(), torch.rand(2, 8, 6, 1)
    found = single_pictures([torch.zeros(2, 4, 4, 3), grey, torch.ones(5, 7, 3)], [], remarks)
    assert [tuple(picture.shape) for picture in found] == [(4, 4, 3)] * 2 + [(8, 6, 3)] * 2 + [(5, 7, 3)]
    assert torch.equal(found[2], grey[0].expand(-1, -1, 3)) and remarks.lines() == []


def test_what_is_transparent_is_put_on_white_and_said() -> None:
    remarks = Remarks()
    picture = torch.tensor([0.2, 0.4, 0.6, 0.25]).expand(1, 4, 4, 4)
    opaque = torch.tensor([0.2, 0.4, 0.6, 1.0]).expand(1, 4, 4, 4)
    first, second, third = single_pictures([picture, opaque, picture], ["a.png", "b.png"], remarks)
    assert first[0, 0].tolist() == pytest.approx([0.8, 0.85, 0.9])
    assert torch.equal(second, opaque[0, ..., :3]) and torch.equal(third, first)
    assert remarks.lines() == [f"{ON_WHITE}: 2 ('a.png', 'image 3')."]


def test_another_number_of_channels_is_refused_with_all_names() -> None:
    images = [torch.zeros(1, 4, 4, 2), torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 5)]
    with pytest.raises(DataError, match=r"1, 3 or 4 channels.* 'a' \(2\), 'image 3' \(5\) have another"):
        single_pictures(images, ["a", "b"], Remarks())


@pytest.mark.parametrize("side", [(96, 64), (64, 64)])
def test_the_hosts_placeholder_is_no_mask(side: tuple[int, int]) -> None:
    """LoadImage gives zeros of 64 x 64 where a picture has no alpha channel."""
    remarks, real = Remarks(), torch.zeros(1, *side)
    real[..., :9] = 1
    pictures = [torch.zeros(*side, 3)] * 4
    masks = [torch.zeros(1, 64, 64), real, torch.ones(1, *side), torch.zeros(64, 64)]
    found = single_masks(masks, pictures, ["a", "b", "c", "d"], remarks)
    assert found[0] is found[2] is found[3] is None and torch.equal(found[1], real[0])
    assert remarks.lines() == [f"{PLACEHOLDERS}: 2 ('a', 'd')."]


def test_a_mask_of_zeros_in_another_size_is_left_to_the_checks() -> None:
    (found,) = single_masks([torch.zeros(1, 96, 64)], [torch.zeros(96, 64, 3)], [], Remarks())
    assert found is not None


def test_batches_of_masks_and_one_for_all() -> None:
    pictures, mask = [torch.zeros(8, 8, 3)] * 3, torch.rand(1, 8, 8)
    assert [torch.equal(each, mask[0]) for each in single_masks([mask], pictures, [], Remarks())] == [True] * 3
    assert single_masks([torch.zeros(3, 64, 64)], pictures, [], Remarks()) == [None] * 3
    assert single_masks([], pictures, [], Remarks()) is None
