"""The device, and the Cancel button."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import comfy.model_management as memory
import torch

from ...training.base.base_model import BaseLoader
from ..values import outside_inference_mode
from . import kept_base

Result = TypeVar("Result")


def with_device(work: Callable[[torch.device, BaseLoader], Result]) -> Result:
    """``work(device, load)`` outside inference mode, with all the host's models out of the way; frees what it leaves.

    ``load`` is ``load_base``, but for the base that an earlier call has left: that one is kept (``kept_base``).
    """
    kept_base.withhold()
    try:
        memory.unload_all_models()
        _collect()
        # Some packs turn gradients off for the whole process.
        with outside_inference_mode(), torch.enable_grad(), _in_training():
            return work(memory.get_torch_device(), kept_base.shelf)
    finally:
        kept_base.shelf.take_back()
        _collect()
        kept_base.keep()


def _collect() -> None:
    gc.collect()
    memory.soft_empty_cache()


@contextmanager
def _in_training() -> Iterator[None]:
    # Hosts from 0.14 on swap some operations for ones without a backward pass unless they are told.
    if not hasattr(memory, "in_training"):
        yield
        return
    memory.in_training = True
    try:
        yield
    finally:
        memory.in_training = False


Interruption = memory.InterruptProcessingException
"""What the host ends a graph with that was cancelled; an ``Exception`` up to 0.19, and none from 0.20 on."""


def interrupted() -> bool:
    """Whether the user pressed Cancel. Unlike the host's own check it leaves the request standing."""
    return memory.processing_interrupted()


def unless_interrupted(work: Callable[[], Result]) -> Result | None:
    """``work()``, which calls models of the host; ``None`` where the user pressed Cancel meanwhile.

    Those ask for Cancel themselves, at each operation, and take the request down. Here it is left standing: a stage
    ends by it in its own way, and is not torn apart.
    """
    try:
        return work()
    except Interruption:
        memory.interrupt_current_processing(True)
        return None


def raise_interruption() -> NoReturn:
    """End the graph as cancelled."""
    memory.interrupt_current_processing(False)
    raise memory.InterruptProcessingException()


def stop_if_interrupted() -> None:
    """Ends the graph as cancelled where the user pressed Cancel. The progress bar asks only now and then."""
    if interrupted():
        raise_interruption()
