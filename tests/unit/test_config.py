"""Configurations: validation that names field and value, and the JSON round trip."""

from __future__ import annotations

import dataclasses

import pytest

from fluxduel.training.config import (
    AdversarialStageConfig,
    DataConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)

MEANS = ("renoise_mean", "jump_renoise_mean")
CONFIGS = [DataConfig, LoRAConfig, DiffusionStageConfig, DiscriminatorConfig, AdversarialStageConfig]


@pytest.mark.parametrize("cls", CONFIGS)
def test_json_round_trip(cls):
    config = cls(seed=7)
    assert cls.from_json(config.to_json()) == config
    assert cls.from_json("{}") == cls()


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_option_is_explained_and_has_a_range(cls):
    for field in dataclasses.fields(cls):
        assert len(field.metadata["help"]) > 10, field.name
        if type(field.default) in (int, float):
            assert field.metadata["low"] is not None and field.metadata["high"] is not None, field.name
            assert field.metadata["low"] <= field.default <= field.metadata["high"], field.name


@pytest.mark.parametrize("cls", CONFIGS)
def test_a_number_out_of_range_is_named(cls):
    for field in dataclasses.fields(cls):
        if type(field.default) in (int, float):
            for bound, outside in (("low", -1), ("high", 1)):
                value = type(field.default)(field.metadata[bound] + outside)
                if type(value) is float:
                    value = field.metadata[bound] + outside * max(1.0, abs(field.metadata[bound]))
                with pytest.raises(ValueError, match=rf"{cls.__name__}\.{field.name} must be at"):
                    cls(**{field.name: value})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DiffusionStageConfig, {"steps": 1.5}, "steps must be a whole number, got 1.5"),
        (DiffusionStageConfig, {"steps": True}, "steps must be a whole number, got True"),
        (DiffusionStageConfig, {"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        (DiffusionStageConfig, {"lr_schedule": "wild"}, "lr_schedule must be one of constant, linear, cosine"),
        (DiscriminatorConfig, {"loss": "gan"}, "loss must be one of bce"),
        (LoRAConfig, {"targets": "regex"}, "target_regex is empty"),
        (LoRAConfig, {"targets": "regex", "target_regex": "("}, "is no valid expression"),
        (LoRAConfig, {"targets": 3}, "targets must be a text"),
    ],
)
def test_wrong_values_are_named(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def test_integers_are_accepted_for_floats():
    assert LoRAConfig(alpha=8).alpha == 8.0 and type(LoRAConfig(alpha=8).alpha) is float


def test_jumps_and_estimates_are_shown_at_levels_of_their_own():
    """One mean each for the added noise, of one range; files without the jump's take its default."""
    fields = {field.name: field for field in dataclasses.fields(AdversarialStageConfig)}
    ranges = [{k: fields[name].metadata[k] for k in ("low", "high", "step")} for name in MEANS]
    assert ranges[0] == ranges[1]
    config = AdversarialStageConfig(renoise_mean=-0.5, jump_renoise_mean=0.25)
    assert AdversarialStageConfig.from_json(config.to_json()) == config
    older = AdversarialStageConfig.from_json('{"renoise_mean": -0.5}')
    assert older.jump_renoise_mean == fields["jump_renoise_mean"].default


def test_json_with_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="no option stepz"):
        DiffusionStageConfig.from_json('{"stepz": 3}')
    with pytest.raises(ValueError, match="JSON object"):
        DiffusionStageConfig.from_json("[]")
