"""The process as one of those that ``accelerate launch`` or ``torchrun`` has started, or alone."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import PartialState

from ..training.stages.ranks import Ranks

# Others wait while one process of each machine encodes the pictures, which may take hours; a process that dies does
# not leave them waiting, for the launcher then ends them.
_PATIENCE = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Place:
    """This process's device and its place among the others."""

    device: torch.device
    ranks: Ranks

    @contextmanager
    def one_by_machine(self) -> Iterator[bool]:
        """The first process of each machine runs the body, with True, before the others do."""
        state = PartialState()
        with state.local_main_process_first():
            yield state.is_local_main_process


@contextmanager
def joined(device: str, shard: bool = False) -> Iterator[Place]:
    """Join the process group that a launcher has made, if one has; leave it at the end.

    ``device``: auto, cpu or cuda. ``shard``: each process is to hold a part of the base. Raises ``ValueError`` for cuda
    where there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("base.device is cuda, but torch finds no GPU. Set it to auto or cpu, or mend the driver.")
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, **({"timeout": _PATIENCE} if launched else {}))
    own = torch.device("cpu") if on_cpu else state.device if launched else torch.device("cuda")
    yield Place(own, Ranks.current(own, shard))
    # Not after a failure: the others may never come to this point, and waiting for them would hide the failure.
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
