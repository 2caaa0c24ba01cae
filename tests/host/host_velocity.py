"""Run inside a host's own modules: the velocities of its FLUX with LoRA files on it, as its loaders put them there.

    python host_velocity.py <ComfyUI folder> <job.json>

The job: ``base``, a checkpoint; ``folder`` of the LoRA files; ``inputs``, a safetensors file with the diffusion
model's arguments; ``runs``, from a dtype to names of LoRA files; ``velocities``, the safetensors file to write, with
``<dtype>/base``, ``<dtype>/<name>`` and, through this pack's own node, ``<dtype>/applied``; ``report``, the JSON file
to write, which also says in ``too_old`` why nothing of that was done.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
from pathlib import Path
from typing import Any


class Complaints(logging.Handler):
    """Keeps the host's remarks on keys that it could not use; it raises no error for them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    host, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    enter(host)
    import comfy.model_management
    import comfy.sd
    import folder_paths
    import torch
    from safetensors.torch import load_file, save_file

    import nodes
    from fluxduel.nodes.apply_flux_lora import ApplyFluxLoRA
    from fluxduel.nodes.host.versions import KLEIN, lacking
    from fluxduel.training.base.base_model import BaseReference
    from fluxduel.training.base.families.flux2 import FLUX2
    from fluxduel.training.lora.adapter import load_file as load_lora

    base = BaseReference(job["base"])
    too_old = lacking(KLEIN) if base.config["_class_name"] == FLUX2.class_name else ""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    folder_paths.add_model_folder_path("loras", job["folder"])
    inputs = load_file(job["inputs"])
    velocities: dict[str, torch.Tensor] = {}
    patches: dict[str, int] = {}

    def measure(patcher: Any, dtype: torch.dtype) -> torch.Tensor:
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        given = {name: tensor if name == "timestep" else tensor.to(dtype) for name, tensor in inputs.items()}
        return patcher.model.diffusion_model(**given).float().contiguous()

    with torch.inference_mode():
        for name, files in job["runs"].items() if not too_old else ():
            dtype = getattr(torch, name)
            model = comfy.sd.load_diffusion_model(job["base"], model_options={"dtype": dtype})
            if dtype != torch.float32:
                model.set_model_compute_dtype(dtype)  # on a CPU it would compute in fp32, whatever the weights are
            velocities[f"{name}/base"] = measure(model, dtype)
            for file in files:
                (patched,) = nodes.LoraLoaderModelOnly().load_lora_model_only(model, file, 1.0)
                patches[f"{name}/{file}"] = sum(map(len, patched.patches.values()))
                velocities[f"{name}/{file}"] = measure(patched, dtype)
            lora = load_lora(Path(job["folder"]) / files[-1], base)
            patched = ApplyFluxLoRA.execute(model, lora, 1.0).args[0]
            velocities[f"{name}/applied"] = measure(patched, dtype)
            del model, patched
            comfy.model_management.unload_all_models()
            gc.collect()
    save_file(velocities, job["velocities"])
    Path(job["report"]).write_text(json.dumps({"too_old": too_old, "patches": patches, "complaints": complaints.lines}))


if __name__ == "__main__":
    main()
