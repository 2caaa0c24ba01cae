"""What is asked of a run while it goes on: its end before the last step, a checkpoint, a preview."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.runs.test_resume import HEADS, JUDGE, STAGE_1, STAGE_2, assert_same_tensors
from fluxduel.tests.engine.small import each_family
from fluxduel.training.config import AdversarialStageConfig, DiscriminatorConfig
from fluxduel.training.evidence.note_kinds import is_warning
from fluxduel.training.lora import adapter
from fluxduel.training.lora.sampling_advice import UNCHANGED
from fluxduel.training.lora.usual_cfg import advice_for
from fluxduel.training.runs import run_directory
from fluxduel.training.runs.fingerprints import Fingerprint, fingerprint
from fluxduel.training.runs.requests import Request, Requests
from fluxduel.training.runs.run_directory import Choice, RunDirectoryError
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.stage import StageResult

# No schedule that has the number of steps in view, which then decides nothing but the end.
DIFFUSION = dataclasses.replace(STAGE_1, steps=9, lr_schedule="constant", preview_every=0)
ADVERSARIAL = dataclasses.replace(STAGE_2, steps=6, lr_schedule="constant")
WARMUP = {"diffusion": 0, "adversarial": 2, "heads": 2}


class Asking(Recorder):
    """Asks for ``wanted`` when it is told of a step. For the end that is too late: it is the next one's."""

    def __init__(self, wanted: dict[int, Request]) -> None:
        super().__init__()
        self.requests, self._wanted = Requests(), wanted
        if 0 in wanted:
            self.requests.ask(wanted[0])

    def scalars(self, stage: str, step: int, total: int, values: dict[str, float]) -> None:
        super().scalars(stage, step, total, values)
        if step and step in self._wanted:
            self.requests.ask(self._wanted[step])


@pytest.fixture
def data(family):
    return with_phrase(make_data(count=12, held_out=3, side=8, small=family))


class Trains:
    """One stage of one kind on one set of inputs."""

    def __init__(self, start, data, kind: str) -> None:
        self.start, self.data = start, data
        self.config = DIFFUSION if kind == "diffusion" else ADVERSARIAL
        self.judge: DiscriminatorConfig | None = {"adversarial": JUDGE, "heads": HEADS}.get(kind)

    def __call__(self, folder: Path, recorder: Recorder | None = None, **changes: Any) -> StageResult:
        recorder = recorder or Recorder()
        config = dataclasses.replace(self.config, **changes)
        run: dict[str, Any] = {
            "device": DEVICE,
            "reporter": recorder,
            "run_folder": folder,
            "requests": getattr(recorder, "requests", None),
        }
        if self.judge is None:
            return train_diffusion_stage(self.start, self.data, config, **run)
        return train_adversarial_stage(self.start, self.data, self.judge, config, **run)

    def wanted(self, **changes: Any) -> Fingerprint:
        kind = "diffusion" if self.judge is None else "adversarial"
        return fingerprint(kind, self.start, self.data, dataclasses.replace(self.config, **changes), self.judge)


def without_total(result: StageResult) -> list[dict[str, float]]:
    return [{name: value for name, value in record.items() if name != "total"} for record in result.log.records]


@each_family
@pytest.mark.parametrize(("kind", "update"), [("diffusion", 3), ("adversarial", 3), ("heads", 1), ("heads", 4)])
def test_a_run_that_is_finished_early_is_the_run_of_so_many_steps(start, data, tmp_path, kind, update):
    """Weights and statistics, bit for bit, and the best state of a watched stage. It can go on as that run does."""
    train = Trains(start, data, kind)
    step = WARMUP[kind] + update
    recorder = Asking({step - 1: "finish"})
    early = train(tmp_path / "early", recorder)
    short = train(tmp_path / "short", steps=update)
    assert not early.stopped and early.log.records[-1]["step"] == step
    assert_same_tensors(early.lora.tensors, short.lora.tensors)
    assert without_total(early) == without_total(short)
    total = WARMUP[kind] + train.config.steps
    told = f"Finished early, as asked: the last update was {step} of {total}."
    assert [is_warning(text) for _, text in recorder.notes if told in text] == [False]
    assert not any("would give another" in text for _, text in recorder.notes)
    assert early.lora.provenance[-1]["finished_early"] == update and "finished_early" not in short.lora.provenance[-1]
    number = 1 if kind == "diffusion" else 2
    said = f" Stage {number} was finished early, after update {step} of {total}."
    # Where the watch found the start to be the best there is nothing to advise on.
    moved = not UNCHANGED.items() <= early.lora.provenance[-1].items()
    assert (said in advice_for(early.lora)[0]) == moved and (moved or kind != "diffusion")
    # The line about what is delivered stays the last one.
    assert kind == "diffusion" or "delivered" in early.log.notes[-1][1]

    longer = [train(tmp_path / name, steps=update + 1) for name in ("early", "short")]
    assert_same_tensors(longer[0].lora.tensors, longer[1].lora.tensors)
    assert without_total(longer[0]) == without_total(longer[1])
    assert "finished_early" not in longer[0].lora.provenance[-1]


