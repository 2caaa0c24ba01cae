"""Both stages on cards of less memory: what the plan chooses by itself there, and whether its prediction holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fluxduel.training.base.base_shelf import kept_bytes
from fluxduel.training.base.memory import USABLE, free_bytes
from fluxduel.training.config import (
    AUTO,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    StageConfig,
)
from fluxduel.training.evidence.preview_sheet import Row
from fluxduel.training.runs.planned import run_planned
from fluxduel.training.stages.adversarial_stage import AdversarialStage
from fluxduel.training.stages.diffusion_stage import DiffusionStage
from fluxduel.training.stages.measurements import out_of_memory
from fluxduel.training.stages.plan import GIB, Chosen, Counting, NoRoom, Plan, Room, demand_of, plan_stage
from fluxduel.training.stages.ranks import ALONE
from fluxduel.training.stages.stage import Stage

from .rows import FEW_HELD_OUT
from .subject import Subject, gib

STEPS = 3
# GiB of a card that a CUDA context takes; torch's allocator, to which the cap is given, does not count it.
CONTEXT = 0.6


class Caps:
    """The measurement; what a plan takes is counted once for all caps."""

    def __init__(self) -> None:
        self._countings: dict[tuple[int, str], Counting] = {}

    def measure(self, subject: Subject, pixels: int, cap: float) -> dict[str, Any]:
        """Plan both stages for a card of ``cap`` GiB that nobody else uses, and train ``STEPS`` steps by the plan.

        On a GPU its allocator hands out no more than such a card has; on the CPU the cap is the plan's alone. Stage 2's
        steps hold a look at held-out pictures. Validations, which the user can turn off, are left out.
        """
        on_gpu = subject.device.type == "cuda"
        card = gib(torch.cuda.mem_get_info()[1]) if on_gpu else cap
        if card < cap:
            return {"left_out": f"the card has {card:g} GiB"}
        # Else a card would hold from the row before what it has no room for.
        subject.shelf.clear()
        room = int((cap - CONTEXT * on_gpu) * GIB)
        judge = DiscriminatorConfig()
        shared = {"steps": STEPS, "validate_every": 0}
        diffusion = DiffusionStageConfig(**shared)
        adversarial = AdversarialStageConfig(**shared, discriminator_warmup=0)
        start, data, load = subject.start(AUTO), subject.data(pixels), subject.shelf
        data = replace(data, held_out=data.held_out[:FEW_HELD_OUT])
        given = {"device": subject.device, "load": load}
        stages: dict[str, tuple[StageConfig, DiscriminatorConfig | None, Callable[[Plan], Stage]]] = {
            "stage 1": (
                diffusion, None, lambda plan: DiffusionStage(start, data, diffusion, plan=plan, **given)
            ),
            "stage 2": (
                adversarial, judge, lambda plan: AdversarialStage(start, data, judge, adversarial, plan=plan, **given)
            ),
        }  # fmt: skip
        found = {}
        for name, (config, network, make) in stages.items():
            key = (pixels, name)
            if key not in self._countings:
                self._countings[key] = Counting(start, demand_of(start, data, config, network))
            with _at_most(subject, room):
                # As ``planned.settle`` would find on such a card.
                free = room
                if on_gpu:
                    free = min(room, free_bytes(subject.device) + kept_bytes(load, subject.device))
                plan = partial(plan_stage, self._countings[key], config, Room(int(USABLE * free), free), AUTO)
                found[name] = _outcome(subject, plan, make)
        return found


@contextmanager
def _at_most(subject: Subject, room: int) -> Iterator[None]:
    """Inside, torch hands out no more than ``room`` bytes of the GPU; what is held already stays."""
    subject.settle()
    if subject.device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / torch.cuda.mem_get_info()[1]))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _outcome(subject: Subject, plan: Callable[[], Chosen], make: Callable[[Plan], Stage]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        chosen = plan()
    except NoRoom as refusal:
        return {"runs": False, "refused": str(refusal)}
    told = {
        "plan": chosen.plan.text,
        "predicted": round(chosen.peak / GIB, 3),
        "usable": round(chosen.usable / GIB, 3),
        "seconds_to_plan": round(time.perf_counter() - started, 2),
    }
    sitting = _Sitting(subject)
    try:
        _, cost = subject.cost(lambda: run_planned(make, chosen, sitting, None, ALONE))
    # Whatever ends a stage is its result: the other one is tried all the same.
    except Exception as error:
        kind = "out_of_memory" if out_of_memory(error) or out_of_memory(error.__cause__) else "error"
        return told | {"runs": False, kind: f"{type(error).__name__}: {error}"[:600]}
    return told | sitting.told() | {"runs": True, **cost}


class _Sitting:
    """A reporter that keeps times and notes, and on a GPU the peak before the first step apart from that of steps."""

    def __init__(self, subject: Subject) -> None:
        self._on_gpu = subject.device.type == "cuda"
        self._seconds: list[float] = []
        self._notes: list[str] = []
        self._before = 0.0

    def told(self) -> dict[str, Any]:
        """Seconds of a step once all kinds of work have been done; notes, of which one tells of a second attempt."""
        told = {"step_seconds": round(statistics.median(self._seconds[1:]), 4), "notes": self._notes}
        again = any(note.startswith("Out of memory") for note in self._notes)
        return told | ({"peak_before_steps": self._before} if self._on_gpu else {}) | ({"again": True} if again else {})

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        if "seconds_per_step" in values:
            self._seconds.append(values["seconds_per_step"])

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None: ...

    def note(self, step: int, text: str) -> None:
        if step == 0 and not self._notes and self._on_gpu:
            self._before = gib(torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        self._notes.append(text)

    def resumed(
        self, stage: str, total: int, records: Sequence[Mapping[str, float]], notes: Sequence[tuple[int, str]]
    ) -> None: ...

    def should_stop(self) -> bool:
        return False
