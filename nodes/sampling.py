"""What the nodes that sample with LoRAs have in common: inputs, and the run on the host's device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from comfy_api.latest import io

from ..training.config import SAMPLERS
from ..training.lora.sampling_advice import TRAINED_SAMPLER
from ..training.lora.usual_cfg import AS_USUAL
from . import host
from .widgets import folded_input

Found = TypeVar("Found")


def guidance_input(more: str = "", *, folded: bool = False) -> io.Input:
    """The value of the guidance embedding; ``more``: what the tooltip adds. ``folded``: see ``folded_input``."""
    asked: dict[str, Any] = {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1, "round": False}
    asked["tooltip"] = f"FLUX-dev's guidance embedding while sampling. Ignored by bases without one.{more}"
    return folded_input(io.Float.Input, "guidance", **asked) if folded else io.Float.Input("guidance", **asked)


def sampler_input() -> io.Input:
    """The sampler, by the host's names."""
    return io.Combo.Input(
        "sampler",
        options=list(SAMPLERS),
        default=TRAINED_SAMPLER,
        tooltip="The sampler, by the host's name. A LoRA of stage 2 is trained for euler; one of stage 1 for any. heun "
        "takes two evaluations a step. Levels are those of scheduler simple with ModelSamplingFlux for the size, of "
        "FLUX.2 those of Flux2Scheduler.",
    )


def cfg_input(negative: str) -> io.Input:
    """Classifier-free guidance; ``negative``: where the negative prompt comes from, in words."""
    return folded_input(
        io.Float.Input,
        "cfg",
        default=AS_USUAL,
        min=0.0,
        max=100.0,
        step=0.1,
        round=False,
        optional=True,
        tooltip=f"Classifier-free guidance: how far pictures are led from {negative}. Two passes a step. 1: off. 0: "
        "as the base needs it, 4 for FLUX.2 and FLUX.3 klein base, else 1; and 1 at the few steps that stage 2 has "
        "trained a LoRA for.",
    )


def on_device(node: type[io.ComfyNode], job: Callable[..., Found], *values: Any, **options: Any) -> Found:
    """What ``job`` gives for these arguments and, beside them, the host's ``device``, its ``load`` for bases and an
    ``after_step`` that tells the progress at ``node`` and ends where the user cancels."""
    progress = host.Progress(str(node.hidden.unique_id))
    return host.with_device(
        lambda device, load: job(*values, **options, device=device, load=load, after_step=progress.update_or_stop)
    )