def test_the_same_run_again_is_what_was_finished_early(start, data, tmp_path):
    train = Trains(start, data, "diffusion")
    folder = tmp_path / "diffusion-1"
    early = train(folder, Asking({2: "finish"}))
    for steps in (9, 3):
        choice = run_directory.choose(tmp_path, train.wanted(steps=steps))
        assert (choice.folder, choice.finished) == (folder, True)
        again = Recorder()
        assert_same_tensors(train(folder, again, steps=steps).lora.tensors, early.lora.tensors)
        assert again.records == [] and [record["step"] for record in again.earlier] == [0, 1, 2, 3]
    text = run_directory.choose(tmp_path, train.wanted()).text
    assert "finished early in diffusion-1, as asked, at update 3 of 9" in text
    assert "With any other steps above 3 it goes on from there, and another seed begins anew." in text
    for steps in (4, 8, 10):
        choice = run_directory.choose(tmp_path, train.wanted(steps=steps))
        assert (choice.text, choice.finished) == (f"Extending diffusion-1: steps was 3, now {steps}.", False)
    assert run_directory.choose(tmp_path, train.wanted(steps=2)).text.startswith("A new run: diffusion-1 has 3 steps")


@pytest.mark.parametrize("kind", ["diffusion", "adversarial", "heads"])
def test_what_was_finished_early_and_reopened_goes_on_to_its_last_update(start, data, tmp_path, kind):
    """To the weights of a run without a break, also under a schedule that has the last update in view."""
    train = Trains(start, data, kind)
    changes = {"lr_schedule": "linear"}
    folder = tmp_path / f"{train.wanted().stage}-1"
    step = WARMUP[kind] + 3
    train(folder, Asking({step - 1: "finish"}), **changes)
    assert run_directory.choose(tmp_path, train.wanted(**changes)).finished
    run_directory.reopen(folder)
    choice = run_directory.choose(tmp_path, train.wanted(**changes))
    assert choice == Choice(folder, f"Going on with {folder.name} from update {step}.")
    recorder = Recorder()
    done = train(folder, recorder, **changes)
    assert [record["step"] for record in recorder.records] == list(range(step + 1, train.wanted().total + 1))
    assert "finished_early" not in done.lora.provenance[-1]
    assert not any("Finished early" in text for _, text in done.log.notes)
    assert_same_tensors(done.lora.tensors, train(tmp_path / "whole", **changes).lora.tensors)
    with pytest.raises(RunDirectoryError, match="was not finished early"):
        run_directory.reopen(folder)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("diffusion", "lr_schedule"), ("heads", "lr_schedule"), ("heads", "adversarial_schedule"),
     ("heads", "diffusion_schedule")],
)  # fmt: skip
def test_what_a_schedule_has_in_view_is_another_run(start, data, tmp_path, kind, name):
    """Finished early under it the weights are not those of a run of so many steps, and it is not taken for that."""
    train = Trains(start, data, kind)
    changes = {name: "linear"}
    if kind != "diffusion":
        changes |= {"watch": False, "balance": "fixed", "adversarial_weight_end": 0.0, "diffusion_weight_end": 0.0}
    step = WARMUP[kind] + 4
    folder = tmp_path / f"{train.wanted().stage}-1"
    recorder = Asking({step - 1: "finish"})
    early = train(folder, recorder, **changes)
    short = train(tmp_path / "short" / "run", steps=4, **changes)
    assert any(not early.lora.tensors[key].equal(tensor) for key, tensor in short.lora.tensors.items())
    planned = train.config.steps
    assert any(f"{name} had {planned} steps in view: steps = 4" in text for _, text in recorder.notes)
    choice = run_directory.choose(tmp_path, train.wanted(steps=4, **changes))
    assert not choice.finished and choice.folder != folder
    finished = f"A new run: {folder.name} was finished early with 4 steps made"
    assert choice.text == f"{finished}, but its {name} had {planned} in view."
    assert run_directory.choose(tmp_path, train.wanted(**changes)).finished


