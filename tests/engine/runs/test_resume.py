"""A run that is cut off and goes on is the run that was not: weights, discriminator and statistics, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.small import each_family
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs import planned, run_directory
from fluxduel.training.runs.fingerprints import fingerprint
from fluxduel.training.runs.run_directory import RunDirectoryError
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.plan import Plan, as_asked
from fluxduel.training.stages.ranks import ALONE
from fluxduel.training.stages.stage import StageFailure, StageResult

STAGE_1 = DiffusionStageConfig(
    steps=7, batch_size=2, learning_rate=1e-2, lr_schedule="cosine", lr_warmup_steps=2, caption_dropout=0.3,
    validate_every=2, checkpoint_every=3, preview_every=4, preview_steps=1, keep_last=2, ema_decay=0.9,
)  # fmt: skip
# Everything that has a state of its own is on.
STAGE_2 = AdversarialStageConfig(
    steps=6, batch_size=2, learning_rate=1e-2, discriminator_warmup=2, validate_every=2, checkpoint_every=3,
    balance="gradient_ratio", target="two_samplers", target_steps=2, watch_pictures=4, keep_last=2, ema_decay=0.9,
    discriminator_updates=2, lr_schedule="linear",
)  # fmt: skip
JUDGE = DiscriminatorConfig(
    architecture="patch_cnn", width=8, loss="hinge", spectral_norm=True, lecam=0.3, replay_share=0.5,
    augmentation_probability=0.3, learning_rate=1e-2,
)  # fmt: skip
HEADS = DiscriminatorConfig(width=8, learning_rate=1e-2, mismatched_share=0.5)

Train = Callable[..., StageResult]


@pytest.fixture
def data(family):
    return with_phrase(make_data(count=12, held_out=3, side=8, small=family))


def trainer(start, data, kind: str) -> Train:
    """A call that trains in a folder; the global random state is another each time."""

    def train(folder: Path | None, recorder: Recorder | None = None, **changes) -> StageResult:
        torch.manual_seed(random.randrange(1 << 30))
        recorder = recorder or Recorder()
        if kind == "diffusion":
            config = dataclasses.replace(STAGE_1, **changes)
            return train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=folder)
        config = dataclasses.replace(STAGE_2, **changes)
        judge = JUDGE if kind == "adversarial" else HEADS
        return train_adversarial_stage(start, data, judge, config, device=DEVICE, reporter=recorder, run_folder=folder)

    return train


def polls_of(train: Train, folder: Path) -> int:
    """How often a whole run asks whether it should stop."""
    recorder = Recorder()
    train(folder, recorder)
    return recorder._polled


def assert_same_runs(one: Path, other: Path) -> None:
    assert (one / "stats.jsonl").read_bytes() == (other / "stats.jsonl").read_bytes()
    assert (one / "discriminator.safetensors").exists() == (other / "discriminator.safetensors").exists()
    for name in ("lora.safetensors", "discriminator.safetensors"):
        if (one / name).exists():
            assert_same_tensors(load_file(one / name), load_file(other / name))


def assert_same_tensors(one, other) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


KINDS = ("diffusion", "adversarial", "heads")


@each_family
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_cancelled_anywhere_ends_as_one_that_was_not(start, data, tmp_path, kind):
    train = trainer(start, data, kind)
    polls = polls_of(train, tmp_path / "whole")
    whole = train(tmp_path / "whole")
    # Also in the midst of a measurement, of which there are more polls than of steps.
    chosen = sorted(random.Random(kind).sample(range(1, polls), min(6, polls - 1)))
    for number in chosen:
        folder = tmp_path / f"stopped-{number}"
        stopped = train(folder, Recorder(stop_before=number))
        assert stopped.stopped and stopped.goes_on_from is not None
        recorder = Recorder()
        resumed = train(folder, recorder)
        assert not resumed.stopped
        assert_same_tensors(resumed.lora.tensors, whole.lora.tensors)
        assert_same_runs(folder, tmp_path / "whole")
        assert resumed.log.records == whole.log.records and resumed.log.notes == whole.log.notes
        # Nothing is done twice: the page has the earlier records, and only the others are reported again.
        assert [r["step"] for r in recorder.earlier + recorder.records] == [r["step"] for r in whole.log.records]


@pytest.mark.parametrize("validate_every", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_before_the_first_step_outlives_a_cancel_before_it(start, data, tmp_path, kind, validate_every):
    """The checkpoint of step 0 has it told, whether the cancel came in the first measurement or there is none."""
    train = trainer(start, data, kind)
    settings = {"steps": 2, "lr_warmup_steps": 2, "validate_every": validate_every}
    whole = train(tmp_path / "whole", **settings)
    assert any("lr_warmup_steps is 2" in text for step, text in whole.log.notes if step == 0)
    recorders = Recorder(stop_before=1), Recorder()
    assert train(tmp_path / "run", recorders[0], **settings).stopped
    train(tmp_path / "run", recorders[1], **settings)
    assert_same_runs(tmp_path / "run", tmp_path / "whole")
    assert tuple(recorders[0].notes + recorders[1].notes) == whole.log.notes, "twice, or not at all"


def test_what_a_step_says_outlives_a_cancel_in_the_measurement_after_it(start, data, tmp_path):
    """The measurement is made again, and the step, which found no memory for its look at held-out reals, is not."""
    config = dataclasses.replace(STAGE_2, steps=1, discriminator_warmup=0, validate_every=1)

    def short_of_memory(plan: Plan) -> AdversarialStage:
        stage = AdversarialStage(start, data, JUDGE, config, device=DEVICE, plan=plan)

        def fail(*_) -> None:
            # That look alone judges without a gradient.
            if not torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory.")

        for module in stage.judges.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(fail)
        return stage

    def sitting(folder: Path, recorder: Recorder) -> StageResult:
        wanted = fingerprint("adversarial", start, data, config, JUDGE)
        plan, settings = as_asked(start.base.precision, config), planned.settings_of(start)
        return planned.train(short_of_memory, lambda _: plan, wanted, start, recorder, folder, settings, ALONE)

    recorder = Recorder()
    whole = sitting(tmp_path / "whole", recorder)
    assert [step for step, text in whole.log.notes if text.startswith("No look at held-out pictures")] == [1]
    stopped = Recorder(stop_before=recorder._polled - 1)
    assert sitting(tmp_path / "run", stopped).stopped
    assert "No look" in stopped.notes[-1][1] and stopped.records[-1]["step"] == 0
    sitting(tmp_path / "run", Recorder())
    assert_same_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_may_be_cancelled_again_and_again(start, data, tmp_path, kind):
    train = trainer(start, data, kind)
    polls = polls_of(train, tmp_path / "whole")
    sittings, lengths = 0, random.Random(kind)
    # Now and then too short for a measurement, which then is made in a later sitting.
    while train(tmp_path / "run", Recorder(stop_before=lengths.randint(1, polls // 2))).stopped:
        sittings += 1
        assert sittings < 40
    assert sittings > 1
    assert_same_runs(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_gives_its_result_at_once(start, data, tmp_path, kind, monkeypatch):
    train = trainer(dataclasses.replace(start, file="mine"), data, kind)
    first = train(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr("fluxduel.training.stages.stage.load_base", lambda *_, **__: pytest.fail("the base was loaded"))
        recorder = Recorder()
        again = train(tmp_path / "run", recorder, checkpoint_every=1, gradient_checkpointing=False)
    assert not recorder.records and len(recorder.earlier) == len(first.log.records)
    assert_same_tensors(again.lora.tensors, first.lora.tensors)
    assert again.log == first.log and again.lora.config == first.lora.config
    assert (first.lora.file, again.lora.file) == ("", "")
    # As JSON: tuples come back as lists.
    assert json.dumps(again.lora.provenance) == json.dumps(first.lora.provenance)


@pytest.mark.parametrize("damage", ["remove", "truncate", "change", "statistics"])
def test_a_result_that_was_changed_is_made_anew(start, data, tmp_path, damage):
    train = trainer(start, data, "adversarial")
    first = train(tmp_path / "run")
    file = tmp_path / "run" / ("stats.jsonl" if damage == "statistics" else "lora.safetensors")
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-100] if damage == "truncate" else content[:-7] + b"1234567")
    again = train(tmp_path / "run")
    assert_same_tensors(again.lora.tensors, first.lora.tensors)
    assert_same_tensors(load_file(tmp_path / "run" / "lora.safetensors"), load_file_of(first, tmp_path))


def load_file_of(result: StageResult, folder: Path):
    return load_file(lora.save(result.lora, folder / "expected.safetensors"))


@each_family
@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_extend_a_finished_run(start, data, tmp_path, kind):
    """With schedules that do not depend on the number of steps it is the longer run, measurements included."""
    train = trainer(start, data, kind)
    plain = {"lr_schedule": "constant"}
    train(tmp_path / "run", steps=4, **plain)
    recorder = Recorder()
    longer = train(tmp_path / "run", recorder, steps=8, **plain)
    warmup = 0 if kind == "diffusion" else STAGE_2.discriminator_warmup
    assert recorder.records[0]["step"] == 4 + warmup + 1 and not longer.stopped
    whole = train(tmp_path / "whole", steps=8, **plain)
    assert_same_tensors(longer.lora.tensors, whole.lora.tensors)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 8


def test_a_longer_schedule_is_the_new_one(start, data, tmp_path):
    """The learning rate of an extended run is that of the schedule for all its steps, from where it goes on."""
    train = trainer(start, data, "diffusion")
    train(tmp_path / "run", steps=4)
    longer = train(tmp_path / "run", steps=8)
    whole = train(None, steps=8)
    rates = [[r["learning_rate"] for r in result.log.records if r["step"] > 4] for result in (longer, whole)]
    assert rates[0] == rates[1] and len(rates[0]) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_keeps_the_last_whole_state(start, data, tmp_path, kind, monkeypatch):
    """Out of memory before anything was updated: the checkpoint is of the step before, however long ago the last."""
    train = trainer(start, data, kind)
    train(tmp_path / "whole")
    fails_at, calls = 5, []
    stage_class = DiffusionStage if kind == "diffusion" else AdversarialStage
    step = stage_class.step

    def failing(self, number):
        calls.append(number)
        if number == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(stage_class, "step", failing)
        with pytest.raises(StageFailure) as failure:
            train(tmp_path / "run", checkpoint_every=0)
    assert failure.value.result.goes_on_from == fails_at
    # With less memory: another cut of the same batch is the same run, up to rounding.
    resumed = train(tmp_path / "run", batch_size=1, gradient_accumulation=2, gradient_checkpointing=True)
    whole = load_file(tmp_path / "whole" / "lora.safetensors")
    assert not resumed.stopped
    kept = load_file(tmp_path / "run" / "lora.safetensors")
    assert all(torch.allclose(kept[key], whole[key], rtol=0.02, atol=2e-3) for key in whole)


def test_a_failure_in_the_midst_of_an_update_is_no_place_to_go_on_from(start, data, tmp_path, monkeypatch):
    train = trainer(start, data, "heads")
    update = AdversarialStage.update_both

    def failing(self, draw, number, teach):
        if number == 3:
            raise RuntimeError("lost the device")
        return update(self, draw, number, teach)

    with monkeypatch.context() as patched:
        # By then the discriminator has had an update of its own in this step.
        patched.setattr(AdversarialStage, "update_both", failing)
        with pytest.raises(StageFailure) as failure:
            train(tmp_path / "run", discriminator_ratio="fixed")
    assert failure.value.result.goes_on_from == 3
    train(tmp_path / "run", discriminator_ratio="fixed")
    train(tmp_path / "whole", discriminator_ratio="fixed")
    assert_same_runs(tmp_path / "run", tmp_path / "whole")


def test_a_folder_of_another_run_is_refused_with_what_differs(start, data, tmp_path):
    train = trainer(start, data, "heads")
    train(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"another run.*learning_rate \(was 0.01, now 0.02\)"):
        train(tmp_path / "run", learning_rate=0.02)
    assert train(tmp_path / "run").log.records


@pytest.mark.parametrize("refused", ["at once", "by the stage"])
def test_a_run_that_is_refused_leaves_no_folder(start, data, tmp_path, refused):
    """But one that was there stays, with what is in it; and so does that of a run which has begun."""
    one = tuple(dataclasses.replace(sample, prompt=0) for sample in data.samples)
    alike = dataclasses.replace(data, samples=one, prompts=data.prompts[:1], few_step_prompts=data.few_step_prompts[:1])
    judge, error = {"at once": (dataclasses.replace(JUDGE, mismatched_share=0.5), "does not look at prompts"),
                    "by the stage": (HEADS, "caption")}[refused]  # fmt: skip

    def train(folder: Path) -> None:
        train_adversarial_stage(start, alike, judge, STAGE_2, device="cpu", reporter=Recorder(), run_folder=folder)

    with pytest.raises(ValueError, match=error):
        train(tmp_path / "run")
    assert not any(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    with pytest.raises(ValueError, match=error):
        train(tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


def test_two_processes_do_not_train_one_run(start, data, tmp_path):
    wanted = fingerprint("diffusion", start, data, STAGE_1)
    with run_directory.RunDirectory.opened(tmp_path / "run", wanted, {}):
        with pytest.raises(RunDirectoryError, match="is in use: process \\d+ on .* trains this run"):
            trainer(start, data, "diffusion")(tmp_path / "run")
    assert not trainer(start, data, "diffusion")(tmp_path / "run").stopped


@each_family
def test_training_uses_no_random_state(start, data):
    """So a checkpoint holds none: each draw is a function of the seed, the step and the place in the batch."""
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    stage = AdversarialStage(start, data, JUDGE, STAGE_2, device=DEVICE)
    run(stage, Recorder())
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
