"""Around a stage in both training nodes: find its run, make room, report, lose nothing on Cancel or failure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch

from ..training.data.fits import check_fits
from ..training.data.real_latents import RealLatents
from ..training.failure_words import in_words, reason
from ..training.lora import adapter as adapters
from ..training.lora.adapter import FluxLoRA, LoRAError
from ..training.runs import run_directory
from ..training.runs.fingerprints import Fingerprint
from ..training.runs.run_directory import Choice, RunDirectory
from ..training.runs.stage_loop import finished_result
from ..training.stages.stage import StageFailure, StageResult
from . import host
from .values import outside_inference_mode, owned

MEMORY_ADVICE = (
    "Out of memory. In this order: turn gradient_checkpointing on, lower batch_size to 1 (and raise "
    "gradient_accumulation to make up for it), raise streamed_share, or with precision auto set memory_limit_gb below "
    "what the card has: with each of these the run goes on from where it is. Then set precision to auto or "
    "int8_convrot in Load FLUX LoRA, lower resolution in Encode Real Latents, and lower rank or choose fewer targets."
)


def run_stage(
    wanted: Fingerprint,
    lora: FluxLoRA,
    data: RealLatents,
    train: Callable[..., StageResult],
    *,
    node: str,
    workflow: str = "",
) -> StageResult:
    """Run ``train(lora, data, device=, reporter=, run_folder=, load=, requests=)`` with the device to itself.

    It runs outside inference mode. A run of the same inputs below the host's output folder is gone on with; where it is
    finished, its result is returned at once. When the user cancels, the weights so far are saved and the host's
    interruption is raised; when the stage fails, they are saved and a ``RuntimeError`` says where. Both messages also
    go to the page as the run's state. Once it is finished, what was saved so is removed.
    """
    check_fits(lora.base, data)
    try:
        choice = run_directory.choose(host.runs_folder(), wanted)
    except OSError as error:
        raise RuntimeError(f"The runs of earlier stages cannot be looked at. {in_words(error)}") from error
    with host.running.open(node, wanted.stage, choice.folder, workflow) as requests:
        reporter = host.HostReporter(node, wanted, choice, host.preview_decoder(lora.base), workflow)
        return _run(wanted, lora, data, partial(train, requests=requests), choice, reporter)


def _run(
    wanted: Fingerprint,
    lora: FluxLoRA,
    data: RealLatents,
    train: Callable[..., StageResult],
    choice: Choice,
    reporter: host.HostReporter,
) -> StageResult:
    try:
        done = _finished(choice, wanted, lora, reporter)
        result = done or host.with_device(
            lambda device, load: train(
                owned(lora), owned(data), device=device, reporter=reporter, run_folder=choice.folder, load=load
            )
        )
    except host.Interruption:
        reporter.finish("stopped", f"Cancelled {reporter.place}.")
        raise
    except StageFailure as failure:
        advice = f"\n{MEMORY_ADVICE}" if isinstance(failure.__cause__, torch.OutOfMemoryError) else ""
        reporter.finish("failed", f"{failure}{advice}\n{_kept(failure.result, lora, choice.folder.name)}")
        raise RuntimeError(reporter.message) from failure
    except torch.OutOfMemoryError as error:
        reporter.finish("failed", f"The {wanted.stage} stage could not start. {MEMORY_ADVICE}")
        raise RuntimeError(reporter.message) from error
    except OSError as error:
        reporter.finish("failed", f"The {wanted.stage} stage could not start. {in_words(error)}")
        raise RuntimeError(reporter.message) from error
    finally:
        if reporter.running and sys.exc_info()[1] is not None:
            reporter.finish("failed", str(sys.exc_info()[1]))
    if result.stopped:
        reporter.finish("stopped", f"Cancelled {reporter.place}. {_kept(result, lora, choice.folder.name)}")
        host.raise_interruption()
    host.remove_interrupted_file(choice.folder.name)
    made = result.lora.provenance[-1].get("finished_early")
    early = None if made is None or made == wanted.steps else wanted.warmup + made
    if done is not None:
        reporter.finish("finished", choice.text, early)
    else:
        asked = "" if early is None else " early, as asked,"
        noted = f", with {reporter.notes_text}" if reporter.notes_text else ""
        reporter.finish("finished", f"Finished{asked} at update {reporter.step} of {wanted.total}{noted}.", early)
    return result


def _finished(
    choice: Choice, wanted: Fingerprint, lora: FluxLoRA, reporter: host.HostReporter
) -> StageResult | None:
    """The result of a run that is finished already: for it no model has to make room."""
    if not choice.finished:
        return None
    with outside_inference_mode(), RunDirectory.opened(choice.folder, wanted, {}) as directory:
        done = finished_result(directory, lora)
    if done is not None:
        reporter.resumed(wanted.stage, wanted.total, done.log.records, done.log.notes)
    return done


def _kept(result: StageResult, start: FluxLoRA, run: str) -> str:
    """Where what was trained so far is, for a run that did not finish."""
    again = "" if result.goes_on_from is None else f"Queue again to go on from update {result.goes_on_from}. "
    if all(tensor.equal(start.tensors[key]) for key, tensor in result.lora.tensors.items()):
        return f"{again}The LoRA had not been changed by then, so none is saved."
    try:
        saved = adapters.save(result.lora, host.interrupted_file(run), metadata=host.metadata_allowed())
    except (LoRAError, OSError) as error:
        return f"{again}{reason(error)}."
    return f"{again}The LoRA up to there is in {saved}."
