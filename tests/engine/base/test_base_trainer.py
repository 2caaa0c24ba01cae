"""The script that makes the built-in base: a training that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxduel.benchmarks import pictograms

ASSETS = Path(__file__).resolve().parents[3] / "assets"
SUBJECTS = ["red-apple", "mushroom"]


@pytest.fixture(scope="module")
def tiny_model() -> Iterator[Any]:
    """The script's own module; scripts find each other by their folder."""
    sys.path.insert(0, str(ASSETS))
    try:
        import tiny_model

        yield tiny_model
    finally:
        sys.path.remove(str(ASSETS))


def trainer(module: Any, steps: int = 8) -> Any:
    from schedule import Schedule

    generator = torch.Generator().manual_seed(0)
    pictures = len(pictograms.BASE_STYLES) * len(SUBJECTS)
    latents = {(h, w): torch.randn(pictures, 2, 16, h // 8, w // 8, generator=generator) for h, w in module.SIZES}
    captions = module.Captions.of(pictograms.BASE_STYLES, SUBJECTS, torch.device("cpu"))
    torch.manual_seed(0)
    return module.Trainer(latents, captions, Schedule(steps, 1e-3, warmup=2), batch=4, seed=0)


def test_a_resumed_training_ends_as_one_in_one_piece(tiny_model: Any, tmp_path: Path) -> None:
    """Across the moment where guidance begins to be taught, with a teacher that has to come back too."""
    whole = trainer(tiny_model)
    whole.train(1, lambda: None)

    class CutOffError(Exception):
        pass

    cut = trainer(tiny_model)

    def save() -> None:
        torch.save(cut.state(), tmp_path / "state")
        if cut.step == 7:
            raise CutOffError

    with pytest.raises(CutOffError):
        cut.train(1, save)
    resumed = trainer(tiny_model)
    state = torch.load(tmp_path / "state", weights_only=True)
    assert state["teacher"] is not None
    resumed.load_state(state)
    resumed.train(1, lambda: None)
    assert resumed.step == whole.step == 8
    for one, other in ((whole.model, resumed.model), (whole.average, resumed.average)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_captions_name_style_and_subject_or_leave_them_out(tiny_model: Any) -> None:
    captions = tiny_model.Captions.of(pictograms.BASE_STYLES, SUBJECTS, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    drawn = captions.draw(torch.full((4000,), 1), generator)
    said = [tuple(tiny_model.TinyTextEncoder.tokenize(text)) for text in (
        "noto mushroom", "mushroom in noto style", "noto picture of a mushroom", "mushroom", ""
    )]  # fmt: skip
    shares = [sum(tuple(row) == one for row in drawn.tolist()) / len(drawn) for one in said]
    assert shares == pytest.approx([0.8 / 3] * 3 + [0.12, 0.08], abs=0.03)


def test_no_two_words_of_the_captions_share_both_rows() -> None:
    """The old table of 1,024 rows could not have held the words apart."""
    from fluxduel.training.data.tiny_text import TinyTextEncoder

    words = [f"{a}{b}" for a in ("red", "blue", "tiny", "old") for b in range(500)]
    ids = [TinyTextEncoder.tokenize(word)[0] for word in words]
    assert len(set(ids)) == len(words)
    first, second = TinyTextEncoder().rows(torch.tensor(ids))
    assert 1 <= min(first.min(), second.min()) and max(first.max(), second.max()) < TinyTextEncoder.ROWS
    assert len(set(first.tolist())) > 1400 and len(set(second.tolist())) > 1400
