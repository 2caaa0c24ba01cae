"""The nodes, as the host's V3 loader takes them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import host
from .apply_flux_lora import ApplyFluxLoRA
from .compare_flux_loras import CompareFluxLoRAs
from .encode_real_latents import EncodeRealLatents
from .evaluate_flux_lora import EvaluateFluxLoRA
from .latent_discriminator import LatentDiscriminator
from .load_flux_lora import LoadFluxLoRA
from .load_tiny_flux_encoders import LoadTinyFluxEncoders
from .load_training_images import LoadTrainingImages
from .options.adversarial_options import AdversarialOptions
from .options.judged_sample_options import JudgedSampleOptions
from .options.memory_options import MemoryOptions
from .options.noise_options import NoiseOptions
from .options.optimiser_options import OptimiserOptions
from .options.preview_options import PreviewOptions
from .options.saving_options import SavingOptions
from .options.watch_options import WatchOptions
from .plot_training_log import PlotTrainingLog
from .sample_flux_lora import SampleFluxLoRA
from .save_lora import SaveLoRA
from .train_adversarial_stage import TrainAdversarialStage
from .train_diffusion_stage import TrainDiffusionStage

NODES: list[type[io.ComfyNode]] = [
    LoadFluxLoRA,
    LoadTinyFluxEncoders,
    LoadTrainingImages,
    EncodeRealLatents,
    TrainDiffusionStage,
    LatentDiscriminator,
    TrainAdversarialStage,
    SaveLoRA,
    ApplyFluxLoRA,
    SampleFluxLoRA,
    EvaluateFluxLoRA,
    CompareFluxLoRAs,
    PlotTrainingLog,
    OptimiserOptions,
    NoiseOptions,
    AdversarialOptions,
    JudgedSampleOptions,
    WatchOptions,
    PreviewOptions,
    MemoryOptions,
    SavingOptions,
]


class FluxDuelExtension(ComfyExtension):
    """What ``comfy_entrypoint`` hands to the host."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Not in on_load, which the oldest supported hosts do not call.
        host.register_routes()
        host.register_dataset_routes()
        host.register_preview_routes()
        host.register_prompt_handler()
        host.register_refusals()
        host.register_run_routes()
        return NODES
