"""What is said of sampling with a LoRA that stage 2 has trained, and from what of its past."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.lora.sampling_advice import FEW_STEPS, UNCHANGED, advice_of, departures, sampling_advice

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
    assert sampling_advice(AdversarialStageConfig()) == one("4 steps")
    assert sampling_advice(AdversarialStageConfig(guidance=3.5)) == one("4 steps", "3.5")


def test_a_guidance_that_was_judged_is_to_be_sampled_at() -> None:
    """Held to the start's answers at that guidance; held to pictures it is a number that training has to have."""
    guided = AdversarialStageConfig(guidance=3.5, anchor="start")
    assert sampling_advice(guided) == one("4 steps", "3.5, and is for that")
    assert advice_of([STAGE_1, stage_2(guidance=3.5, anchor="start")])[0] == sampling_advice(guided)
    assert sampling_advice(AdversarialStageConfig(anchor="start")) == one("4 steps")
    # From a file of a version that had no anchor.
    older = stage_2(guidance=3.5)
    del older["config"]["anchor"]
    assert advice_of([STAGE_1, older])[0] == one("4 steps", "3.5")


def test_a_lora_of_stage_1_is_for_any_sampler() -> None:
    for stages in ([STAGE_1], [STAGE_1, STAGE_1]):
        advice, trigger = advice_of(stages)
        assert advice.startswith("Sample as with the base alone: any sampler, scheduler, number of steps")
        assert "Strength 1.0" in advice and trigger == ""
        assert departures(stages, sampler="deis", step_counts=(50,), strength=0.3) == []


@pytest.mark.parametrize("target", ["target_steps", "x0", "jump"])
@pytest.mark.parametrize(("steps", "said"), [(1, "1 step"), (2, "2 steps"), (FEW_STEPS, "8 steps"), (28, "28 steps")])
def test_one_sampler_has_the_steps_that_were_asked_for(target: str, steps: int, said: str) -> None:
    config = AdversarialStageConfig(target=target, target_steps=steps)
    assert sampling_advice(config) == one(said)
    # What tells two samplers apart is no part of this.
    with_guidance = dataclasses.replace(config, few_step_guidance=7.5)
    assert sampling_advice(with_guidance, "quick draft") == one(said)
    assert advice_of([STAGE_1, stage_2("quick draft", target=target, target_steps=steps)]) == (
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
    assert sampling_advice(AdversarialStageConfig(**changes), "quick draft") == expected
    assert advice_of([STAGE_1, stage_2("quick draft", **changes)]) == (expected, trigger)


def test_a_stage_that_delivered_its_start_is_passed_over() -> None:
    """Its settings say nothing of weights that it has not changed; the stage before it does."""
    unchanged = stage_2(target_steps=4) | UNCHANGED
    assert advice_of([STAGE_1, unchanged]) == advice_of([STAGE_1])
    assert advice_of([STAGE_1, stage_2(target_steps=6), unchanged])[0] == one("6 steps")
    assert advice_of([unchanged]) == ("", "")
    assert departures([STAGE_1, unchanged], sampler="heun", step_counts=[25], strength=0.5) == []


def test_guidance_is_written_as_it_would_be_typed() -> None:
    config = AdversarialStageConfig(target="two_samplers", few_step_guidance=3)
    assert "set guidance to 3. " in sampling_advice(config)
    # Told by guidance, the dataset needs no phrase.
    assert advice_of([stage_2("", target="two_samplers", few_step_guidance=3)]) == (sampling_advice(config), "")


def test_the_last_stage_counts() -> None:
    early, late = stage_2(target_steps=2), stage_2("quick draft", target="two_samplers")
    assert advice_of([late, early]) == (one("2 steps"), "")
    assert advice_of([early, late])[1] == "quick draft"


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
    assert advice_of(provenance) == ("", "")


def test_options_of_other_versions_do_not_matter() -> None:
    entry = stage_2(target_steps=6)
    entry["config"] = {name: entry["config"][name] for name in ("target", "target_steps", "few_step_guidance")}
    assert advice_of([entry | {"discriminator": {}}]) == (one("6 steps"), "")
    entry["config"] |= {"unheard_of": 1}
    assert advice_of([entry]) == (one("6 steps"), "")


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
