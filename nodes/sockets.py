"""The pack's own wires. Each carries an immutable value, never a live model."""

from __future__ import annotations

from comfy_api.latest import io

FluxLoRASocket = io.Custom("FLUXDUEL_FLUX_LORA")
RealLatentsSocket = io.Custom("FLUXDUEL_REAL_LATENTS")
DiscriminatorSocket = io.Custom("FLUXDUEL_DISCRIMINATOR")
TrainingLogSocket = io.Custom("FLUXDUEL_TRAINING_LOG")
OptionsSocket = io.Custom("FLUXDUEL_OPTIONS")
