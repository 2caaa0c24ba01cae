"""A LoRA saved by the pack, loaded by the host's own loader onto the host's own FLUX, does there what it does here."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.inside_host import host_or_skip, run_inside
from fluxduel.tests.true_width import CONTEXT, POOLED, module_shapes, write_random
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.base.families.family import Family
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora

log = logging.getLogger(__name__)

FORMATS = ("diffusers", "kohya")
PRESETS = ("attention", "attention+mlp", "all")
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
LIMIT = 1e-4
FILES = {f"{preset}-{format}.safetensors": preset for preset in PRESETS for format in FORMATS}
# In bf16 one file in kohya's format: it is the same merged weight, and merging takes seconds a file.
RUNS = {"float32": list(FILES), "bfloat16": [*list(FILES)[::2], list(FILES)[-1]]}
GUIDANCE = 2.0  # 1000 times that is a number of bf16, which the embedding's cosines are sensitive to


class Model(NamedTuple):
    """A model that the host takes for a real one. ``layers``: by format, how many a LoRA of each preset has there.

    ``rounding``: how far two computations in bf16 may be apart, relative to what a LoRA changes.
    """

    family: Family
    config: Mapping[str, Any]
    layers: Mapping[str, tuple[int, int, int]]
    rounding: float

    def limit(self, run: str) -> float:
        return {"float32": LIMIT, "bfloat16": self.rounding}[run]


def _flux_2(guidance_embeds: bool) -> Model:
    config = {
        "in_channels": 128, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128,
        "num_attention_heads": 2, "joint_attention_dim": 64, "mlp_ratio": 3.0, "guidance_embeds": guidance_embeds,
    }  # fmt: skip
    # The engine's change in bf16 is up to 2.6e-2 away from its own in fp32 with the same weights: the square root of 2
    # times that is between two that round each in its own way, as merged weights and factors do. What the base rounds
    # alone is 6e-3; strong LoRAs carry that on. Over FLUX.1's width of 3072 more of it cancels.
    return Model(FLUX2, config, {format: (12, 20, 23) for format in FORMATS}, rounding=4e-2)


MODELS = {
    # Of its width, which the host takes for granted.
    "FLUX.1": Model(
        FLUX1,
        FLUX1.published["FLUX.1"]
        | {"num_layers": 1, "num_single_layers": 1, "joint_attention_dim": CONTEXT, "pooled_projection_dim": POOLED},
        # Black-forest-labs' names have q, k, v (and the MLP) in one.
        {"diffusers": (11, 17, 20), "kohya": (5, 10, 13)},
        rounding=2e-2,
    ),
    "klein": _flux_2(guidance_embeds=False),
    "dev": _flux_2(guidance_embeds=True),
}


@dataclass(frozen=True)
class RoundTrip:
    """Velocities by ``<dtype>/<file>``, ``<dtype>/base`` and ``<dtype>/applied``, and the host's report."""

    model: Model
    ours: dict[str, Tensor]
    host: dict[str, Tensor]
    patches: dict[str, int]
    complaints: list[str]

    def error(self, run: str, file: str, of: str) -> float:
        """How far the host's change of the velocity is from ours (of the LoRA ``of``), relative to ours."""
        theirs = self.host[f"{run}/{file}"] - self.host[f"{run}/base"]
        ours = self.ours[f"{run}/{of}"] - self.ours[f"{run}/base"]
        return float((theirs - ours).norm() / ours.norm())


@pytest.fixture(scope="module", params=MODELS)
def round_trip(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RoundTrip:
    host_or_skip()
    model, folder = MODELS[request.param], tmp_path_factory.mktemp("lora-in-host")
    checkpoint = write_random(folder / "flux.safetensors", module_shapes(model.family, model.config))
    job = {
        "base": str(checkpoint),
        "folder": str(folder / "loras"),
        "inputs": str(folder / "inputs.safetensors"),
        "runs": RUNS,
        "velocities": str(folder / "velocities.safetensors"),
        "report": str(folder / "report.json"),
    }
    inputs = _inputs(model)
    save_file(inputs, job["inputs"])
    ours = {}
    for run, precision in PRECISIONS.items():
        ours |= _our_velocities(BaseReference(str(checkpoint), precision), run, inputs, folder / "loras")
        gc.collect()
    (folder / "job.json").write_text(json.dumps(job))
    run_inside("host_velocity.py", folder / "job.json")
    report = json.loads((folder / "report.json").read_text())
    checkpoint.unlink()
    if report["too_old"]:
        pytest.skip(report["too_old"])
    return RoundTrip(model, ours, load_file(job["velocities"]), report["patches"], report["complaints"])


def _inputs(model: Model) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pooled = model.family.pooled_dim(model.config)
    return {
        "x": torch.randn(1, model.family.space.channels, 6, 8, generator=generator),
        "timestep": torch.tensor([0.5]),
        "context": torch.randn(1, 12, model.config["joint_attention_dim"], generator=generator),
        "guidance": torch.tensor([GUIDANCE]),
        **({"y": torch.randn(1, pooled, generator=generator)} if pooled else {}),
    }


def _our_velocities(reference: BaseReference, run: str, inputs: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    base = load_base(reference, "cpu")
    velocities = {f"{run}/base": _velocity(base, inputs)}
    for preset in PRESETS:
        some = _strong(lora.create(reference, LoRAConfig(rank=4, alpha=2.2, targets=preset)))
        lora.attach(base, some)
        velocities[f"{run}/{preset}"] = _velocity(base, inputs)
        for format in FORMATS:
            lora.save(some, folder / f"{preset}-{format}.safetensors", format)
    return velocities


def _velocity(base: FluxBase, inputs: dict[str, Tensor]) -> Tensor:
    pooled = inputs.get("y", torch.zeros(1, 0))
    with torch.no_grad():
        return base.velocity(inputs["x"], inputs["timestep"], inputs["context"], pooled, GUIDANCE)


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
            preset, _, format = Path(file).stem.rpartition("-")
            assert round_trip.patches[f"{run}/{file}"] == round_trip.model.layers[format][PRESETS.index(preset)]


@pytest.mark.parametrize("run", PRECISIONS)
def test_the_two_models_agree_without_a_lora(round_trip: RoundTrip, run: str) -> None:
    ours, host = round_trip.ours[f"{run}/base"], round_trip.host[f"{run}/base"]
    error = float((host - ours).norm() / ours.norm())
    log.info("%s, base: relative error %.1e", run, error)
    assert error <= round_trip.model.limit(run)


@pytest.mark.parametrize(("run", "file"), [(run, file) for run, files in RUNS.items() for file in files])
def test_the_host_changes_its_velocity_as_the_engine_does(round_trip: RoundTrip, run: str, file: str) -> None:
    error = round_trip.error(run, file, FILES[file])
    log.info("%s, %s: relative error %.1e", run, file, error)
    assert error <= round_trip.model.limit(run)


@pytest.mark.parametrize("run", PRECISIONS)
def test_the_packs_own_node_applies_the_same(round_trip: RoundTrip, run: str) -> None:
    error = round_trip.error(run, "applied", "all")
    log.info("%s, Apply FLUX LoRA: relative error %.1e", run, error)
    assert error <= round_trip.model.limit(run)
