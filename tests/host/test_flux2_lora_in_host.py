"""The LoRA file of a FLUX.2, put by the host's own loader onto the host's own FLUX.2, does there what it does here."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.comfy_host import HostError, host_folder, host_version
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.base.families.modules import ORIGINAL
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora

log = logging.getLogger(__name__)

CONTEXT, GUIDANCE = 64, 2.0
CONFIG = {
    "in_channels": 128, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128, "num_attention_heads": 2,
    "joint_attention_dim": CONTEXT, "mlp_ratio": 3.0,
}  # fmt: skip
# By preset: layers in black-forest-labs' names, which have q, k and v in one.
LAYERS = {"attention": 12, "attention+mlp": 20, "all": 23}
FORMATS = ("diffusers", "kohya")
FILES = {f"{preset}-{format}.safetensors": preset for preset in LAYERS for format in FORMATS}
LIMIT = 1e-4
# The host's first version that takes the number of heads from a FLUX.2's width.
SINCE = (0, 9, 0)


class RoundTrip(NamedTuple):
    """Velocities by file, ``base`` and ``applied`` (in the host) or preset (here), and the host's report."""

    ours: dict[str, Tensor]
    host: dict[str, Tensor]
    patches: dict[str, int]
    complaints: list[str]

    def error(self, file: str, preset: str) -> float:
        """How far the host's change of the velocity is from ours, relative to ours."""
        theirs = self.host[f"float32/{file}"] - self.host["float32/base"]
        ours = self.ours[preset] - self.ours["base"]
        return float((theirs - ours).norm() / ours.norm())


@pytest.fixture(scope="module", params=[False, True], ids=["klein", "dev"])
def round_trip(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RoundTrip:
    try:
        host = host_folder()
    except HostError as error:
        pytest.skip(str(error))
    if host_version() < SINCE:
        pytest.skip(f"this ComfyUI is older than {'.'.join(map(str, SINCE))} and takes every FLUX.2 for 6144 wide")
    folder = tmp_path_factory.mktemp("flux2-lora-in-host")
    checkpoint = _written(folder / "flux2.safetensors", request.param)
    given = _inputs()
    save_file(given, folder / "inputs.safetensors")
    ours = _our_velocities(BaseReference(str(checkpoint), "fp32"), given, folder / "loras")
    job = {
        "base": str(checkpoint),
        "folder": str(folder / "loras"),
        "inputs": str(folder / "inputs.safetensors"),
        "runs": {"float32": list(FILES)},
        "velocities": str(folder / "velocities.safetensors"),
        "report": str(folder / "report.json"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("host_velocity.py")
    command = [sys.executable, str(script), str(host), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((folder / "report.json").read_text())
    return RoundTrip(ours, load_file(folder / "velocities.safetensors"), report["patches"], report["complaints"])


def _written(path: Path, guidance_embeds: bool) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module in FLUX2.modules(CONFIG | {"guidance_embeds": guidance_embeds}, ORIGINAL):
        if module.is_norm:
            tensors[f"{module.name}.scale"] = torch.empty(module.shape).uniform_(0.8, 1.2, generator=generator)
        else:
            weight = torch.randn(module.shape, generator=generator) * module.shape[1] ** -0.5
            tensors[f"{module.name}.weight"] = weight
    save_file(tensors, path)
    return path


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(1, 128, 6, 8, generator=generator),
        "timestep": torch.tensor([0.5]),
        "context": torch.randn(1, 12, CONTEXT, generator=generator),
        "guidance": torch.tensor([GUIDANCE]),
    }


def _our_velocities(reference: BaseReference, given: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    base = load_base(reference, "cpu")
    velocities = {"base": _velocity(base, given)}
    for preset in LAYERS:
        new = lora.create(reference, LoRAConfig(rank=4, alpha=2.2, targets=preset))
        generator = torch.Generator().manual_seed(1)
        tensors = {key: torch.randn(tensor.shape, generator=generator) * 0.2 for key, tensor in new.tensors.items()}
        some = lora.FluxLoRA(reference, new.config, tensors)
        lora.attach(base, some)
        velocities[preset] = _velocity(base, given)
        for format in FORMATS:
            lora.save(some, folder / f"{preset}-{format}.safetensors", format)
    return velocities


def _velocity(base: FluxBase, given: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return base.velocity(given["x"], given["timestep"], given["context"], torch.zeros(1, 0), GUIDANCE)


def test_the_host_finds_a_place_for_every_key(round_trip: RoundTrip) -> None:
    unused = [line for line in round_trip.complaints if "not loaded" in line.lower() or "shape" in line.lower()]
    assert not unused
    assert round_trip.patches == {f"float32/{file}": LAYERS[preset] for file, preset in FILES.items()}


def test_the_two_models_agree_without_a_lora(round_trip: RoundTrip) -> None:
    ours, host = round_trip.ours["base"], round_trip.host["float32/base"]
    assert float((host - ours).norm() / ours.norm()) <= LIMIT


@pytest.mark.parametrize("file", FILES)
def test_the_host_changes_its_velocity_as_the_engine_does(round_trip: RoundTrip, file: str) -> None:
    error = round_trip.error(file, FILES[file])
    log.info("%s: relative error %.1e", file, error)
    assert error <= LIMIT


def test_the_packs_own_node_applies_the_same(round_trip: RoundTrip) -> None:
    assert round_trip.error("applied", "all") <= LIMIT
