"""What a graph is said to keep on the disk, against what runs leave there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fluxduel.tests.durability.small_run import JUDGE, STAGES, start_and_data, train
from fluxduel.tests.host.two_stage_graph import STAGE_1, STAGE_2, two_stage_graph, write_pictures
from fluxduel.tests.unit.graph.machine import Machine, changed
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.graph.disk import least_on_disk
from fluxduel.training.graph.prompt_graph import Node, Settings, settings
from fluxduel.training.graph.starts import Start

SIZES = {"steps": 6, "checkpoint_every": 2, "keep_last": 1}


def known(values: object) -> Settings:
    """Settings of which all is known."""
    return settings(type(values), [Node("1", "", vars(values))], complete=True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_run_leaves_what_was_counted(tmp_path: Path, stage: str, ema_decay: float) -> None:
    start, _ = start_and_data()
    train(tmp_path / "run", stage=stage, **SIZES, ema_decay=ema_decay)
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    size = sum(file.stat().st_size for file in checkpoints[0].iterdir())
    result = sum(file.stat().st_size for file in (tmp_path / "run").glob("lora.safetensors"))
    config = dataclasses.replace(STAGES[stage], **SIZES, ema_decay=ema_decay)
    judge = known(JUDGE) if isinstance(config, AdversarialStageConfig) else None
    # One that is kept, and the one that is written before it goes.
    said, found = least_on_disk(Start(start.base, start, True), known(config), judge), 2 * size + result
    print(f"said {said}, found {found}")
    # Names, statistics and what stage 2 looks back at come on top.
    assert 0.5 * found < said <= found


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, 3),
        ({"steps": 1}, 0),
        ({"checkpoint_every": 0}, 0),
        ({"keep_last": 1000}, 10),
        ({"keep_every": 200}, 5),
        ({"keep_every": 150}, 3),
    ],
)
def test_as_many_checkpoints_as_are_there_at_one_time(changes: dict[str, int], kept: int) -> None:
    start, _ = start_and_data()
    begun = Start(start.base, start, True)
    usual = {"steps": 1000, "checkpoint_every": 100, "keep_last": 2}
    config = dataclasses.replace(STAGES["diffusion"], **usual | changes)
    none = least_on_disk(begun, known(dataclasses.replace(config, steps=1, checkpoint_every=0)), None)
    one = least_on_disk(begun, known(dataclasses.replace(config, steps=1, checkpoint_every=1)), None) - none
    assert least_on_disk(begun, known(config), None) == none + kept * one


def test_checkpoints_that_no_disk_holds_are_told_of(tmp_path: Path) -> None:
    """A thousand of them at a rank of 1024 are more than this machine's disk has free, whatever that is."""
    write_pictures(tmp_path / "input" / "pictures", count=2)
    (tmp_path / "output").mkdir()
    machine, graph = Machine(tmp_path), two_stage_graph("pictures")
    graph = changed(graph, "1", rank=1024, targets="all")
    assert machine.check(graph) == {}
    many = {"steps": 1_000_000, "checkpoint_every": 1, "keep_every": 1}
    told = machine.check(changed(graph, STAGE_1, **many))
    # The stage after it finds no room either.
    assert set(told) == {STAGE_1, STAGE_2}
    assert "the checkpoints and the LoRA that this stage keeps take" in told[STAGE_1][0]
    assert "of the stage before it" in told[STAGE_2][0]
    assert set(machine.check(changed(graph, STAGE_2, **many))) == {STAGE_2}
