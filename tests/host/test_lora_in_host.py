"""A LoRA saved by the pack, loaded by the host's own loader onto the host's own FLUX, does there what it does here."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.comfy_host import HostError, host_folder
from fluxduel.tests.true_width import CONTEXT, POOLED, write_flux
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora

log = logging.getLogger(__name__)

# By preset: layers in diffusers' names, and in black-forest-labs', which has q, k, v (and the MLP) in one.
LAYERS = {"attention": (11, 5), "attention+mlp": (17, 10), "all": (20, 13)}
FORMATS = ("diffusers", "kohya")
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
LIMITS = {"float32": 1e-4, "bfloat16": 2e-2}
FILES = {f"{preset}-{format}.safetensors": preset for preset in LAYERS for format in FORMATS}
# In bf16 one file in kohya's format: it is the same merged weight, and merging takes seconds a file.
RUNS = {"float32": list(FILES), "bfloat16": [*list(FILES)[::2], list(FILES)[-1]]}
GUIDANCE = 2.0  # 1000 times that is a number of bf16, which the embedding's cosines are sensitive to


@dataclass(frozen=True)
class RoundTrip:
    """Velocities by ``<dtype>/<file>``, ``<dtype>/base`` and ``<dtype>/applied``, and the host's report."""

    ours: dict[str, Tensor]
    host: dict[str, Tensor]
    patches: dict[str, int]
    complaints: list[str]

    def error(self, run: str, file: str, of: str) -> float:
        """How far the host's change of the velocity is from ours (of the LoRA ``of``), relative to ours."""
        theirs = self.host[f"{run}/{file}"] - self.host[f"{run}/base"]
        ours = self.ours[f"{run}/{of}"] - self.ours[f"{run}/base"]
        return float((theirs - ours).norm() / ours.norm())


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    try:
        host = host_folder()
    except HostError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("lora-in-host")
    checkpoint = write_flux(folder / "flux.safetensors")
    inputs = _inputs()
    save_file(inputs, folder / "inputs.safetensors")
    ours = {}
    for run, precision in PRECISIONS.items():
        ours |= _our_velocities(BaseReference(str(checkpoint), precision), run, inputs, folder / "loras")
        gc.collect()
    job = {
        "base": str(checkpoint),
        "folder": str(folder / "loras"),
        "inputs": str(folder / "inputs.safetensors"),
        "runs": RUNS,
        "velocities": str(folder / "velocities.safetensors"),
        "report": str(folder / "report.json"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("host_velocity.py")
    command = [sys.executable, str(script), str(host), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((folder / "report.json").read_text())
    checkpoint.unlink()
    return RoundTrip(ours, load_file(folder / "velocities.safetensors"), report["patches"], report["complaints"])


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(1, 16, 6, 8, generator=generator),
        "timestep": torch.tensor([0.5]),
        "context": torch.randn(1, 12, CONTEXT, generator=generator),
        "y": torch.randn(1, POOLED, generator=generator),
        "guidance": torch.tensor([GUIDANCE]),
    }


def _our_velocities(reference: BaseReference, run: str, inputs: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    base = load_base(reference, "cpu")
    velocities = {f"{run}/base": _velocity(base, inputs)}
    for preset in LAYERS:
        some = _strong(lora.create(reference, LoRAConfig(rank=4, alpha=2.0, targets=preset)))
        lora.attach(base, some)
        velocities[f"{run}/{preset}"] = _velocity(base, inputs)
        for format in FORMATS:
            lora.save(some, folder / f"{preset}-{format}.safetensors", format)
    return velocities


def _velocity(base: FluxBase, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return base.velocity(inputs["x"], inputs["timestep"], inputs["context"], inputs["y"], GUIDANCE)


def _strong(like: lora.FluxLoRA) -> lora.FluxLoRA:
    """Random weights that change each layer's output by more than it was; bf16's rounding is small beside that."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for key, tensor in like.tensors.items():
        std = 3.0 if key.endswith("lora_B.weight") else tensor.shape[1] ** -0.5
        tensors[key] = torch.randn(tensor.shape, generator=generator) * std
    return lora.FluxLoRA(like.base, like.config, tensors)


def test_the_host_finds_a_place_for_every_key(round_trip: RoundTrip) -> None:
    unused = [line for line in round_trip.complaints if "not loaded" in line.lower() or "shape" in line.lower()]
    assert not unused
    for run, files in RUNS.items():
        for file in files:
            assert round_trip.patches[f"{run}/{file}"] == LAYERS[FILES[file]][file.endswith("kohya.safetensors")]


@pytest.mark.parametrize("run", PRECISIONS)
def test_the_two_models_agree_without_a_lora(round_trip: RoundTrip, run: str) -> None:
    ours, host = round_trip.ours[f"{run}/base"], round_trip.host[f"{run}/base"]
    error = float((host - ours).norm() / ours.norm())
    log.info("%s, base: relative error %.1e", run, error)
    assert error <= LIMITS[run]


@pytest.mark.parametrize(("run", "file"), [(run, file) for run, files in RUNS.items() for file in files])
def test_the_host_changes_its_velocity_as_the_engine_does(round_trip: RoundTrip, run: str, file: str) -> None:
    error = round_trip.error(run, file, FILES[file])
    log.info("%s, %s: relative error %.1e", run, file, error)
    assert error <= LIMITS[run]


@pytest.mark.parametrize("run", PRECISIONS)
def test_the_packs_own_node_applies_the_same(round_trip: RoundTrip, run: str) -> None:
    error = round_trip.error(run, "applied", "all")
    log.info("%s, Apply FLUX LoRA: relative error %.1e", run, error)
    assert error <= LIMITS[run]
