"""Flags, short names and files become a configuration; what is wrong is named and exits with 2."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fluxduel.headless.command_line import main
from fluxduel.headless.config_file import PATHS, configuration, did_you_mean
from fluxduel.headless.option_flags import ALIASES
from fluxduel.headless.run_config import RunConfig
from fluxduel.tests.comfy_host import ROOT

OPTIONS = dict(RunConfig.options())
EXAMPLE = ROOT / "config" / "config.json.example"


def other_value(field: dataclasses.Field) -> Any:
    """A valid value that is not the default."""
    choices, high = field.metadata["choices"], field.metadata["high"]
    if choices:
        return next(choice for choice in choices if choice != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return "some text"
    if isinstance(field.default, int):
        return field.default + 1 if field.default < high else field.default - 1
    return high if field.default != high else field.metadata["low"]


def written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> RunConfig:
    """The configuration that ``train`` prints for these arguments."""
    status = main(["train", *arguments, "--print_config"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return RunConfig.from_json(out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What ``train`` says of wrong arguments, in one line on stderr."""
    try:
        status = main(["train", *arguments])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


def value_of(config: RunConfig, option: str) -> Any:
    section, name = option.split(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_a_flag(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = other_value(OPTIONS[option])
    config = printed(capsys, f"--{option}", written(value))
    assert value_of(config, option) == value
    assert [o for o in OPTIONS if value_of(config, o) != value_of(RunConfig(), o)] == [option]


@pytest.mark.parametrize("alias", ALIASES)
def test_every_short_name_arrives_at_its_options_and_nowhere_else(
    alias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ALIASES[alias]
    value = other_value(OPTIONS[options[0]])
    config = printed(capsys, f"--{alias}={written(value)}")
    changed = [option for option in OPTIONS if value_of(config, option) != value_of(RunConfig(), option)]
    assert sorted(changed) == sorted(options)
    assert all(value_of(config, option) == value for option in options)


def test_the_names_of_the_two_stages_mean_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(
        capsys, "--use_latent_adv=false", "--latent_adv_loss_weight", "0.7", "--disc_lr", "3e-4", "--adv_loss_type",
        "hinge", "--disc_type", "mlp", "--disc_warmup_steps", "9", "--adv_steps", "11", "--adv_learning_rate", "2e-6",
        "--max_train_steps", "12", "--learning_rate", "3e-5", "--train_batch_size", "2", "--rank", "3", "--lora_alpha",
        "6", "--resolution", "256", "--instance_data_dir", "in", "--output_dir", "out", "--report_to", "wandb",
        "--pretrained_model_name_or_path", "flux", "--seed", "5",
    )  # fmt: skip
    stage_1, stage_2, judge = config.diffusion, config.adversarial, config.discriminator
    assert (config.start.diffusion, config.start.adversarial) == (True, False)
    assert (stage_2.adversarial_weight, stage_2.steps, stage_2.learning_rate) == (0.7, 11, 2e-6)
    assert (stage_2.discriminator_warmup, stage_2.batch_size, stage_1.batch_size) == (9, 2, 2)
    assert (judge.learning_rate, judge.loss, judge.architecture) == (3e-4, "hinge", "mlp")
    assert (stage_1.steps, stage_1.learning_rate) == (12, 3e-5)
    assert (config.lora.rank, config.lora.alpha, config.data.resolution) == (3, 6.0, 256)
    assert (config.images.folder, config.output.folder, config.trackers.trackers) == ("in", "out", "wandb")
    assert config.base.checkpoint == "flux"
    assert {config.lora.seed, stage_1.seed, judge.seed, stage_2.seed} == {5}


def test_a_short_name_sets_options_of_one_kind() -> None:
    for alias, options in ALIASES.items():
        kinds = {(type(OPTIONS[o].default), OPTIONS[o].metadata["choices"]) for o in options}
        assert len(kinds) == 1, alias


def test_flags_win_over_the_file_and_an_options_own_flag_over_a_short_one_for_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"adversarial": {"steps": 7, "seed": 3}, "lora": {"rank": 2}}))
    config = printed(capsys, str(file), "--adv_steps", "8", "--seed", "1", "--adversarial.seed", "2")
    assert (config.adversarial.steps, config.adversarial.seed, config.diffusion.seed) == (8, 2, 1)
    assert config.lora.rank == 2
    assert config.data.seed == 0  # what is held out stays the same


@pytest.mark.parametrize(
    ("arguments", "flip"),
    [(["--data.flip"], True), (["--data.flip", "true"], True), (["--data.flip=false"], False)],
)
def test_a_boolean_flag_alone_means_true(
    arguments: list[str], flip: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, *arguments).data.flip is flip


