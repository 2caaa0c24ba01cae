"""One job: train one arm on one style with one seed, and measure it on subjects that no one trained on."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.benchmarks import pictograms
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.config import TINY_BASE, DiffusionStageConfig, LoRAConfig
from fluxduel.training.evidence import metrics
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.runs.stage_loop import run as run_stage
from fluxduel.training.runs.train_stages import train_diffusion_stage

from ..textures.job import Quiet
from . import arms, drawing, measures, subjects
from .classifier import KNOWN_STYLES, classifier
from .drawing import Setting

BASE = BaseReference(TINY_BASE, "fp32")
HELD_OUT_SHARE = 0.125
SOLVERS = ("euler", "deis", "dpmpp_2m", "res_multistep", "ipndm", "ab2")
GUIDANCES = (1.0, arms.GUIDANCE)
FEW, SOME, MANY = 4, 8, 25
MANY_SOLVERS = ("euler", "dpmpp_2m", "ab2")
# Many steps cost most of the time, and say nearly the same at every seed: with all solvers at the first seed alone.
FIRST_SEED = 1000
LATER_MANY_SOLVERS = ("euler", "dpmpp_2m")
STRENGTHS = (0.6, 0.8, 1.2)
# Each third subject for what chooses among settings and for tolls; all of them for what is reported of the best.
GRID = 3
FOREIGN = 60


class Job(NamedTuple):
    """What is trained: an arm, or ``stage1``, which all arms start from."""

    style: str
    seed: int
    images: int
    arm: str

    @property
    def name(self) -> str:
        return f"{self.style}-{self.images}-{self.seed}-{self.arm}"

    @property
    def cell(self) -> tuple[str, int, int]:
        return self.style, self.images, self.seed


def run(job: Job, folder: Path) -> dict[str, Any]:
    """Train and measure; the result is also written into ``folder``, and taken from there the next time."""
    file = folder / f"{job.name}.json"
    if file.exists():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    started, reporter = time.perf_counter(), Quiet()
    lora = trained(job, folder, reporter)
    seconds = time.perf_counter() - started
    result = {**job._asdict(), **measured(lora, job), "train_seconds": seconds, "notes": reporter.notes}
    result["seconds"] = time.perf_counter() - started
    file.write_text(json.dumps(result))
    return result


def trained(job: Job, folder: Path, reporter: Quiet) -> FluxLoRA:
    """The job's LoRA, trained or from ``folder``."""
    kept = folder / f"{job.name}.safetensors"
    start = adapter.create(BASE, LoRAConfig(rank=arms.RANK, alpha=float(arms.RANK), targets="all", seed=job.seed))
    if kept.exists():
        return dataclasses.replace(start, tensors=load_file(kept))
    data = subjects.dataset(job.style, job.images, job.seed, HELD_OUT_SHARE)
    if job.arm == "stage1":
        config = DiffusionStageConfig(
            **arms.SCALE, **arms.STAGE_1, steps=arms.STAGE_1_STEPS[job.images], seed=job.seed
        )
        found = train_diffusion_stage(start, data, config, device="cpu", reporter=reporter).lora
    else:
        arm = arms.ARMS[job.arm]
        if arm.practice:
            data = subjects.practising(data, job.style, job.images, job.seed)
        first = trained(job._replace(arm="stage1"), folder, reporter)
        stage = arm.stage(first, data, arm.judge_config(job.seed), arm.stage_config(job.seed), device="cpu")
        found = run_stage(stage, reporter).lora
    save_file(dict(found.tensors), kept)
    return found


def truth(style: str, names: list[str]) -> measures.Truth:
    """The true pictures of ``names`` in a style."""
    pictures = subjects.pictures(style, names)
    return measures.Truth.of(pictures, names, KNOWN_STYLES.index(style), classifier())


