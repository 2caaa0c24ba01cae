"""The only package that talks to ComfyUI itself: folders, memory, encoders, progress, messages to the page, MODELs."""

from __future__ import annotations

from .comparisons import show_comparison
from .dataset_routes import encoded_pictures, register_dataset_routes
from .encoders import (
    clip_key,
    encode_image,
    encode_prompt,
    load_tiny_clip,
    load_tiny_vae,
    vae_key,
)
from .folders import (
    TINY_BASE_LABEL,
    cache_folder,
    checkpoints,
    choose,
    discriminator_files,
    file_identity,
    interrupted_file,
    lora_files,
    metadata_allowed,
    next_file,
    prefix_problem,
    remove_interrupted_file,
    runs_folder,
    training_folders,
    written_folders,
)
from .graph_check import problem_here
from .memory import Interruption, interrupted, raise_interruption, stop_if_interrupted, with_device
from .model_lora import apply_lora
from .pictures import image_tensor, picture_decoder, preview_decoder
from .preview_routes import register_preview_routes
from .progress import Progress, text_ui
from .prompts import register_prompt_handler
from .refusals import register_refusals
from .reporting import HostReporter, history, register_routes
from .run_routes import register_run_routes, reopened, running
from .vae_checks import check_vae, doubt_of

__all__ = [
    "TINY_BASE_LABEL",
    "HostReporter",
    "Interruption",
    "Progress",
    "apply_lora",
    "cache_folder",
    "check_vae",
    "checkpoints",
    "choose",
    "clip_key",
    "discriminator_files",
    "doubt_of",
    "encode_image",
    "encode_prompt",
    "encoded_pictures",
    "file_identity",
    "history",
    "image_tensor",
    "interrupted",
    "interrupted_file",
    "load_tiny_clip",
    "load_tiny_vae",
    "lora_files",
    "metadata_allowed",
    "next_file",
    "picture_decoder",
    "prefix_problem",
    "preview_decoder",
    "problem_here",
    "raise_interruption",
    "register_dataset_routes",
    "register_preview_routes",
    "register_prompt_handler",
    "register_refusals",
    "register_routes",
    "register_run_routes",
    "remove_interrupted_file",
    "reopened",
    "running",
    "runs_folder",
    "show_comparison",
    "stop_if_interrupted",
    "text_ui",
    "training_folders",
    "vae_key",
    "with_device",
    "written_folders",
]
