"""What is said of sampling with a LoRA that stage 2 has trained, and from what of its past."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.base.families.flux3 import FLUX3
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.lora.sampling_advice import (
    FEW_STEPS,
    STAGE_1_ADVICE,
    UNCHANGED,
    advice_of,
    departures,
    sampling_advice,
    trained_resolution,
    trigger_phrase,
)

DEV = FLUX1.published["FLUX.1"]

STAGE_1 = {"stage": "diffusion", "config": {"steps": 30}, "steps_done": 30}
SETTINGS = "sampler euler, scheduler simple, strength 1.0"
AFTER = (
    "are not what it was trained for. In a graph with KSampler put ModelSamplingFlux before it (max_shift 1.15, "
    "base_shift 0.5, the picture's width and height): scheduler simple is the trained schedule without that only for "
    "FLUX.1-dev at 1024 x 1024."
)
BY_PHRASE = "begin the prompt with 'quick draft, '"
BY_GUIDANCE = "set guidance to 7.5"


def stage_2(phrase: str | None = None, **changes: Any) -> dict[str, Any]:
    """Its entry in a LoRA's provenance; without a phrase where the stage trained with none."""
    config = dataclasses.asdict(AdversarialStageConfig(**changes))
    return {"stage": "adversarial", "config": config} | ({} if phrase is None else {"few_step_phrase": phrase})


def one(steps: str, guidance: str = "1") -> str:
    """What is said of a LoRA for one sampler."""
    return (
        f"Sample with {steps}, {SETTINGS}. It was trained at guidance {guidance}. Other samplers, schedulers, numbers "
        f"of steps and strengths {AFTER}"
    )


def test_the_defaults_are_for_few_steps() -> None:
    assert sampling_advice(AdversarialStageConfig(), DEV) == one("4 steps")
    assert sampling_advice(AdversarialStageConfig(guidance=3.5), DEV) == one("4 steps", "3.5")


def test_each_family_has_a_schedule_of_its_own() -> None:
    config = AdversarialStageConfig()
    klein, dev = (
        sampling_advice(config, FLUX2.published[name] | {"_class_name": FLUX2.class_name})
        for name in ("FLUX.2 klein 4B", "FLUX.2 dev")
    )
    assert klein == (
        "Sample with 4 steps, sampler euler, scheduler Flux2Scheduler, strength 1.0. Other samplers, schedulers, "
        "numbers of steps and strengths are not what it was trained for. In a graph give the sigmas of Flux2Scheduler "
        "(the steps, the picture's width and height) to SamplerCustom: KSampler's are the same for all sizes and "
        "numbers of steps."
    )
    assert dev == klein.replace("Other", "It was trained at guidance 1. Other", 1)
    image_klein = FLUX3.published["FLUX.3 Image Klein"] | {"_class_name": FLUX3.class_name}
    assert "shifted by 6.93" in sampling_advice(config, image_klein)


def test_a_guidance_that_was_judged_is_to_be_sampled_at() -> None:
    """Held to the start's answers at that guidance; held to pictures it is a number that training has to have."""
    guided = AdversarialStageConfig(guidance=3.5, anchor="start")
    assert sampling_advice(guided, DEV) == one("4 steps", "3.5, and is for that")
    assert advice_of([STAGE_1, stage_2(guidance=3.5, anchor="start")], DEV)[0] == sampling_advice(guided, DEV)
    assert sampling_advice(AdversarialStageConfig(anchor="start"), DEV) == one("4 steps")
    # From a file of a version that had no anchor.
    older = stage_2(guidance=3.5)
    del older["config"]["anchor"]
    assert advice_of([STAGE_1, older], DEV)[0] == one("4 steps", "3.5")


def test_a_lora_of_stage_1_is_for_any_sampler() -> None:
    for stages in ([STAGE_1], [STAGE_1, STAGE_1]):
        advice, trigger = advice_of(stages, DEV)
        assert advice.startswith("Sample as with the base alone: any sampler, scheduler, number of steps")
        assert "Strength 1.0" in advice and trigger == ""
        assert departures(stages, sampler="deis", step_counts=(50,), strength=0.3) == []