def test_negative_numbers_are_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--adversarial.renoise_mean", "-2.5").adversarial.renoise_mean == -2.5


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + b'{"lora": {"rank": 5}}')
    assert printed(capsys, str(file)).lora.rank == 5


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = configuration(None, dict.fromkeys(PATHS, "~/there"))
    assert {value_of(config, option) for option in PATHS} == {"/home/somebody/there"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adversarial.lerning_rate", "1e-5"], ["--adversarial.lerning_rate", "--adversarial.learning_rate?"]),
        (["--disc_lrr", "1"], ["--disc_lrr", "--disc_lr?"]),
        # Right but for its section.
        (["--adversarial.loss", "bce"], ["--adversarial.loss", "--discriminator.loss?"]),
        (["--qqqqq"], ["There is no flag --qqqqq."]),
        (["one.json", "two.json"], ["two.json", "one too many"]),
        (["--disc_lr", "much"], ["--disc_lr", "takes a number, got 'much'"]),
        (["--adv_steps", "1.5"], ["--adv_steps", "takes a whole number, got '1.5'"]),
        (["--data.flip", "config.json"], ["--data.flip", "true or false", "'config.json'", "before it"]),
        (["--rank", "4", "--rank", "4"], ["--rank", "twice"]),
        (["--rank", "4", "--lora.rank", "8"], ["--lora.rank", "--rank", "both"]),
        (["--adversarial.seed", "2", "--seed", "1"], ["--seed", "--adversarial.seed", "before"]),
        (["--lora.rank", "1" + "0" * 400], ["lora.rank", "at most 1024", "digits"]),
        (["--images.folder", "a\nb"], ["images.folder", "control character"]),
        (["--disc_lr", "0"], ["discriminator", "learning_rate", "at least"]),
        (["--adv_loss_type", "hing"], ["discriminator", "loss", "hinge", "'hing'"]),
        (["--lora.rank", "5000"], ["lora", "rank", "at most 1024"]),
        (["nowhere.json"], ["nowhere.json", "no configuration file"]),
        (["--start.diffusion=false", "--use_latent_adv=false"], ["start.diffusion", "nothing to train"]),
        ([], ["images.folder", "--images.folder"]),
        (["--images.folder", ".", "--output_name", "a/b"], ["output.name", "'a/b'"]),
        (["--images.folder", ".", "--report_to", "mlflow"], ["trackers", "'mlflow'", "tensorboard, wandb, trackio"]),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = complaint(capsys, *arguments)
    assert all(word in told for word in words), told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"adversarail": {}}', ["adversarail", "Did you mean adversarial?"]),
        ('{"lora": {"rnk": 3}}', ["lora.rnk", "Did you mean lora.rank?"]),
        ('{"lora": {"resolution": 3}}', ["lora.resolution", "Did you mean data.resolution?"]),
        ('{"lora": 3}', ["section lora", "3"]),
        ('{"lora": {"rank": "3"}}', ["lora", "rank", "'3'"]),
        ('{"lora": {"alpha": NaN}}', ["line 1", "NaN", "finite"]),
        ("[]", ["object of sections", "list"]),
        ('{"lora": ', ["no JSON"]),
        ("\N{LATIN SMALL LETTER U WITH DIAERESIS}", ["no JSON"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text, encoding="latin-1")
    told = complaint(capsys, str(file))
    assert all(word in told for word in words), told
    assert "mine.json" in told


@pytest.mark.parametrize("command", [[], ["trian"], ["sample"], ["evaluate"], ["sample", "--lora", "x"]])
def test_other_commands_say_what_they_need(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(command)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{name} " in shown for name in (*OPTIONS, *ALIASES))


def test_the_nearest_name_is_offered_and_none_that_is_far() -> None:
    assert did_you_mean("stepps", ["steps", "seed"]) == " Did you mean steps?"
    assert did_you_mean("zzz", ["steps", "seed"]) == ""


def test_the_example_is_a_valid_configuration_of_known_options() -> None:
    config = configuration(EXAMPLE, {})
    values = json.loads(EXAMPLE.read_text())
    named = {f"{section}.{name}": value for section, options in values.items() for name, value in options.items()}
    assert named.keys() <= OPTIONS.keys()
    assert all(value_of(config, option) == value for option, value in named.items())


def test_the_module_runs_as_a_program_without_loading_torch() -> None:
    script = (
        "import runpy, sys\nsys.argv = ['fluxduel', 'train', '--print_config']\n"
        "try:\n    runpy.run_module('fluxduel', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert RunConfig.from_json(done.stdout) == RunConfig()


def test_workflow_prints_a_configuration_and_says_the_rest_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = ROOT / "example_workflows" / "A first run on the tiny base.json"
    assert main(["workflow", str(graph)]) == 0
    out, notes = capsys.readouterr()
    config = RunConfig.from_json(out)
    assert config.base.checkpoint == "tiny"
    assert config.start.diffusion and config.start.adversarial
    assert main(["workflow", str(graph), "--out", str(tmp_path / "new" / "config.json")]) == 0
    assert capsys.readouterr() == ("", notes)
    assert configuration(tmp_path / "new" / "config.json", {}) == config


def test_what_is_no_workflow_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workflow", str(tmp_path / "gone.json")]) == 2
    assert "gone.json" in capsys.readouterr().err
