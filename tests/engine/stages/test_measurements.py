"""What measurements cost, in time and where memory does not suffice for them: themselves, and not the run."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.stages.test_adversarial_stage import JUDGE
from fluxduel.tests.engine.stages.test_diffusion_stage import CONFIG as STAGE_1
from fluxduel.tests.engine.stages.test_watched_stage import WATCHED, same
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.runs.stage_loop import Loop, run
from fluxduel.training.runs.train_stages import train_diffusion_stage
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.judges import share_of_base
from fluxduel.training.stages.measurements import Measurements, Stopped
from fluxduel.training.stages.ranks import ALONE, Ranks
from fluxduel.training.stages.stage import Stage

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 8.00 GiB."
WATCHED = dataclasses.replace(WATCHED, steps=4, learning_rate=1e-3)


def short_of_memory(stage: Stage, when: Callable[[dict[str, Any]], bool]) -> None:
    """Let the transformer run out of memory in passes without a gradient for which ``when`` says so."""

    def fail(_: torch.nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() and when(given):
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    stage.base.transformer.register_forward_pre_hook(fail, with_kwargs=True)


def sampling(given: dict[str, Any]) -> bool:
    """The first step of a sampler, which alone begins at pure noise."""
    return bool((given["timestep"] == 1.0).all())


def of(data: RealLatents, indices: tuple[int, ...]) -> Callable[[dict[str, Any]], bool]:
    """The flow loss of these pictures, by their captions."""
    prompts = [data.prompts[data.samples[i].prompt].prompt_embeds for i in indices]

    def found(given: dict[str, Any]) -> bool:
        mine = any(torch.equal(row, prompt) for row in given["encoder_hidden_states"].cpu() for prompt in prompts)
        return mine and bool((given["timestep"] == 0.125).all())

    return found


def watched(start, data, **changes) -> AdversarialStage:
    return AdversarialStage(start, data, JUDGE, dataclasses.replace(WATCHED, **changes), device=DEVICE)


def at(result, name: str) -> list[int]:
    return [record["step"] for record in result.log.records if name in record]


# Out of memory


def test_out_of_memory_in_a_measurement_of_stage_1_costs_the_measurement(start, data):
    config = dataclasses.replace(STAGE_1, steps=4, validate_every=2, preview_every=2, preview_steps=2, ema_decay=0.9)
    stage, recorder = DiffusionStage(start, data, config, device=DEVICE), Recorder()
    short_of_memory(stage, lambda _: True)
    result = run(stage, recorder)
    plain = run(DiffusionStage(start, data, config, device=DEVICE), Recorder())
    assert same(result.lora.tensors, plain.lora.tensors), "weights were not put back after the failure"
    assert not result.stopped and not at(result, "held_out_loss") and not recorder.previews
    told = [(step, text) for step, text in recorder.notes if "out of memory" in text]
    # The last preview is of the result, when the log is closed.
    assert [step for step, _ in told] == [0, 0, 2, 2, 4, 4] and tuple(recorder.notes[:-1]) == result.log.notes
    for (_, text), (name, advice) in zip(
        told, 3 * [("held-out flow loss", "validate_every to 0"), ("preview", "preview_every to 0")], strict=True
    ):
        assert text.startswith(f"No {name} this time: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)")
        assert "GPU 0" not in text and "Lower batch_size" in text and advice in text


@pytest.mark.parametrize("when", ["always", "at the start", "later"])
def test_a_watch_that_cannot_sample_delivers_the_last_state(start, data, when):
    """Without two measurements there is nothing to compare and to go back on, and no later state is a start."""
    fails_before, fails_after = when != "later", when != "at the start"
    stage = watched(start, data)
    short_of_memory(stage, lambda given: sampling(given) and (fails_after if stage.lora_updates else fails_before))
    loop = Loop(stage, Recorder(), None)
    result = loop.run()
    plain = run(watched(start, data, watch=False), Recorder())
    assert same(result.lora.tensors, plain.lora.tensors) and not same(result.lora.tensors, dict(start.tensors))
    assert at(result, "score") == ([] if fails_before else [0]) and at(result, "held_out_loss") == [0, 2, 4]
    words = "The start could not be sampled with" if fails_before else "No state after the start could be sampled with"
    assert words in result.log.notes[-1][1] and "turn watch off" in str(result.log.notes)
    assert loop.score is None, "a checkpoint's score would be a loss, and is compared with scores"
    # What has been left out is part of the state.
    again = watched(start, data)
    again.restore(*stage.state())
    again.conclude()
    assert same(again.delivered(), dict(result.lora.tensors)) and words in again.take_notes()[-1]


def test_a_watch_that_cannot_sample_once_judges_the_other_states(start, data):
    stage = watched(start, data, steps=6)
    short_of_memory(stage, lambda given: sampling(given) and stage.lora_updates == 4)
    result = run(stage, Recorder())
    assert at(result, "score") == [0, 2, 6] and at(result, "held_out_loss") == [0, 2, 4, 6]
    text = result.log.notes[-1][1]
    assert "is delivered: score" in text or "did not improve" in text


def test_a_loss_that_could_not_be_measured_at_the_start_is_not_judged(start, data):
    """Training pictures' or held-out ones': later losses have nothing to be compared with; the samples are judged."""
    for indices in (data.training, data.held_out):
        stage = watched(start, data)
        fails = of(data, indices)
        short_of_memory(stage, lambda given, stage=stage, fails=fails: not stage.lora_updates and fails(given))
        result = run(stage, Recorder())
        assert at(result, "score") == [0, 2, 4]
        assert at(result, "held_out_loss") == ([0, 2, 4] if indices is data.training else [2, 4])
        assert stage.state()[1]["monitor"]["checkups"]["start"]["held_out_loss"] is None
        (told,) = [text for step, text in result.log.notes if "out of memory" in text]
        assert ("on training pictures" in told) == (indices is data.training)


def test_a_loss_that_could_not_be_measured_later_is_left_out(start, data):
    stage = watched(start, data)
    fails = of(data, data.held_out)
    short_of_memory(stage, lambda given: stage.lora_updates == 2 and fails(given))
    result = run(stage, Recorder())
    assert at(result, "score") == [0, 2, 4] and at(result, "held_out_loss") == [0, 4]
    assert all(value == value for record in result.log.records for value in record.values()), "a NaN was recorded"


def test_what_is_out_of_memory_and_what_is_not():
    """The CPU's allocator fails for real; other devices' words; any other error goes through."""
    measurements = Measurements(ALONE)
    assert measurements.take("loss", lambda: torch.empty(1 << 60, dtype=torch.uint8), "do less") is None
    (note,) = measurements.take_notes()
    assert note.startswith("No loss this time: out of memory (") and note.endswith("Lower batch_size, or do less.")
    assert measurements.take_notes() == []

    def failing(error: Exception) -> Callable[[], float]:
        def measure() -> float:
            raise error

        return measure

    error = RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
    assert measurements.take("loss", failing(error), "") is None
    for error in (RuntimeError("shapes differ"), ValueError("out of memory is no reason"), Stopped()):
        with pytest.raises(type(error)):
            measurements.take("loss", failing(error), "")
    assert len(measurements.take_notes()) == 1 and measurements.take("loss", lambda: 0.5, "") == 0.5


POLLS = 3


def measure_together(rank: int, folder: str) -> None:
    """One of two ranks: one runs out of memory before each of its polls in turn, then one asks to stop, then none."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks = Ranks.current(torch.device("cpu"))
    found = []
    for case in (*range(POLLS + 1), "stop", "whole"):
        measurements = Measurements(ranks)

        def measure(case=case) -> int:
            for poll in range(POLLS):
                if rank == 1 and case == poll:
                    raise torch.OutOfMemoryError(OUT_OF_MEMORY)
                if ranks.any(rank == 0 and case == "stop" and poll == 1):
                    raise Stopped
            if rank == 1 and case == POLLS:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return 7

        try:
            value = measurements.take("loss", measure, "do less")
        except Stopped:
            value = "stopped"
        # What the ranks exchange next belongs together again.
        assert ranks.agreed(float(len(found))) == len(found)
        found.append([value, len(measurements.take_notes())])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def test_all_ranks_go_without_a_measurement_that_one_has_no_memory_for(tmp_path):
    multiprocessing.spawn(measure_together, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == [[None, 1]] * (POLLS + 1) + [["stopped", 0], [7, 0]]


# Their share of the time


def counted(stage: Stage) -> int:
    """Pictures that the base is evaluated for in a validation."""
    sizes: list[int] = []
    hook = stage.base.transformer.x_embedder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    stage.validate(lambda: None)
    hook.remove()
    return sum(sizes)


@pytest.mark.parametrize("held_out", [0, 3, 20])
@pytest.mark.parametrize("target", ["diffusion", "x0", "two_samplers"])
def test_what_a_validation_costs_is_known_before_it(start, held_out, target):
    """And bounded: of many held-out pictures 16 are looked at, at four levels."""
    data = with_phrase(make_data(count=held_out + 24, held_out=held_out))
    if target == "diffusion":
        stage = DiffusionStage(start, data, dataclasses.replace(STAGE_1, validate_every=2), device=DEVICE)
    else:
        stage = watched(start, data, target=target, watch_pictures=5)
    evaluations = stage.evaluations(0)
    assert sum(evaluations.values()) == counted(stage)
    assert all(evaluations[name] <= 16 * 4 for name in evaluations if name != "samples for the watch")
    assert ("samples for the watch" in evaluations) == (target != "diffusion")


def test_the_share_of_time_is_said_once(start, data):
    """8 pictures at 3 validations, against 4 updates of 2 pictures, each forward and back: 24 of 40.

    With recomputation 24 of 48.
    """
    for checkpointing, share in ((False, "60%"), (True, "50%")):
        config = dataclasses.replace(STAGE_1, steps=4, validate_every=2, gradient_checkpointing=checkpointing)
        result = run(DiffusionStage(start, data, config, device=DEVICE), Recorder())
        ((step, text),) = result.log.notes
        assert step == 0 and f"about {share} of this run's time" in text and "held-out flow loss 8" in text
    unmeasured = dataclasses.replace(STAGE_1, steps=1, validate_every=0)
    assert not run(DiffusionStage(start, data, unmeasured, device=DEVICE), Recorder()).log.notes
    nothing, config = dataclasses.replace(data, held_out=()), dataclasses.replace(STAGE_1, steps=1, validate_every=1)
    assert not run(DiffusionStage(start, nothing, config, device=DEVICE), Recorder()).log.notes


def told_cost(result) -> tuple[int, int, int, str]:
    """Step, percentage and number of measurements of the last note on their cost, and its text."""
    step, text = [note for note in result.log.notes if note[1].startswith("Measurements take")][-1]
    share, number = re.search(r"about (\d+)% of .*there (?:are|is) (\w+)", text).groups()
    return step, int(share), 1 if number == "one" else int(number), text


@pytest.mark.parametrize("warmup", [None, 0, 3])
@pytest.mark.parametrize(("steps", "every"), [(1, 100), (1, 1), (3, 2), (4, 2), (5, 4), (6, 100)])
def test_the_cost_that_is_told_is_that_of_the_measurements_that_are_made(start, data, warmup, steps, every):
    """Also of a run that is shorter than ``validate_every``, and of one whose warm-up is measured without samples."""
    if warmup is None:
        stage: Stage = DiffusionStage(
            start, data, dataclasses.replace(STAGE_1, steps=steps, validate_every=every), device=DEVICE
        )
    else:
        stage = watched(start, data, steps=steps, validate_every=every, discriminator_warmup=warmup)
    sizes, validate = [], stage.validate

    def measured(after_step: Callable[[], None]) -> dict[str, float]:
        seen: list[int] = []
        hook = stage.base.transformer.x_embedder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        values = validate(after_step)
        hook.remove()
        sizes.append(sum(seen))
        return values

    stage.validate = measured
    step, share, number, text = told_cost(run(stage, Recorder()))
    own = stage.config.batch_size * stage.config.gradient_accumulation
    cost = own * steps * stage.evaluations_per_picture
    if warmup:
        # One fake is made, and looked at beside its real.
        cost += own * warmup * (1 + 2 * share_of_base(JUDGE, stage.base))
    assert step == 0 and number == len(sizes)
    assert share == round(100 * sum(sizes) / (sum(sizes) + cost))
    assert f"{max(sizes)} pictures" in text and ("up to" in text) == (min(sizes) < max(sizes))
    assert "1 updates" not in text and "0 updates" not in text
    assert ("A larger validate_every" in text) == (every < stage.total), "advice that cannot help, or none that can"


def test_a_run_that_is_extended_is_told_the_cost_anew(start, data, tmp_path):
    """A trial of few steps measures more often than the long run after it; one that only goes on does not say more."""

    def train(steps: int, recorder: Recorder | None = None):
        config = dataclasses.replace(STAGE_1, steps=steps, validate_every=4)
        recorder = recorder or Recorder()
        return train_diffusion_stage(start, data, config, device=DEVICE, reporter=recorder, run_folder=tmp_path / "run")

    trial = train(2)
    assert told_cost(trial)[::2] == (0, 2)
    assert train(20, Recorder(stop_before=1)).stopped and train(20, Recorder(stop_before=9)).stopped
    longer = train(20)
    told = [note for note in longer.log.notes if note[1].startswith("Measurements take")]
    assert told[0] == trial.log.notes[0] and len(told) == 2
    # At 4, 8, 12, 16 and 20: five of 8 pictures, against 18 updates of 2 pictures, forward and back.
    step, share, number, text = told_cost(longer)
    assert (step, share, number) == (2, round(100 * 40 / (40 + 18 * 4)), 5) and "of the time from here on" in text
    assert train(20).log.notes == longer.log.notes
