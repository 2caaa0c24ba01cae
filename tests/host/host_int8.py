"""Run inside a host's own modules: what its FLUX makes of an int8 file.

    python host_int8.py <ComfyUI folder> <job.json>

The job: ``base``, the file; ``inputs``, a safetensors file with the diffusion model's arguments; ``found``, the
safetensors file to write, with the velocity and the weights of ``layers`` as the host decodes them; ``report``, the
JSON file to write, with what it complained of.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from fluxduel.tests.host.host_velocity import Complaints


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    host, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    enter(host)
    import comfy.model_management
    import comfy.sd
    import torch
    from safetensors.torch import load_file, save_file

    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    inputs = load_file(job["inputs"])
    with torch.inference_mode():
        patcher = comfy.sd.load_diffusion_model(job["base"])
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        model = patcher.model.diffusion_model
        given = {name: each if name == "timestep" else each.to(torch.bfloat16) for name, each in inputs.items()}
        found = {"velocity": model(**given).float()}
        kinds = {}
        for name in job["layers"]:
            weight = model.get_submodule(name).weight
            kinds[name] = type(weight.data).__name__
            found[name] = weight.dequantize().float().contiguous()
    save_file(found, job["found"])
    Path(job["report"]).write_text(json.dumps({"complaints": complaints.lines, "kinds": kinds}))


if __name__ == "__main__":
    main()
