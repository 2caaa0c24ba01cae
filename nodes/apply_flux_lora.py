"""The LoRA on the host's own MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..training.lora import adapter as adapters
from ..training.lora.adapter import FluxLoRA
from ..training.lora.sampling_advice import departures
from ..training.lora.usual_cfg import advice_for
from . import host
from .sockets import FluxLoRASocket


class ApplyFluxLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelApplyFluxLoRA",
            display_name="Apply FLUX LoRA",
            category="FluxDuel",
            description="Put a LoRA that was just trained on a MODEL, for the host's own samplers, without saving it.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A FLUX model from the host's loaders: the one the LoRA was trained on."
                ),
                FluxLoRASocket.Input("flux_lora", tooltip="The LoRA to apply."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="Weight of the LoRA. 1 is what was trained, 0 is the base alone.",
                ),
            ],
            outputs=[io.Model.Output("patched", display_name="MODEL", tooltip="The model with the LoRA on it.")],
        )

    @classmethod
    def execute(cls, model: Any, flux_lora: FluxLoRA, strength: float) -> io.NodeOutput:
        patched = host.apply_lora(model, adapters.file_tensors(flux_lora), strength, flux_lora.base)
        advice, _ = advice_for(flux_lora)
        doubts = [f"Warning: {sentence}" for sentence in departures(flux_lora.provenance, strength=strength)]
        text = "\n".join(filter(None, [advice, *doubts]))
        return io.NodeOutput(patched, ui=host.text_ui(text) if text else None)