class View:
    """What a LoRA draws of the subjects that were not trained on, measured."""

    def __init__(self, lora: FluxLoRA | None, job: Job) -> None:
        self._lora = lora
        training, self._names = subjects.split(job.style, job.images, job.seed)
        self._style, self._truth = job.style, truth(job.style, self._names)
        self._old = truth(subjects.OLD_STYLE, self._names)
        self._training = subjects.pictures(job.style, training)
        self.shown: dict[str, Tensor] = {}

    def whole(self, setting: Setting) -> dict[str, float]:
        """On all subjects."""
        return self._measured(setting, 1)

    def part(self, setting: Setting) -> dict[str, float]:
        """On each third one."""
        return self._measured(setting, GRID)

    def old_style(self, setting: Setting) -> dict[str, float]:
        """The captions of as many subjects as ``FOREIGN`` in a style that the base knows, against its pictures."""
        places = torch.arange(len(self._names))[:: max(1, len(self._names) // FOREIGN)]
        captions = [subjects.caption(subjects.OLD_STYLE, self._names[i]) for i in places]
        drawn = drawing.decoded(drawing.latents(self._lora, captions, setting))
        return measures.measure(drawn, self._old, places)

    def _measured(self, setting: Setting, stride: int) -> dict[str, float]:
        places = torch.arange(len(self._names))[::stride]
        captions = [subjects.caption(self._style, self._names[i]) for i in places]
        drawn = drawing.decoded(drawing.latents(self._lora, captions, setting))
        return measures.measure(drawn, self._truth, places, self._training)


def measured(lora: FluxLoRA, job: Job) -> dict[str, Any]:
    """All that is reported of a LoRA; for ``stage1`` the grid of settings that cost nothing to choose among."""
    view = View(lora, job)
    own = Setting("euler", FEW, arms.GUIDANCE)
    first = job.seed == FIRST_SEED
    many = MANY_SOLVERS if first else LATER_MANY_SOLVERS
    part = {own, own._replace(guidance=1.0)}
    if job.arm in ("stage1", "ours"):
        part |= {own._replace(solver=solver) for solver in SOLVERS}
        part |= {own._replace(solver=solver, steps=MANY) for solver in many}
        part |= {own._replace(strength=strength) for strength in STRENGTHS}
    if job.arm == "stage1":
        part |= {Setting(solver, FEW, 1.0) for solver in SOLVERS}
        part |= {Setting(solver, MANY, 1.0) for solver in many}
    if job.arm == "stage1" and first:
        part |= {own._replace(solver=solver, steps=SOME) for solver in SOLVERS}
    if job.arm in arms.CONTINUED:
        part |= {Setting(solver, FEW, guidance) for solver in SOLVERS for guidance in GUIDANCES}
    numbers: dict[str, Any] = {"part": {setting.name: view.part(setting) for setting in sorted(part)}}
    whole = {own}
    if job.arm in ("stage1", *arms.CONTINUED):
        for steps in (FEW, MANY):
            tried = [setting for setting in part if setting.steps == steps and setting.strength == 1]
            if tried:
                whole.add(min(tried, key=lambda each: numbers["part"][each.name]["paired"]))
    numbers["whole"] = {setting.name: view.whole(setting) for setting in sorted(whole)}
    numbers["drift"] = view.old_style(own)["paired"]
    numbers["flow"] = held_out_flow(lora, job)
    return numbers


def held_out_flow(lora: FluxLoRA, job: Job) -> float:
    """Flow loss at guidance 1 on true pictures of subjects that were not trained on."""
    base = load_base(BASE, "cpu")
    adapter.attach(base, lora)
    names = subjects.split(job.style, job.images, job.seed)[1][::4]
    data = subjects.unseen(job.style, names)
    return metrics.held_out_flow_loss(base, data, 1.0, batch_size=32, most=len(names))


def base_retrieval(folder: Path) -> dict[str, float]:
    """By style that the base knows, how many of its own samples at 25 steps are nearest to the picture asked for."""
    file = folder / "base.json"
    if not file.exists():
        names, found = subjects.taught(), {}
        for style in pictograms.BASE_STYLES:
            captions = [subjects.caption(style.word, name) for name in names]
            drawn = drawing.decoded(drawing.latents(None, captions, Setting("euler", MANY, arms.GUIDANCE)))
            numbers = measures.measure(drawn, truth(style.word, names), torch.arange(len(names)))
            found[style.word] = numbers["retrieval"]
        file.write_text(json.dumps(found))
    return json.loads(file.read_text())
