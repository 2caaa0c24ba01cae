"""Every option of a stage reaches what it configures: another value gives another result, or none where it should."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxduel.tests.engine.conftest import Recorder, make_data, practice_prompts, with_phrase
from fluxduel.training.base.base_model import BaseReference, FluxBase
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, StageConfig
from fluxduel.training.runs.stage_loop import run
from fluxduel.training.runs.train_stages import train_diffusion_stage
from fluxduel.training.stages import stage as stage_module
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage

SMALL: dict[str, Any] = {
    "steps": 2, "learning_rate": 1e-2, "batch_size": 2, "gradient_checkpointing": False, "validate_every": 0,
}  # fmt: skip
STAGE_1 = DiffusionStageConfig(**SMALL)
STAGE_2 = AdversarialStageConfig(
    **SMALL, discriminator_warmup=1, discriminator_ratio="fixed", watch=False, practice_share=0.0, outside_share=0.0
)
JUDGE = DiscriminatorConfig(width=8, depth=2, learning_rate=1e-2, augmentation="off")

# Option -> (what else has to be set for it to matter, one value, another value).
Cases = Mapping[str, tuple[dict[str, Any], Any, Any]]
BOTH_STAGES: Cases = {
    "steps": ({}, 2, 1),
    "learning_rate": ({}, 1e-2, 2e-2),
    "batch_size": ({}, 2, 3),
    "gradient_accumulation": ({}, 1, 2),
    "seed": ({}, 0, 1),
    "timestep_sampling": ({}, "shifted", "uniform"),
    "timestep_mean": ({}, 0.0, 0.5),
    "timestep_std": ({}, 1.0, 1.5),
    "guidance": ({}, 1.0, 3.0),
    "caption_dropout": ({}, 0.0, 1.0),
    "lr_schedule": ({}, "constant", "cosine"),
    "lr_warmup_steps": ({}, 0, 2),
    "weight_decay": ({}, 0.01, 0.5),
    "max_grad_norm": ({}, 1.0, 1e-9),
    "ema_decay": ({}, 0.1, 0.0),
}  # fmt: skip
STAGE_2_ALONE: Cases = {
    # The judge has it too, where it looks through the base.
    "guidance": ({"architecture": "cnn"}, 1.0, 3.0),
    "objective": ({}, "hybrid", "pure"),
    "adversarial_weight": ({}, 1.5, 3.0),
    "adversarial_weight_end": ({"adversarial_schedule": "linear"}, 1.5, 3.0),
    "adversarial_schedule": ({"adversarial_weight_end": 0.1}, "constant", "cosine"),
    "diffusion_weight": ({}, 1.0, 2.0),
    "diffusion_weight_end": ({"diffusion_schedule": "linear"}, 1.0, 2.0),
    "diffusion_schedule": ({"diffusion_weight_end": 0.1}, "constant", "linear"),
    "discriminator_updates": ({}, 1, 2),
    "discriminator_warmup": ({}, 1, 2),
    "renoise": ({"architecture": "cnn"}, True, False),
    "renoise_mean": ({"target": "x0"}, -1.0, 0.0),
    "renoise_std": ({}, 1.0, 0.5),
    "beta1": ({}, 0.0, 0.5),
    "beta2": ({}, 0.99, 0.5),
    "target_steps": ({}, 4, 2),
    "target": ({}, "x0", "jump"),
    "few_step_guidance": ({"target": "two_samplers"}, 0.0, 4.0),
    "jump_steps": ({"target": "jump"}, 4, 8),
    "balance": ({}, "fixed", "gradient_ratio"),
    "gradient_ratio": ({"balance": "gradient_ratio"}, 0.3, 0.6),
    "adversarial_ramp": ({}, 0, 3),
    # Adaptive once there is an average of 20 updates, and then a judge that never learns has one more.
    "discriminator_ratio": (
        {"discriminator_warmup": 20, "architecture": "mlp", "judge.learning_rate": 1e-8, "judge.seed": 2},
        "fixed", "adaptive",
    ),
    # At this rate the LoRA scores worse than its start, which the watch then delivers.
    "watch": ({"validate_every": 3, "watch_pictures": 4, "target_steps": 1, "learning_rate": 0.1}, True, False),
    "watch_pictures": ({"watch": True, "validate_every": 3, "target_steps": 1}, 4, 5),
    "watch_sampler": ({"watch": True, "validate_every": 3, "target_steps": 2, "watch_pictures": 4}, "euler", "heun"),
    "watch_cfg": ({"watch": True, "validate_every": 3, "target_steps": 2, "watch_pictures": 4}, 1.0, 3.0),
    "jump_renoise_mean": ({"target": "jump"}, 0.0, 1.0),
    "step_share": ({"target": "x0"}, 0.0, 1.0),
    "anchor": ({"steps": 3}, "pictures", "start"),
    "practice_share": ({}, 0.0, 1.0),
    "outside_share": ({}, 0.0, 1.0),
    "outside_weight": ({"outside_share": 1.0}, 1.5, 15.0),
}  # fmt: skip
OF_THE_JUDGE: Cases = {
    "architecture": ({}, "cnn", "patch_cnn"),
    "loss": ({}, "relativistic", "hinge"),
    "width": ({}, 8, 12),
    "depth": ({"architecture": "cnn"}, 1, 2),
    "spectral_norm": ({}, False, True),
    "gradient_penalty": ({"architecture": "mlp", "loss": "wgan-gp"}, 10.0, 1.0),
    "learning_rate": ({}, 1e-2, 2e-2),
    "beta1": ({}, 0.0, 0.5),
    "beta2": ({}, 0.99, 0.5),
    "weight_decay": ({}, 0.0, 0.5),
    "max_grad_norm": ({}, 10.0, 1e-9),
    "seed": ({}, 0, 1),
    "r1": ({}, 0.05, 0.5),
    "r2": ({}, 0.05, 0.5),
    "penalty_sigma": ({"penalty_share": 1.0}, 0.1, 0.2),
    "penalty_share": ({}, 0.5, 1.0),
    "centring": ({}, 1e-3, 1e-1),
    "lecam": ({"loss": "bce"}, 0.0, 0.3),
    "augmentation": ({"augmentation_probability": 1.0}, "off", "fixed"),
    "augmentation_probability": ({"augmentation": "fixed"}, 0.0, 1.0),
    "mismatched_share": ({}, 0.0, 1.0),
    "replay_share": ({"step_share": 0.0, "target": "x0"}, 0.0, 1.0),
    "taps": ({}, "d0", "s1"),
}  # fmt: skip
# What leaves the result as it is. Each has a test of its own below.
NO_RESULT = {
    "gradient_checkpointing", "preview_every", "preview_steps", "preview_sampler", "preview_seed", "preview_guidance",
    "preview_cfg", "checkpoint_every", "keep_last", "keep_every", "streamed_share", "compile_blocks", "memory_limit_gb",
}  # fmt: skip


@pytest.fixture
def data():
    prompts = {"practice_prompts": practice_prompts(), "outside_prompts": practice_prompts(seed=6)}
    return dataclasses.replace(with_phrase(make_data()), **prompts)


def configured(case: dict[str, Any], of_judge: bool) -> tuple[AdversarialStageConfig, DiscriminatorConfig]:
    """``case`` on top of the small configurations. A name that both have goes where ``of_judge`` says."""
    stage, judge = {}, {}
    for name, value in case.items():
        own = name.removeprefix("judge.")
        to_judge = own in OF_THE_JUDGE and (name != own or of_judge or own not in {**BOTH_STAGES, **STAGE_2_ALONE})
        (judge if to_judge else stage)[own] = value
    return dataclasses.replace(STAGE_2, **stage), dataclasses.replace(JUDGE, **judge)


Outcome = tuple[dict[str, Tensor], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def known() -> dict[Any, Outcome]:
    """What a configuration gives, so that the values which most cases share are trained with once."""
    return {}


@pytest.fixture
def outcome(start, data, known) -> Callable[..., Outcome]:
    """The delivered LoRA with the weights of the judge, and what was logged of each step."""

    def trained(config: StageConfig, judge: DiscriminatorConfig = JUDGE) -> Outcome:
        if isinstance(config, AdversarialStageConfig):
            stage = AdversarialStage(start, data, judge, config, device="cpu")
        else:
            stage = DiffusionStage(start, data, config, device="cpu")
        result = run(stage, Recorder())
        networks = {f"judge.{name}": value for name, value in stage.state()[0].get("discriminator", {}).items()}
        return {**result.lora.tensors, **networks}, list(result.log.records)

    def remembered(config: StageConfig, judge: DiscriminatorConfig = JUDGE) -> Outcome:
        if (config, judge) not in known:
            known[config, judge] = trained(config, judge)
        return known[config, judge]

    return remembered


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize(
    ("config", "cases"),
    [
        (DiffusionStageConfig, BOTH_STAGES),
        (AdversarialStageConfig, {**BOTH_STAGES, **STAGE_2_ALONE}),
        (DiscriminatorConfig, OF_THE_JUDGE),
    ],
)
def test_every_option_has_a_case(config: type, cases: Cases) -> None:
    shaping = {field.name for field in dataclasses.fields(config) if field.metadata["shapes_result"]}
    others = {field.name for field in dataclasses.fields(config)} - shaping
    # A measurement alone leaves stage 1 as it is, but its numbers belong to the result; it is tested below.
    assert shaping == set(cases) | ({"validate_every"} if config is not DiscriminatorConfig else set())
    assert others <= NO_RESULT


@pytest.mark.parametrize("option", BOTH_STAGES)
def test_every_option_of_stage_1_changes_the_lora(outcome, option: str) -> None:
    extra, *values = BOTH_STAGES[option]
    one, other = (outcome(dataclasses.replace(STAGE_1, **extra, **{option: value}))[0] for value in values)
    assert not same(one, other)


@pytest.mark.parametrize("option", {**BOTH_STAGES, **STAGE_2_ALONE})
def test_every_option_of_stage_2_changes_the_lora(outcome, option: str) -> None:
    extra, *values = {**BOTH_STAGES, **STAGE_2_ALONE}[option]
    runs = [outcome(*configured({**extra, option: value}, of_judge=False)) for value in values]
    if option in ("watch_pictures", "watch_sampler", "watch_cfg"):
        # They change the LoRA where a decision hangs on them; the numbers that are decided on show it always.
        assert runs[0][1][0]["diversity"] != runs[1][1][0]["diversity"]
        return
    loras = [{name: value for name, value in tensors.items() if "judge." not in name} for tensors, _ in runs]
    assert not same(*loras)


@pytest.mark.parametrize("option", OF_THE_JUDGE)
def test_every_option_of_the_judge_changes_the_judge_and_the_lora(outcome, option: str) -> None:
    extra, *values = OF_THE_JUDGE[option]
    runs = [outcome(*configured({**extra, option: value}, of_judge=True))[0] for value in values]
    for of_judge in (True, False):
        one, other = ({k: v for k, v in tensors.items() if k.startswith("judge.") == of_judge} for tensors in runs)
        assert one and not same(one, other), "the judge" if of_judge else "the LoRA"


@pytest.mark.parametrize("architecture", ["patch_cnn", "cnn", "mlp", "flux_features"])
@pytest.mark.parametrize("option", ["width", "depth", "spectral_norm", "seed"])
def test_every_architecture_takes_its_size_and_seed(start, data, architecture: str, option: str) -> None:
    if (architecture, option) == ("flux_features", "depth"):
        pytest.skip("its depth is the base's")
    _, first, second = OF_THE_JUDGE[option]
    stages = [
        AdversarialStage(
            start, data, dataclasses.replace(JUDGE, architecture=architecture, **{option: value}), STAGE_2, device="cpu"
        )
        for value in (first, second)
    ]
    one, other = (stage.state()[0]["discriminator"] for stage in stages)
    assert not same(one, other)


# What leaves the result as it is


@pytest.mark.parametrize("config", [STAGE_1, STAGE_2], ids=["stage 1", "stage 2"])
def test_measurements_leave_the_training_as_it_is(outcome, config: StageConfig) -> None:
    plain, records = outcome(config)
    measured, more = outcome(dataclasses.replace(config, validate_every=2))
    assert same(plain, measured)
    last = records[-1]["step"]
    assert [r["step"] for r in more if "held_out_loss" in r] == sorted({0, *range(2, last + 1, 2), last})
    assert not any("held_out_loss" in record for record in records)


def in_folder(start, data, folder: Path, **changes: Any) -> tuple[dict[str, Tensor], Recorder, list[str]]:
    """A run of stage 1 in ``folder``: the LoRA, what was reported, and the checkpoints it left."""
    recorder = Recorder()
    config = dataclasses.replace(STAGE_1, steps=4, **changes)
    result = train_diffusion_stage(start, data, config, device="cpu", reporter=recorder, run_folder=folder)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return dict(result.lora.tensors), recorder, [str(int(name.split("-")[1])) for name in names]


def test_options_of_the_run_reach_the_run_and_leave_the_lora_as_it_is(start, data, tmp_path: Path) -> None:
    plain, recorder, kept = in_folder(start, data, tmp_path / "plain", checkpoint_every=0)
    assert recorder.previews == [] and kept == ["4"]
    changes: dict[str, tuple[dict[str, Any], Callable[[Recorder, list[str]], bool]]] = {
        "checkpoint_every": ({"checkpoint_every": 2, "keep_last": 9}, lambda _, kept: kept == ["2", "4"]),
        "keep_last": ({"checkpoint_every": 2, "keep_last": 1}, lambda _, kept: kept == ["4"]),
        "keep_every": ({"checkpoint_every": 1, "keep_last": 1, "keep_every": 3}, lambda _, kept: kept == ["3", "4"]),
        "preview_every": ({"preview_every": 2, "preview_steps": 1}, lambda seen, _: len(seen.previews) == 3),
        "gradient_checkpointing": ({"gradient_checkpointing": True}, lambda seen, _: len(seen.records) == 4),
        "streamed_share": (
            {"gradient_checkpointing": True, "streamed_share": 0.5}, lambda seen, _: len(seen.records) == 4
        ),
        # Compiled blocks have a test of their own, and are not for the CPU.
        "compile_blocks": (
            {"compile_blocks": True}, lambda seen, _: any("on cpu blocks are not compiled" in n for _, n in seen.notes)
        ),
        "memory_limit_gb": ({"memory_limit_gb": 1.0}, lambda seen, _: seen.notes[0][1].startswith("Memory: ")),
    }
    of_previews = ({"preview_steps": 1}, {"preview_sampler": "heun"}, {"preview_seed": 1}, {"preview_guidance": 1.0},
                   {"preview_cfg": 2.0})  # fmt: skip
    assert set(changes).union(*of_previews) == NO_RESULT
    for name, (change, as_wanted) in changes.items():
        lora, seen, kept = in_folder(start, data, tmp_path / name, **{"checkpoint_every": 0, **change})
        assert as_wanted(seen, kept), (name, kept)
        for key in plain:
            torch.testing.assert_close(lora[key], plain[key], rtol=0, atol=1e-5)
    usual = {"preview_every": 4, "preview_steps": 2}
    pictures = [
        in_folder(start, data, tmp_path / str(number), **usual | change)[1].previews[0]
        for number, change in enumerate(
            ({}, *of_previews)
        )
    ]
    assert not any(torch.allclose(pictures[0], other) for other in pictures[1:])


@pytest.mark.parametrize("wanted", [True, False])
def test_checkpointing_is_switched_as_asked(start, data, wanted: bool) -> None:
    for make in (
        lambda changes: DiffusionStage(start, data, dataclasses.replace(STAGE_1, **changes), device="cpu"),
        lambda changes: AdversarialStage(start, data, JUDGE, dataclasses.replace(STAGE_2, **changes), device="cpu"),
    ):
        level = make({"gradient_checkpointing": wanted}).base.checkpointing
        assert level == ("blocks" if wanted else "none")


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_streamed_blocks_change_nothing(start, data, share: float, precision: str) -> None:
    start = dataclasses.replace(start, base=BaseReference(start.base.path, precision))
    for make in (
        lambda **changes: DiffusionStage(start, data, dataclasses.replace(STAGE_1, **changes), device="cpu"),
        lambda **changes: AdversarialStage(start, data, JUDGE, dataclasses.replace(STAGE_2, **changes), device="cpu"),
    ):
        stages = [make(gradient_checkpointing=True, streamed_share=each) for each in (0.0, share)]
        loras = [run(stage, Recorder()).lora.tensors for stage in stages]
        assert same(*map(dict, loras))


def test_streaming_without_recomputation_is_refused_before_anything_is_loaded(start, data, monkeypatch) -> None:
    monkeypatch.setattr(stage_module, "load_base", lambda *_, **__: pytest.fail("the base was loaded"))
    changes = {"streamed_share": 0.3, "gradient_checkpointing": False}
    for make in (
        lambda: DiffusionStage(start, data, dataclasses.replace(STAGE_1, **changes), device="cpu"),
        lambda: AdversarialStage(start, data, JUDGE, dataclasses.replace(STAGE_2, **changes), device="cpu"),
    ):
        with pytest.raises(ValueError, match="streamed_share is 0.3 and gradient_checkpointing is off.*Turn gradient"):
            make()


def test_the_watch_samples_as_many_pictures_as_asked(start, data, monkeypatch) -> None:
    """One more is one more through the base, at the only step of its sampling."""
    seen: list[int] = []
    original = FluxBase.velocity

    def spy(self: FluxBase, x_t: Tensor, *rest: Any, **named: Any) -> Tensor:
        seen.append(len(x_t))
        return original(self, x_t, *rest, **named)

    monkeypatch.setattr(FluxBase, "velocity", spy)
    counts = []
    for pictures in (4, 5):
        config, judge = configured({"watch": True, "watch_pictures": pictures, "target_steps": 1}, of_judge=False)
        seen.clear()
        AdversarialStage(start, data, judge, config, device="cpu").validate(lambda: None)
        counts.append(sum(seen))
    assert counts[1] - counts[0] == 1
