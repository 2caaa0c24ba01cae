"""What measurements cost, in time and where memory does not suffice for them: themselves, and not the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.stages.test_adversarial_stage import JUDGE
from fluxduel.tests.engine.stages.test_diffusion_stage import CONFIG as STAGE_1
from fluxduel.tests.engine.stages.test_watched_stage import WATCHED, same
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.runs.stage_loop import _Loop, run
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
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
        mine = any(torch.equal(row, prompt) for row in given["encoder_hidden_states"] for prompt in prompts)
        return mine and bool((given["timestep"] == 0.125).all())

    return found


def watched(start, data, **changes) -> AdversarialStage:
    return AdversarialStage(start, data, JUDGE, dataclasses.replace(WATCHED, **changes), device="cpu")


def at(result, name: str) -> list[int]:
    return [record["step"] for record in result.log.records if name in record]


# Out of memory


def test_out_of_memory_in_a_measurement_of_stage_1_costs_the_measurement(start, data):
    config = dataclasses.replace(STAGE_1, steps=4, validate_every=2, preview_every=2, preview_steps=2, ema_decay=0.9)
    stage, recorder = DiffusionStage(start, data, config, device="cpu"), Recorder()
    short_of_memory(stage, lambda _: True)
    result = run(stage, recorder)
    plain = run(DiffusionStage(start, data, config, device="cpu"), Recorder())
    assert same(result.lora.tensors, plain.lora.tensors), "weights were not put back after the failure"
    assert not result.stopped and not at(result, "held_out_loss") and not recorder.previews
    told = [(step, text) for step, text in result.log.notes if "out of memory" in text]
    assert [step for step, _ in told] == [0, 2, 2, 4, 4] and tuple(recorder.notes) == result.log.notes
    for (_, text), (name, advice) in zip(
        told, [("held-out flow loss", "validate_every to 0")] + 2 * [
            ("held-out flow loss", "validate_every to 0"), ("preview", "preview_every to 0")
        ], strict=True,
    ):  # fmt: skip
        assert text.startswith(f"No {name} this time: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)")
        assert "GPU 0" not in text and "Lower batch_size" in text and advice in text


@pytest.mark.parametrize("when", ["always", "at the start", "later"])
def test_a_watch_that_cannot_sample_delivers_the_last_state(start, data, when):
    """Without two measurements there is nothing to compare and to go back on, and no later state is a start."""
    fails_before, fails_after = when != "later", when != "at the start"
    stage = watched(start, data)
    short_of_memory(stage, lambda given: sampling(given) and (fails_after if stage.lora_updates else fails_before))
    loop = _Loop(stage, Recorder(), None)
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
        stage = DiffusionStage(start, data, dataclasses.replace(STAGE_1, validate_every=2), device="cpu")
    else:
        stage = watched(start, data, target=target, watch_pictures=5)
    evaluations = stage.evaluations()
    assert sum(evaluations.values()) == counted(stage)
    assert all(evaluations[name] <= 16 * 4 for name in evaluations if name != "samples for the watch")
    assert ("samples for the watch" in evaluations) == (target != "diffusion")


def test_the_share_of_time_is_said_once(start, data):
    """8 pictures, against 2 updates of 2 pictures, each forward and back: 8 of 16. With recomputation 8 of 20."""
    for checkpointing, share in ((False, "50%"), (True, "40%")):
        config = dataclasses.replace(STAGE_1, steps=4, validate_every=2, gradient_checkpointing=checkpointing)
        result = run(DiffusionStage(start, data, config, device="cpu"), Recorder())
        ((step, text),) = result.log.notes
        assert step == 0 and f"about {share} of this run's time" in text and "held-out flow loss 8" in text
    unmeasured = dataclasses.replace(STAGE_1, steps=1, validate_every=0)
    assert not run(DiffusionStage(start, data, unmeasured, device="cpu"), Recorder()).log.notes
    nothing, config = dataclasses.replace(data, held_out=()), dataclasses.replace(STAGE_1, steps=1, validate_every=1)
    assert not run(DiffusionStage(start, nothing, config, device="cpu"), Recorder()).log.notes
