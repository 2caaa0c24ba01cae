"""What a stage notes is a warning unless it asks nothing of the reader."""

from __future__ import annotations

import pytest

from fluxduel.training.evidence.note_kinds import is_warning
from fluxduel.training.stages.balance import Balance
from fluxduel.training.stages.checkups import Checkups
from fluxduel.training.stages.gradient_watch import GradientWatch
from fluxduel.training.stages.measurements import share_of_time
from fluxduel.training.stages.watch import Health


def health(score: float, **changes: float) -> Health:
    return Health(**{"held_out_loss": 1.0, "diversity": 10.0, "high_frequency": 1.0, "score": score} | changes)


def test_the_watch_over_the_lora() -> None:
    checkups = Checkups()
    checkups.begin(health(2.0))
    cases = [
        (health(1.5), [False]),  # the best so far
        (health(1.6), []),
        (health(1.4, high_frequency=1.47), [True, True]),  # better, but not kept; the weight is lowered
        (health(1.7), [False]),  # the weight is raised
        (health(1.7, diversity=5.0), [True]),  # a collapse
        (health(float("nan")), [True]),
    ]
    for number, (state, expected) in enumerate(cases, 1):
        before = len(checkups.lines)
        checkups.examine(number, state)
        told = checkups.lines[before:]
        assert [is_warning(text) for text in told] == expected, told
    assert not is_warning(checkups.conclude())


def test_no_better_state_is_a_warning() -> None:
    checkups = Checkups()
    checkups.begin(health(2.0))
    assert is_warning(checkups.conclude())


def test_the_discriminators_accuracy() -> None:
    lines: list[str] = []
    balance = Balance(lines)
    for _ in range(600):
        balance.update(0.5)
    for _ in range(400):
        balance.update(0.8)
    kinds = [is_warning(text) for text in lines]
    assert len(lines) == 3 and kinds == [True, True, False], lines


def test_a_left_out_update() -> None:
    lines: list[str] = []
    watch = GradientWatch("LoRA", lines)
    watch.outlier(float("nan"))
    assert [is_warning(text) for text in lines] == [True]


def test_the_cost_of_measurements() -> None:
    assert not is_warning(share_of_time([{"samples": 4}], 100, 4, "this run's time", True))


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("The base is held in int8 and multiplied by torch._int_mm.", False),
        ("19 of 57 blocks are streamed, 4.1 GB in pinned memory.", False),
        (
            "19 of 57 blocks are streamed, 4 GB in ordinary memory, of which the system lets only 1 GB be pinned, so "
            "that copies of the rest are slow: close other programs.",
            True,
        ),
        ("Up to step 50 the discriminator learns alone (discriminator_warmup); step 51 is the first.", False),
        ("Finished early, as asked: the last update was 3 of 9. Any other number of steps goes on from here.", False),
        ("Up to update 50 the discriminator learns alone (discriminator_warmup); update 51 is the first.", False),
        ("The checkpoint of update 3 is written. lora.safetensors in it is a LoRA to try.", False),
        ("The checkpoint of step 3 is written. lora.safetensors in it is a LoRA to try.", False),
        ("Finished early, as asked: the last update was 40 of 300.", False),
        ("No samples for the watch this time: out of memory.", True),
        ("The checkpoint of step 3 could not be written (disk full). There is none yet; the run goes on.", True),
        ("Out of memory at step 3 with bf16. Going on, once, with int8.", True),
    ],
)
def test_sentences_of_other_rooms(note: str, expected: bool) -> None:
    assert is_warning(note) == expected