@pytest.mark.parametrize("target", ["target_steps", "x0", "jump"])
@pytest.mark.parametrize(("steps", "said"), [(1, "1 step"), (2, "2 steps"), (FEW_STEPS, "8 steps"), (28, "28 steps")])
def test_one_sampler_has_the_steps_that_were_asked_for(target: str, steps: int, said: str) -> None:
    config = AdversarialStageConfig(target=target, target_steps=steps)
    assert sampling_advice(config, DEV) == one(said)
    # What tells two samplers apart is no part of this.
    with_guidance = dataclasses.replace(config, few_step_guidance=7.5)
    assert sampling_advice(with_guidance, DEV, "quick draft") == one(said)
    assert advice_of([STAGE_1, stage_2("quick draft", target=target, target_steps=steps)], DEV) == (
        one(said),
        "",
    )


@pytest.mark.parametrize(("asked", "few"), [(1, 1), (2, 2), (FEW_STEPS, FEW_STEPS), (FEW_STEPS + 1, 8), (28, 8)])
@pytest.mark.parametrize(
    ("guidance", "told", "otherwise", "trigger"),
    [
        (0.0, BY_PHRASE, "leave that out", "quick draft"),
        (7.5, BY_GUIDANCE, "use the guidance you are used to", ""),
    ],
    ids=["phrase", "guidance"],
)
def test_two_samplers_are_told_apart(
    asked: int, few: int, guidance: float, told: str, otherwise: str, trigger: str
) -> None:
    changes = {"target": "two_samplers", "target_steps": asked, "few_step_guidance": guidance}
    expected = (
        f"With {few} {'step' if few == 1 else 'steps'}: {told}. With 25 steps or so: {otherwise}. Both: {SETTINGS}. It "
        f"was trained at guidance 1. Other samplers, schedulers and strengths {AFTER}"
    )
    assert sampling_advice(AdversarialStageConfig(**changes), DEV, "quick draft") == expected
    assert advice_of([STAGE_1, stage_2("quick draft", **changes)], DEV) == (expected, trigger)


def test_a_stage_that_delivered_its_start_is_passed_over() -> None:
    """Its settings say nothing of weights that it has not changed; the stage before it does."""
    unchanged = stage_2(target_steps=4) | UNCHANGED
    assert advice_of([STAGE_1, unchanged], DEV) == advice_of([STAGE_1], DEV)
    assert advice_of([STAGE_1, stage_2(target_steps=6), unchanged], DEV)[0] == one("6 steps")
    assert advice_of([unchanged], DEV) == ("", "")
    assert departures([STAGE_1, unchanged], sampler="heun", step_counts=[25], strength=0.5) == []


def test_guidance_is_written_as_it_would_be_typed() -> None:
    config = AdversarialStageConfig(target="two_samplers", few_step_guidance=3)
    assert "set guidance to 3. " in sampling_advice(config, DEV)
    # Told by guidance, the dataset needs no phrase.
    by_guidance = [stage_2("", target="two_samplers", few_step_guidance=3)]
    assert advice_of(by_guidance, DEV) == (sampling_advice(config, DEV), "")
    assert trigger_phrase(by_guidance) == ""


def test_the_last_stage_counts() -> None:
    early, late = stage_2(target_steps=2), stage_2("quick draft", target="two_samplers")
    assert advice_of([late, early], DEV) == (one("2 steps"), "")
    assert advice_of([early, late], DEV)[1] == "quick draft"


