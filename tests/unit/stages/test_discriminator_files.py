"""A discriminator's file: what comes back from it, and what is refused, by name and with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxduel.training.config import DiscriminatorConfig
from fluxduel.training.stages import discriminator_files
from fluxduel.training.stages.discriminator_files import METADATA_KEY, DiscriminatorFileError

CONFIG = DiscriminatorConfig(architecture="patch_cnn", width=16, depth=2)


def network(width: int = 3, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of ``network()``."""
    path = tmp_path / "run" / "discriminator.safetensors"
    discriminator_files.save(network().state_dict(), CONFIG, "a base", path)
    return path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_and_buffers_come_back(path: Path) -> None:
    weights = discriminator_files.load(path, CONFIG)
    assert same(weights, network().state_dict())
    other = network(seed=1)
    assert not same(other.state_dict(), weights)
    discriminator_files.restore(other, weights)
    assert same(other.state_dict(), weights)
    # The network has its own copy, and can be trained on.
    next(other.parameters()).data.add_(1)
    assert same(weights, network().state_dict())
    assert all(weight.requires_grad for weight in other.parameters())


def test_the_file_says_what_it_is_of(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()[METADATA_KEY])
    assert DiscriminatorConfig(**said["config"]) == CONFIG
    assert said["base"] == "a base"
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_tensors_that_share_memory_or_have_a_gradient_are_saved(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    weights = {"whole": nn.Parameter(whole), "part": whole.T}
    discriminator_files.save(weights, CONFIG, "", tmp_path / "d.safetensors")
    assert same(discriminator_files.load(tmp_path / "d.safetensors", CONFIG), {"whole": whole, "part": whole.T})


def test_a_run_may_go_on_with_other_settings_of_the_training(path: Path) -> None:
    other = DiscriminatorConfig(
        architecture="patch_cnn", width=16, depth=2, learning_rate=1e-5, loss="hinge", r1=1.0, seed=5
    )
    assert same(discriminator_files.load(path, other), network().state_dict())


@pytest.mark.parametrize(
    ("name", "value"),
    [("architecture", "cnn"), ("width", 32), ("depth", 3), ("spectral_norm", True), ("taps", "d0")],
)
def test_another_shape_is_refused_with_the_one_to_set(path: Path, name: str, value: object) -> None:
    asked = DiscriminatorConfig(**{"architecture": "patch_cnn", "width": 16, "depth": 2, name: value})
    with pytest.raises(DiscriminatorFileError) as refusal:
        discriminator_files.load(path, asked)
    theirs = getattr(CONFIG, name)
    assert f"with {name} = {theirs!r}, and {value!r} is asked for" in str(refusal.value)
    assert f"Set {name} to {theirs!r}" in str(refusal.value) and path.name in str(refusal.value)


@pytest.mark.parametrize(
    ("weights", "got"),
    [
        ({}, "has nothing for 0.weight"),
        (network(width=4).state_dict(), "has (4, 2) for 0.weight, this stage needs (3, 2)"),
        ({name: t for name, t in network().state_dict().items() if name != "1.bias"}, "has nothing for 1.bias"),
    ],
)
def test_another_networks_weights_are_refused_and_change_nothing(weights: dict[str, Tensor], got: str) -> None:
    here = network(seed=1)
    with pytest.raises(DiscriminatorFileError) as refusal:
        discriminator_files.restore(here, weights)
    assert got in str(refusal.value) and "choose new" in str(refusal.value)
    assert same(here.state_dict(), network(seed=1).state_dict())


def test_a_file_that_is_none_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DiscriminatorFileError, match=r"discriminator\.safetensors cannot be read"):
        discriminator_files.load(path, CONFIG)
    path.unlink()
    with pytest.raises(DiscriminatorFileError, match=r"discriminator\.safetensors cannot be read"):
        discriminator_files.load(path, CONFIG)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        *({METADATA_KEY: text} for text in ("{", "{}", "[]", "3", '"config"', '{"config": null}', '{"config": [1]}')),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "lora.safetensors", metadata)
    with pytest.raises(DiscriminatorFileError, match=r"lora\.safetensors holds no discriminator"):
        discriminator_files.load(tmp_path / "lora.safetensors", CONFIG)


def test_a_failed_write_leaves_the_file_that_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        discriminator_files.save(network(seed=1).state_dict(), CONFIG, "", path)
    assert same(discriminator_files.load(path, CONFIG), network().state_dict())
    assert [found.name for found in path.parent.iterdir()] == [path.name]
