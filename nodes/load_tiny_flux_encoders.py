"""The text encoder and the VAE of the built-in base."""

from __future__ import annotations

from comfy_api.latest import io

from . import host


class LoadTinyFluxEncoders(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelLoadTinyFluxEncoders",
            display_name="Load Tiny FLUX Encoders",
            category="FluxDuel",
            description="CLIP and VAE of the tiny base that comes with this pack. For a real FLUX use the host's own "
            "DualCLIPLoader (type flux) and VAELoader (ae.safetensors) in its place.",
            inputs=[],
            outputs=[
                io.Clip.Output(
                    "clip",
                    display_name="CLIP",
                    tooltip="Text encoder of the tiny base. Works with the host's CLIP Text Encode; of no use to a "
                    "real FLUX.",
                ),
                io.Vae.Output(
                    "vae",
                    display_name="VAE",
                    tooltip="Picture encoder and decoder of the tiny base: 16 channels, 8 pixels to a latent.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(host.load_tiny_clip(), host.load_tiny_vae())
