"""When held-out reals are looked at: often where augmentation follows, seldom where only a note does, else never."""

from __future__ import annotations

import pytest

from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.stages.overfitting import Overfitting


def looks(updates: int, augmentation: str, watch: bool, held_out: int = 2) -> list[int]:
    """After which of the discriminator's first ``updates`` held-out reals are looked at."""
    judge, config = DiscriminatorConfig(augmentation=augmentation), AdversarialStageConfig(watch=watch)
    overfitting = Overfitting(make_data(held_out=held_out), judge, config, two_samplers=False)
    return [taught for taught in range(1, updates + 1) if overfitting.due(taught)]


@pytest.mark.parametrize("augmentation", ["off", "fixed"])
def test_without_adaptive_augmentation_every_thirty_second_update_serves_the_note(augmentation: str) -> None:
    assert looks(100, augmentation, watch=True) == [1, 33, 65, 97]
    assert looks(100, augmentation, watch=False) == []


@pytest.mark.parametrize("watch", [True, False])
def test_adaptive_augmentation_is_steered_at_every_eighth(watch: bool) -> None:
    assert looks(33, "adaptive", watch) == [1, 9, 17, 25, 33]


def test_nothing_is_due_where_nothing_is_held_out() -> None:
    assert looks(100, "adaptive", watch=True, held_out=0) == looks(100, "fixed", watch=True, held_out=0) == []