@pytest.mark.parametrize(
    "provenance",
    [
        [],
        [stage_2(), STAGE_1],
        [{}],
        [{"stage": "a stage of a later version", "config": stage_2()["config"]}],
        [{"stage": "adversarial"}],
        [{"stage": "adversarial", "config": None}],
        [stage_2(target="two_samplers")],
        [{"stage": "adversarial", "config": {"steps": 7, "objective": "x0"}}],
        [{"stage": "adversarial", "config": stage_2()["config"] | {"target": "three_samplers"}}],
        [{"stage": "adversarial", "config": stage_2()["config"] | {"target_steps": "four"}}],
        [{"stage": "adversarial", "config": stage_2()["config"] | {"target_steps": 0}}],
    ],
    ids=[
        "nothing", "stage 1 last", "empty", "another stage", "no settings", "null",
        "no phrase", "version 0.1.0",
        "a later target", "no number", "out of range",
    ],
)  # fmt: skip
def test_nothing_is_said_of_what_is_not_known(provenance: list[dict[str, Any]]) -> None:
    assert advice_of(provenance, DEV) == ("", "")


def test_options_of_other_versions_do_not_matter() -> None:
    entry = stage_2(target_steps=6)
    entry["config"] = {name: entry["config"][name] for name in ("target", "target_steps", "few_step_guidance")}
    assert advice_of([entry | {"discriminator": {}}], DEV) == (one("6 steps"), "")
    entry["config"] |= {"unheard_of": 1}
    assert advice_of([entry], DEV) == (one("6 steps"), "")


@pytest.mark.parametrize("provenance", [[], [{}], [stage_2(), STAGE_1], [{"stage": "adversarial"}]])
def test_nothing_departs_from_what_is_not_known(provenance: list[dict[str, Any]]) -> None:
    assert departures(provenance, sampler="deis", step_counts=(50,), strength=0.3) == []


FOR_4, FOR_25, FOR_BOTH = (
    [STAGE_1, stage_2(target_steps=4)],
    [STAGE_1, stage_2(target_steps=25)],
    [STAGE_1, stage_2("quick draft", target="two_samplers")],
)


@pytest.mark.parametrize(
    ("provenance", "sampling", "told"),
    [
        (FOR_4, {}, []),
        (FOR_4, {"sampler": "deis"}, ["sampler euler; deis"]),
        (FOR_4, {"step_counts": (1, 4, 25)}, []),
        (FOR_4, {"step_counts": (8, 25)}, ["4 steps; 8, 25"]),
        (FOR_4, {"step_counts": (4,), "strength": 0.7}, ["strength 1.0; 0.7"]),
        (FOR_4, {"strength": 0.0}, []),
        (FOR_4, {"sampler": "heun", "step_counts": (2,), "strength": 2.0}, ["heun", "4 steps; 2", "strength 1.0; 2 "]),
        (FOR_25, {"step_counts": (28,)}, []),
        (FOR_25, {"step_counts": (4, 8)}, ["25 steps; 4, 8"]),
        (FOR_BOTH, {"step_counts": (3,)}, []),
        (FOR_BOTH, {"step_counts": (3,), "sampler": "ipndm"}, ["sampler euler; ipndm"]),
    ],
)
def test_departures_from_the_training_are_told(
    provenance: list[dict[str, Any]], sampling: dict[str, Any], told: list[str]
) -> None:
    said = departures(provenance, **sampling)
    assert len(said) == len(told)
    for sentence, part in zip(said, told, strict=True):
        assert part in sentence and sentence.startswith("This LoRA was trained ") and sentence.endswith("may spoil it.")


def test_the_resolution_of_the_training_is_told() -> None:
    at = [{"resolution": side} for side in (512, 1024)]
    assert advice_of([STAGE_1 | at[0]], DEV)[0] == f"{STAGE_1_ADVICE} It was trained at a resolution of 512."
    stages = [STAGE_1 | at[0], stage_2(target_steps=6) | at[1]]
    assert advice_of(stages, DEV)[0] == f"{one('6 steps')} It was trained at a resolution of 1024."
    assert trained_resolution(stages) == 1024
    # A stage that left no trace, and what a file may say.
    assert trained_resolution([STAGE_1 | at[0], stage_2() | at[1] | UNCHANGED]) == 512
    assert trained_resolution([STAGE_1, stage_2()]) == trained_resolution([]) == 0
    odd = (True, "512", [1], 512.0, -512, 0, 10**9, None)
    assert [trained_resolution([STAGE_1 | {"resolution": side}]) for side in odd] == [0] * len(odd)
