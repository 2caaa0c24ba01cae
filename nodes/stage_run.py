"""What both training nodes do around a stage: make room, report, and lose nothing on Cancel or failure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ..training import lora as adapters
from ..training.lora import FluxLoRA
from ..training.real_latents import RealLatents
from ..training.stage import StageFailure, StageResult, check_fits
from . import host
from .values import owned

MEMORY_ADVICE = (
    "Out of memory. In this order: turn gradient_checkpointing on, lower batch_size to 1 (and raise "
    "gradient_accumulation to make up for it), lower resolution in Encode Real Latents, lower rank or choose fewer "
    "targets in Load FLUX LoRA, and load the base in bf16."
)


def run_stage(
    stage: str, lora: FluxLoRA, data: RealLatents, train: Callable[..., StageResult], *, node: str
) -> StageResult:
    """Run ``train(lora, data, device=, reporter=, run_folder=)`` with the device to itself, outside inference mode.

    When the user cancels, the weights so far are saved and the host's interruption is raised; when the stage fails,
    they are saved and a ``RuntimeError`` says where. Both messages also go to the page as the run's state.
    """
    check_fits(lora, data)
    folder = host.new_run_folder(stage)
    reporter = host.HostReporter(node, stage, folder.name, host.preview_decoder(lora.base))
    try:
        result = host.with_device(
            lambda device: train(owned(lora), owned(data), device=device, reporter=reporter, run_folder=folder)
        )
    except StageFailure as failure:
        saved = _rescue(failure.result.lora, folder.name)
        advice = f"\n{MEMORY_ADVICE}" if isinstance(failure.__cause__, torch.OutOfMemoryError) else ""
        reporter.finish("failed", f"{failure}{advice}\nThe LoRA up to there is in {saved}.")
        raise RuntimeError(reporter.message) from failure
    except torch.OutOfMemoryError as error:
        reporter.finish("failed", f"The {stage} stage could not start. {MEMORY_ADVICE}")
        raise RuntimeError(reporter.message) from error
    finally:
        if reporter.running and sys.exc_info()[1] is not None:
            reporter.finish("failed", str(sys.exc_info()[1]))
    if result.stopped:
        saved = _rescue(result.lora, folder.name)
        reporter.finish("stopped", f"Cancelled after {reporter.steps_text}. The LoRA up to there is in {saved}.")
        host.raise_interruption()
    noted = f", with {reporter.notes_text}" if reporter.notes_text else ""
    reporter.finish("finished", f"Finished {reporter.steps_text}{noted}.")
    return result


def _rescue(lora: FluxLoRA, run: str) -> Path:
    path = host.interrupted_file(run)
    return adapters.save(lora, path, metadata=host.metadata_allowed())
