"""A stage's run, in a folder or without one, by a plan of its memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..base.base_model import BaseLoader, BaseReference
from ..base.base_shelf import kept_bytes
from ..base.memory import USABLE, free_bytes
from ..config import AUTO, DiscriminatorConfig, StageConfig
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA
from ..stages import pace
from ..stages.examined import least_beside
from ..stages.measurements import out_of_memory
from ..stages.plan import GIB, Chosen, Counting, Plan, Room, as_asked, demand_of, on_the_cpu, plan_stage
from ..stages.ranks import Ranks
from ..stages.stage import Reporter, Stage, StageFailure, StageResult
from .checkpoints import Snapshot
from .fingerprints import Fingerprint
from .requests import Requests
from .run_directory import RunDirectory
from .stage_loop import Loop, finished_result


def train(
    make_stage: Callable[[Plan], Stage],
    settled: Callable[[str], Chosen | Plan],
    wanted: Fingerprint,
    start: FluxLoRA,
    reporter: Reporter,
    run_folder: Path | None,
    settings: Mapping[str, Any],
    ranks: Ranks,
    requests: Requests | None = None,
) -> StageResult:
    """Run a stage in ``run_folder`` from where an earlier sitting left it; a finished one gives its result at once.

    ``settled``: the plan for a precision. ``settings`` are written down in the folder, and so is the precision that was
    settled on: a run goes on in the one that it began in. Without a folder nothing is kept, and every call begins anew.
    ``requests``: what is asked of the run while it goes on; of one alone, and not of several ``ranks``.

    Raises ``RunDirectoryError`` or ``OSError`` where the folder cannot be used, what ``settled`` and ``make_stage``
    raise, and ``StageFailure`` (with the last good weights) after that.
    """
    if run_folder is None:
        return run_planned(make_stage, settled(start.base.precision), reporter, None, ranks, requests)
    opened = RunDirectory.opened(run_folder, wanted, settings) if ranks.first else nullcontext()
    with opened as directory:
        done = ranks.from_first(None if directory is None else finished_result(directory, start))
        if done is not None:
            reporter.resumed(wanted.stage, wanted.total, done.log.records, done.log.notes)
            return done
        plan = settled(start.base.precision if directory is None else directory.precision)
        if directory is not None:
            directory.settle((plan.plan if isinstance(plan, Chosen) else plan).precision)
        return run_planned(make_stage, plan, reporter, directory, ranks, requests)


def settle(
    start: FluxLoRA,
    data: RealLatents,
    config: StageConfig,
    judge: DiscriminatorConfig | None,
    precision: str,
    *,
    device: torch.device | str,
    ranks: Ranks,
    load: BaseLoader | None,
    sampling_base: BaseReference | None = None,
) -> Chosen | Plan:
    """How the base is to be held on ``device``: the same on all ranks.

    ``load``: as of the stages, for what it keeps already. ``precision``: asked for, or what an earlier sitting of this
    run settled on. On the CPU, and where the base is split over ranks, all is as asked, for want of choice; with
    ``AUTO`` in bf16, or in int8 where the computer's memory does not hold that. ``sampling_base``: as of the stages;
    room is left for it, streamed. Raises ``NoRoom``, and as ``rehearse``.
    """
    device, limit = torch.device(device), int(config.memory_limit_gb * GIB)

    def alone() -> Chosen | Plan:
        if ranks.shard and ranks.count > 1:
            return as_asked("bf16" if precision == AUTO else precision, config)
        free = free_bytes(device) + kept_bytes(load, device)
        usable = int(USABLE * free)
        if device.type == "cpu" and not limit:
            return as_asked(on_the_cpu(start, usable) if precision == AUTO else precision, config)
        beside = least_beside(start, sampling_base, data, config)
        counting = Counting(start, demand_of(start, data, config, judge), beside)
        room = Room(min(usable, limit), min(free, limit), usable) if limit else Room(usable, free)
        return plan_stage(counting, config, room, precision)

    return ranks.from_first(alone() if ranks.first else None)


def run_planned(
    make_stage: Callable[[Plan], Stage],
    settled: Chosen | Plan,
    reporter: Reporter,
    directory: RunDirectory | None,
    ranks: Ranks,
    requests: Requests | None = None,
) -> StageResult:
    """As ``stage_loop.run``. Where memory runs out all the same, the stage is made anew by a cheaper plan, once, and
    goes on from its last whole state."""
    loop: Loop | None = None

    def sitting(plan: Plan, told: str, again: Snapshot | None = None) -> StageResult:
        nonlocal loop
        loop = Loop(make_stage(plan), reporter, directory, again, requests)
        if told:
            loop.stage.remarks[:0] = [told, pace.told(loop.stage, loop.step)]
        return loop.run()

    plan, told = (settled.plan, settled.text) if isinstance(settled, Chosen) else (settled, "")
    cheaper = plan.cheaper()
    try:
        return sitting(plan, told)
    except RuntimeError as error:
        cause = error.__cause__ if isinstance(error, StageFailure) else error
        # Other ranks wait within a pass that this one has left.
        if cheaper is None or ranks.count > 1 or not out_of_memory(cause):
            raise
        at = f" at update {loop.step + 1}" if loop else ""
    again = loop.last_good if loop else None
    # What fills the card is held by the stage and by the frames of its failure, in circles.
    loop = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return sitting(cheaper, f"Out of memory{at} with {plan.text}. Going on, once, with {cheaper.text}.", again)


def settings_of(start: FluxLoRA, **configs: Any) -> dict[str, Any]:
    """What a run folder says of its settings, for people."""
    return {
        "base": start.base.name,
        "precision": start.base.precision,
        "lora": asdict(start.config),
        **{name: asdict(config) for name, config in configs.items()},
    }
