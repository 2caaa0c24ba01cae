"""Every piece of a stage's state comes back as it was, and all that later steps depend on is in it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data
from fluxduel.tests.engine.small import each_family, small_of
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.health import Examiner
from fluxduel.training.stages.stage import Stage

STAGE_1 = DiffusionStageConfig(
    steps=12, learning_rate=1e-3, batch_size=2, lr_schedule="linear", ema_decay=0.9, gradient_checkpointing=False,
)  # fmt: skip
# Everything that has a state of its own is on.
STAGE_2 = AdversarialStageConfig(
    steps=12, learning_rate=1e-3, batch_size=2, lr_schedule="linear", ema_decay=0.9, gradient_checkpointing=False,
    discriminator_warmup=1, balance="gradient_ratio", target="x0", target_steps=1, watch_pictures=4,
)  # fmt: skip
JUDGE = DiscriminatorConfig(
    architecture="cnn", width=8, depth=1, loss="hinge", spectral_norm=True, lecam=0.3, replay_share=0.5,
    augmentation_probability=0.3, learning_rate=1e-2,
)  # fmt: skip
# What is not felt in a run without incidents: the judge's learning rate is constant, a decision names the update that
# it follows, the ratio's weight is bounded, and a run whose measurements fail delivers another state.
NOT_FELT = {"discriminator_optimiser.updates", "attempted", "gradient_ratio.reference", "examined", "left_out"}

Numbers = dict[str, Any]
State = tuple[dict[str, dict[str, Tensor]], Numbers]


def made(start, kind: str) -> Stage:
    data = make_data(small=small_of(start))
    if kind == "diffusion":
        return DiffusionStage(start, data, STAGE_1, device=DEVICE)
    return AdversarialStage(start, data, JUDGE, STAGE_2, device=DEVICE)


def state_of(stage: Stage) -> State:
    """As a checkpoint holds it: the numbers have been JSON."""
    tensors, numbers = stage.state()
    return {part: dict(named) for part, named in tensors.items()}, json.loads(json.dumps(numbers))


@pytest.fixture
def healths(monkeypatch) -> list[Any]:
    """What each measurement of samples was given and found; the one after the second update finds the best state."""
    seen: list[Any] = []
    examine = Examiner.examine

    def spy(self, base, held_out_loss, after_step):
        health = examine(self, base, held_out_loss, after_step)
        seen.append((held_out_loss, health.score))
        return dataclasses.replace(health, score=health.score * (0.1 if len(seen) == 2 else 1.0))

    monkeypatch.setattr(Examiner, "examine", spy)
    return seen


def run_to(stage: Stage, step: int) -> State:
    """The state after ``step`` steps, measured before the first of them and after every other one."""
    stage.validate(lambda: None)
    for number in range(step):
        stage.step(number)
        if number % 2:
            stage.validate(lambda: None)
    return state_of(stage)


def outcome(stage: Stage, state: State, step: int, healths: list[Any]) -> dict[str, Any]:
    """What becomes of ``state``, which still lacks the measurement of its step, in two further steps."""
    stage.restore(copy.deepcopy(state[0]), copy.deepcopy(state[1]))
    # The earlier measurements are over, so none is the best by decree.
    healths[:] = [None, None]
    values = [stage.validate(lambda: None)]
    values += [stage.step(step), stage.step(step + 1), stage.validate(lambda: None)]
    notes, done = stage.take_notes(), stage.provenance()["steps_done"]
    last = stage.delivered()
    stage.conclude()
    told = {"values": values, "notes": notes, "done": done, "seen": healths[2:]}
    return {**told, "last": last, "best": stage.delivered()}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def altered(value: Any) -> Any:
    """Another value of the same kind; every number, text and tensor in it is another one."""
    if isinstance(value, dict):
        return {key: altered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [altered(inner) for inner in value]
    if isinstance(value, Tensor):
        # Whole numbers are numbers of prompts.
        return value + 0.1 * (1 + value.abs()) if value.is_floating_point() else value + 1
    if isinstance(value, str):
        return value + "!"
    if isinstance(value, bool):
        return not value
    return value if value is None else value + (3 if isinstance(value, int) else 0.25)


def places(state: State) -> Iterator[tuple[str, ...]]:
    """Each part of the tensors, each number, and of the monitor each number of each part."""
    yield from (("tensors", part) for part, named in state[0].items() if named)
    for name, value in state[1].items():
        if not isinstance(value, dict):
            yield (name,)
        elif name != "monitor":
            yield from ((name, inner) for inner in value)
        else:
            for part, told in value.items():
                yield from ((name, part, inner) for inner in told) if isinstance(told, dict) else [(name, part)]


def with_altered(state: State, place: tuple[str, ...]) -> State:
    tensors, numbers = copy.deepcopy(state)
    inside: Any = tensors if place[0] == "tensors" else numbers
    way = place[1:] if place[0] == "tensors" else place
    for name in way[:-1]:
        inside = inside[name]
    inside[way[-1]] = altered(inside[way[-1]])
    return tensors, numbers


@each_family
@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_what_is_restored_is_what_was_kept(start, kind: str, healths) -> None:
    """As it is, and altered throughout, so that nothing is by chance what a new stage begins with."""
    tensors, numbers = run_to(made(start, kind), 5)
    assert kind == "diffusion" or {"best", "replay"} <= set(tensors)
    changed = altered(tensors), altered(numbers)
    if kind == "adversarial":
        # Empty in a run without any incident.
        for network in ("lora", "discriminator"):
            changed[1]["monitor"][network] |= {"skips": [3, 4], "request": f"of the {network}"}
        changed[1]["monitor"]["balance"] |= {"request": "of the balance"}
    as_new = set(places(changed))
    for given in ((tensors, numbers), changed):
        fresh = made(start, kind)
        before = state_of(fresh)
        fresh.restore(*copy.deepcopy(given))
        after = state_of(fresh)
        assert after[0].keys() == given[0].keys()
        for part, named in given[0].items():
            assert equal(after[0][part], named), part
        assert after[1] == given[1]
        as_new -= {place for place in as_new if not equal(reading(before, place), reading(given, place))}
    assert as_new == set(), "that it was restored does not show"


def reading(state: State, place: tuple[str, ...]) -> Any:
    inside: Any = state[0] if place[0] == "tensors" else state[1]
    for name in place[1:] if place[0] == "tensors" else place:
        inside = inside.get(name) if isinstance(inside, dict) else None
    return inside


@each_family
@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_all_that_matters_is_in_the_state(start, kind: str, healths) -> None:
    """A new stage, and one that has long gone on, do the same from the same state: nothing else is remembered."""
    state = run_to(made(start, kind), 5)
    stage = made(start, kind)
    first = outcome(stage, state, 5, healths)
    for number in range(7, 10):
        stage.step(number)
    second = outcome(stage, state, 5, healths)
    assert first.keys() == second.keys()
    assert [name for name in first if not equal(first[name], second[name])] == []


@pytest.mark.parametrize("kind", ["diffusion", "adversarial"])
def test_every_piece_of_the_state_matters(start, kind: str, healths) -> None:
    """Altered, it changes what is delivered, logged or said; or it is refused. The monitor's own are tested with it."""
    state = run_to(made(start, kind), 5)
    stage = made(start, kind)
    plain = outcome(stage, state, 5, healths)
    idle = []
    for place in places(state):
        if place[0] == "monitor":
            continue
        try:
            other = outcome(stage, with_altered(state, place), 5, healths)
        except (ValueError, RuntimeError, ArithmeticError):
            continue
        if equal(plain, other):
            idle.append(".".join(place))
    assert set(idle) == (NOT_FELT if kind == "adversarial" else set())
