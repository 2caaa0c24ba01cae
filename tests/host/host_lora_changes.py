"""Run inside a host's own modules: LoRA files as its trainer writes them, and what its loader makes of them.

    python host_lora_changes.py <ComfyUI folder> <folder with shapes.json> <seed>

``shapes.json``: (out, in) by layer. For each kind of adapter that the host trains, writes ``<kind>.safetensors``, as
its nodes Train LoRA and Save LoRA do, and ``<kind>-changes.safetensors``: what its loader adds to each weight.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

KINDS = ("LoRA", "LoHa", "LoKr")
RANK, ALPHA = 2, 1.5


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    host, folder, seed = sys.argv[1:]
    enter(host)
    import comfy.lora
    import comfy.weight_adapter
    import torch
    from safetensors.torch import save_file

    shapes = json.loads((Path(folder) / "shapes.json").read_text())
    torch.manual_seed(int(seed))
    for kind in KINDS:
        adapter = comfy.weight_adapter.adapter_maps[kind]
        tensors = {}
        for layer, shape in shapes.items():
            trained = adapter.create_train(torch.zeros(shape), rank=RANK, alpha=ALPHA)
            for name, parameter in trained.named_parameters():
                value = parameter if name == "alpha" else torch.randn_like(parameter)
                tensors[f"diffusion_model.{layer}.{name}"] = value.detach().contiguous()
            tensors[f"diffusion_model.{layer}.diff_b"] = torch.randn(shape[0])
        save_file(tensors, Path(folder) / f"{kind}.safetensors")
        keys = {f"diffusion_model.{layer}": f"diffusion_model.{layer}.weight" for layer in shapes}
        patches = comfy.lora.load_lora(tensors, keys)
        changes = {
            layer: comfy.lora.calculate_weight(
                [(1.0, patches[keys[f"diffusion_model.{layer}"]], 1.0, None, None)], torch.zeros(shape), layer
            )
            for layer, shape in shapes.items()
        }
        save_file(changes, Path(folder) / f"{kind}-changes.safetensors")


if __name__ == "__main__":
    main()
