"""Write the LoRA where the host's own loaders find it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from safetensors import SafetensorError, safe_open

from ..training.evidence.lora_names import changes_nothing
from ..training.failure_words import reason
from ..training.lora import adapter as adapters
from ..training.lora.adapter import FluxLoRA, LoRAError
from ..training.lora.files import FORMATS, doubts
from ..training.lora.usual_cfg import advice_for
from . import host
from .sockets import FluxLoRASocket
from .widgets import folded_input, supported

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


class SaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelSaveLoRA",
            display_name="Save FLUX LoRA",
            category="FluxDuel",
            description="Save the LoRA as .safetensors, with the names of diffusers or of kohya. With the prefix "
            "loras/... the host's Load LoRA nodes list the file after a refresh of the page.",
            inputs=[
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to save."),
                io.String.Input(
                    "prefix",
                    default="loras/fluxduel",
                    tooltip="Path below the host's output folder; a number and .safetensors are added. %date parts% "
                    "such as %year% are filled in.",
                ),
                folded_input(
                    io.Combo.Input,
                    "format",
                    options=list(FORMATS),
                    default=FORMATS[0],
                    tooltip="Names of the layers. diffusers: transformer.* for FLUX.1, and for FLUX.2 and FLUX.3 "
                    "diffusion_model.*, with alpha in the weights. kohya: lora_unet_*. The host loads both; other "
                    "programs may want one of them.",
                ),
                folded_input(
                    io.Combo.Input,
                    "dtype",
                    options=list(DTYPES),
                    default="fp32",
                    tooltip="Number type in the file. fp32 is exact; bf16 and fp16 halve the file."
                    " Keep fp32 for a LoRA that will be trained further.",
                ),
            ],
            outputs=[
                io.String.Output("path", display_name="path", tooltip="Where the file lies."),
                io.LoraModel.Output(
                    "lora_model",
                    display_name="lora_model",
                    tooltip="The same weights for the host's own LoRA nodes, such as Load LoRA Model.",
                ),
            ],
            is_output_node=True,
            **supported(io.Schema, search_aliases=["export LoRA", "safetensors", "kohya"]),
        )

    @classmethod
    def validate_inputs(cls, prefix: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(cls, flux_lora: FluxLoRA, prefix: str, format: str, dtype: str) -> io.NodeOutput:
        problem = host.prefix_problem(prefix)
        if problem:
            raise ValueError(problem)
        number_type = host.choose(DTYPES, dtype, "Save FLUX LoRA: dtype")
        path = host.next_file(prefix, ".safetensors")
        adapters.save(flux_lora, path, format, number_type, metadata=host.metadata_allowed())
        tensors = adapters.file_tensors(flux_lora, format, number_type)
        _verify(path, set(tensors))
        message = f"Saved {path}"
        if changes_nothing(flux_lora):
            message += "\nThis LoRA is untrained: it changes nothing. Did you connect a stage's output?"
            log.warning(message)
        else:
            advice, _ = advice_for(flux_lora)
            message += f"\n{advice}" if advice else ""
            log.info(message)
        for doubt in doubts(flux_lora, format):
            log.warning(doubt)
            message += f"\nWarning: {doubt}"
        return io.NodeOutput(str(path), tensors, ui=host.text_ui(message))


def _verify(path: Path, names: set[str]) -> None:
    """Raises ``LoRAError`` where the file does not hold what was written, as on a full or failing disk."""
    try:
        with safe_open(path, framework="pt") as file:
            found = set(file.keys())
    except (OSError, SafetensorError) as error:
        raise LoRAError(f"Save FLUX LoRA: {path} cannot be read back ({reason(error)}). Is the disk full?") from error
    if found != names:
        raise LoRAError(
            f"Save FLUX LoRA: {path} holds {len(found)} tensors where {len(names)} were written. "
            "Save again under another prefix."
        )
