"""An int8 file that the pack wrote is loaded by the host as int8, and is there the model that it is here."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.inside_host import host_or_skip, run_inside
from fluxduel.tests.true_width import CONTEXT, POOLED, write_flux
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.base.frozen_linear import FrozenLinear
from fluxduel.training.base.int8 import Int8Weight, dequantised
from fluxduel.training.base.int8_files import write_int8

log = logging.getLogger(__name__)

GUIDANCE = 2.0
# The host's name of a layer -> ours of one with the same weight.
LAYERS = {
    "double_blocks.0.img_mlp.0": "transformer_blocks.0.ff.net.0.proj",
    "single_blocks.0.linear2": "single_transformer_blocks.0.proj_out",
    "double_blocks.0.txt_mod.lin": "transformer_blocks.0.norm1_context.linear",
}
# The host rounds activations to 8 bits where it multiplies integers, and computes in bf16.
MOST = 0.03


class Found(NamedTuple):
    ours: dict[str, Tensor]
    host: dict[str, Tensor]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    host = host_or_skip()
    formats = host / "comfy" / "quant_ops.py"
    if importlib.util.find_spec("comfy_kitchen") is None or not formats.is_file():
        pytest.skip("this host has no comfy-kitchen")
    if "int8_tensorwise" not in formats.read_text():
        pytest.skip("this host has no int8 files")
    folder = tmp_path_factory.mktemp("int8-in-host")
    source, base = write_flux(folder / "flux.safetensors"), folder / "int8.safetensors"
    write_int8(str(source), base, "int8_convrot", "cpu", lambda done, total: None)
    source.unlink()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn(1, 16, 6, 8, generator=generator),
        "timestep": torch.tensor([0.5]),
        "context": torch.randn(1, 12, CONTEXT, generator=generator),
        "y": torch.randn(1, POOLED, generator=generator),
        "guidance": torch.tensor([GUIDANCE]),
    }
    save_file(inputs, folder / "inputs.safetensors")
    ours = _ours(base, inputs)
    job = {"base": str(base), "inputs": str(folder / "inputs.safetensors"), "layers": list(LAYERS)}
    job |= {"found": str(folder / "found.safetensors"), "report": str(folder / "report.json")}
    (folder / "job.json").write_text(json.dumps(job))
    run_inside("host_int8.py", folder / "job.json")
    base.unlink()
    return Found(ours, load_file(folder / "found.safetensors"), json.loads((folder / "report.json").read_text()))


def _ours(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the dequantised weights, with activations as they are."""
    base = load_base(BaseReference(str(path), "int8_convrot"), "cpu")
    for module in base.transformer.modules():
        if isinstance(module, FrozenLinear):
            module.kernel = "none"
    with torch.no_grad():
        args = (inputs["x"], inputs["timestep"], inputs["context"], inputs["y"])
        ours = {"velocity": base.velocity(*args, GUIDANCE)}
    for name, place in LAYERS.items():
        layer = base.transformer.get_submodule(place)
        ours[name] = dequantised(Int8Weight(layer.weight, layer.scales, layer.group), torch.float32)
    del base
    gc.collect()
    return ours


def error(found: Found, name: str) -> float:
    off = float((found.host[name] - found.ours[name]).norm() / found.ours[name].norm())
    log.info("%s: relative error %.1e", name, off)
    return off


def test_the_host_takes_every_key_and_keeps_int8(found: Found) -> None:
    complaints = found.report["complaints"]
    assert not [line for line in complaints if "not loaded" in line.lower() or "missing" in line.lower()], complaints
    assert set(found.report["kinds"].values()) == {"QuantizedTensor"}


@pytest.mark.parametrize("name", LAYERS)
def test_the_weights_are_the_same(found: Found, name: str) -> None:
    """In bf16, as the host decodes them."""
    assert error(found, name) < 0.004


def test_the_velocity_is_that_of_the_dequantised_weights(found: Found) -> None:
    assert 0 < error(found, "velocity") < MOST