@pytest.mark.parametrize("damage", ["result", "result and checkpoints"])
def test_an_early_end_whose_result_is_gone_is_made_anew_as_it_was(start, data, tmp_path, damage):
    """And not trained on to the steps that were asked for once."""
    train = Trains(start, data, "diffusion")
    early = train(tmp_path / "run", Asking({3: "finish"}))
    (tmp_path / "run" / "lora.safetensors").unlink()
    if damage != "result":
        for state in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
            state.write_text("gone")
    again = train(tmp_path / "run")
    assert_same_tensors(again.lora.tensors, early.lora.tensors)
    assert again.log.records[-1]["step"] == 4 and again.lora.provenance == early.lora.provenance


def test_no_run_is_finished_before_the_loras_first_update(start, data, tmp_path):
    """Asked before the first step, and so in the discriminator's warm-up."""
    train = Trains(start, data, "heads")
    early = train(tmp_path / "run", Asking({0: "finish"}))
    assert early.log.records[-1]["step"] == 3 and early.lora.provenance[-1]["finished_early"] == 1
    assert early.lora.provenance[-1]["steps_done"] == 1


def test_asked_at_the_last_step_it_is_no_early_end(start, data, tmp_path):
    train = Trains(start, data, "diffusion")
    recorder = Asking({8: "finish"})
    assert "finished_early" not in train(tmp_path / "run", recorder).lora.provenance[-1]
    assert not any("Finished early" in text for _, text in recorder.notes)


def test_cancel_in_the_last_measurement_of_an_early_end_leaves_a_run_that_goes_on(start, data, tmp_path):
    """Cancel counts for more: the same run then goes to the steps that were asked for, and says nothing else."""
    train = Trains(start, data, "diffusion")

    class Cancels(Asking):
        def should_stop(self) -> bool:
            return self.requests.asked("finish")

    # Step 3 is measured only where it is the last.
    stopped = train(tmp_path / "run", Cancels({2: "finish"}))
    assert stopped.stopped and stopped.goes_on_from in (2, 3)
    whole, again = train(tmp_path / "whole"), train(tmp_path / "run")
    assert_same_tensors(again.lora.tensors, whole.lora.tensors)
    assert not any("Finished early" in text for _, text in again.log.notes)


def test_a_checkpoint_and_a_preview_on_request(start, data, tmp_path):
    """They change nothing of what is trained."""
    train = Trains(start, data, "diffusion")
    settings = {"checkpoint_every": 0, "keep_last": 5}
    recorder = Asking({2: "checkpoint", 5: "preview", 7: "checkpoint"})
    asked = train(tmp_path / "run", recorder, **settings)
    whole = train(tmp_path / "whole", **settings)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert names == ["step-00000002", "step-00000007", "step-00000009"]
    assert [text for step, text in recorder.notes if step in (2, 7)] == [
        f"The checkpoint of update {step} is written. lora.safetensors in it is a LoRA to try." for step in (2, 7)
    ]
    tried = adapter.load_file(tmp_path / "run" / "checkpoints" / names[0] / "lora.safetensors", start.base)
    assert tried.tensors.keys() == whole.lora.tensors.keys()
    assert [step for step, _ in recorder.shown] == [5]
    assert_same_tensors(asked.lora.tensors, whole.lora.tensors)
    assert asked.log.records == whole.log.records and asked.log.notes == whole.log.notes


def test_the_preview_on_request_is_that_of_preview_every(start, data, tmp_path):
    train = Trains(start, data, "diffusion")
    on_request, by_schedule = Asking({5: "preview"}), Asking({})
    train(tmp_path / "one", on_request)
    train(tmp_path / "other", by_schedule, preview_every=5)
    ((step, rows),) = on_request.shown
    assert step == 5 and (step, rows) in by_schedule.shown
    assert torch.equal(on_request.previews[0], by_schedule.previews[by_schedule.shown.index((step, rows))])


def test_the_defaults_have_no_schedule_with_the_number_of_steps_in_view():
    """So that as a rule what was finished early serves a run of so many steps."""
    assert AdversarialStageConfig().lr_schedule == AdversarialStageConfig().diffusion_schedule == "constant"
