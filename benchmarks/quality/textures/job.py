"""One job: train one arm on one domain with one seed, and measure it against photographs that no one trained on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.training.base import sampler
from fluxduel.training.base.base_model import BaseReference, load_base
from fluxduel.training.config import DiffusionStageConfig, LoRAConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence import latent_metrics, metrics
from fluxduel.training.evidence.preview_sheet import Row
from fluxduel.training.evidence.random_features import FeatureSpace
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage

from . import domains
from .arms import ARMS, SCALE, STAGE_1, STAGE_1_STEPS

BASE = BaseReference(str(Path(__file__).resolve().parents[3] / "assets" / "quality_base"), "fp32")
RANK = 8
HELD_OUT_SHARE = 0.125
STEP_COUNTS = (4, 25)
# Fewer pictures where each costs more; numbers are compared for one number of steps only.
SAMPLES = {4: 2000, 25: 1000}
UNSEEN, UNSEEN_FLOW = 2000, 500
# What a user can choose among for nothing, at 25 steps the three that differ most.
SOLVERS = {4: ("deis", "dpmpp_2m", "res_multistep", "ipndm", "gradient_estimation", "ab2"), 25: ("dpmpp_2m", "ab2")}
SHOWN = 16
FIRST_SEED = 10_000


class Job(NamedTuple):
    """What is trained: an arm, or ``stage1`` and ``base``, which are only measured."""

    domain: str
    seed: int
    images: int
    arm: str

    @property
    def name(self) -> str:
        return f"{self.domain}-{self.images}-{self.seed}-{self.arm}"


class Quiet:
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def scalars(self, stage: str, step: int, total: int, values: Mapping[str, float]) -> None:
        pass

    def preview(self, step: int, latents: Tensor, rows: Sequence[Row], delivered: int | None) -> None:
        pass

    def note(self, step: int, text: str) -> None:
        self.notes.append(f"step {step}: {text}")

    def should_stop(self) -> bool:
        return False


def run(job: Job, folder: Path) -> dict[str, Any]:
    """Train and measure; the result is also written into ``folder``, and taken from there the next time."""
    file = folder / f"{job.name}.json"
    if file.exists():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    data = domains.dataset(domains.DOMAINS[job.domain], job.images, job.seed, HELD_OUT_SHARE)
    started, reporter = time.perf_counter(), Quiet()
    trained = _train(job, data, folder, reporter)
    seconds = time.perf_counter() - started
    with_solvers = STEP_COUNTS if job.arm in ("stage1", "control", "target4", "anchored") else ()
    numbers, shown = measure(trained, data, job, solver_steps=with_solvers)
    save_file(shown, folder / f"{job.name}.safetensors")
    result = {
        **job._asdict(), **numbers, "train_seconds": seconds,
        "seconds": time.perf_counter() - started, "notes": reporter.notes,
    }  # fmt: skip
    file.write_text(json.dumps(result))
    return result


def untrained(job: Job) -> FluxLoRA:
    """A LoRA that changes nothing yet."""
    return lora.create(BASE, LoRAConfig(rank=RANK, alpha=float(RANK), targets="all", seed=job.seed))


def stage_1(job: Job, data: RealLatents, folder: Path, reporter: Quiet) -> FluxLoRA:
    """The LoRA that all arms of a domain, seed and number of images start from; kept in ``folder``."""
    start = untrained(job)
    adapted = folder / f"{job.domain}-{job.images}-{job.seed}-stage1-lora.safetensors"
    if adapted.exists():
        return dataclasses.replace(start, tensors=load_file(adapted))
    config = DiffusionStageConfig(**SCALE, **STAGE_1, steps=STAGE_1_STEPS[job.images], seed=job.seed)
    trained = train_diffusion_stage(start, data, config, device="cpu", reporter=reporter).lora
    save_file(dict(trained.tensors), adapted)
    return trained


def _train(job: Job, data: RealLatents, folder: Path, reporter: Quiet) -> FluxLoRA:
    if job.arm == "base":
        return untrained(job)
    start = stage_1(job, data, folder, reporter)
    if job.arm == "stage1":
        return start
    run = {"device": "cpu", "reporter": reporter}
    arm = ARMS[job.arm]
    config = arm.stage_config(job.seed)
    if arm.judge is None:
        return train_diffusion_stage(start, data, config, **run).lora
    return train_adversarial_stage(start, data, arm.judge_config(job.seed), config, **run).lora


def measure(
    trained: FluxLoRA,
    data: RealLatents,
    job: Job,
    step_counts: Sequence[int] = STEP_COUNTS,
    solver_steps: Sequence[int] = (),
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Against unseen photographs: all distances at each number of steps, the flow loss; and the first pictures.

    At the numbers of ``solver_steps`` also the distance with each of ``SOLVERS``.
    """
    base = load_base(BASE, "cpu")
    lora.attach(base, trained)
    picture = domains.grey(domains.DOMAINS[job.domain])
    train = domains.stack([data.samples[index] for index in data.training])
    unseen = domains.crops(picture, UNSEEN, 1_000_003, unseen=True)
    space = feature_space(picture)
    two_samplers = job.arm in ARMS and ARMS[job.arm].two_samplers

    def drawn(steps: int, solver: str) -> Tensor:
        few = two_samplers and steps <= 4
        prompt = (data.few_step_prompts if few else data.prompts)[0]
        return sampler.sample(
            base,
            prompt.prompt_embeds,
            prompt.pooled_prompt_embeds,
            height=domains.CROP // 2,
            width=domains.CROP // 2,
            steps=steps,
            seeds=range(FIRST_SEED, FIRST_SEED + SAMPLES[steps]),
            guidance=1.0,
            solver=solver,
        )

    numbers: dict[str, Any] = {"solvers": {}}
    shown = {}
    for steps in step_counts:
        fake = drawn(steps, "euler")
        numbers[str(steps)] = dataclasses.asdict(
            latent_metrics.measure(fake, train=train, held_out=unseen, space=space)
        )
        shown[str(steps)] = fake[:SHOWN].contiguous()
    for steps in solver_steps:
        distances = {
            solver: latent_metrics.frechet(space(drawn(steps, solver)), space(unseen)) for solver in SOLVERS[steps]
        }
        numbers["solvers"][str(steps)] = {"euler": numbers[str(steps)]["frechet"], **distances}
    numbers["flow"] = _flow_loss(base, data, unseen[:UNSEEN_FLOW])
    return numbers, shown


def feature_space(picture: Tensor) -> FeatureSpace:
    """The space of a domain: the same for all arms, seeds and numbers of images."""
    return FeatureSpace.fit(domains.crops(picture, UNSEEN, 1_000_001, unseen=False))


def floor(domain: str) -> dict[str, dict[str, float]]:
    """What real photographs score against real ones, at as many pictures as are generated."""
    picture = domains.grey(domains.DOMAINS[domain])
    unseen = domains.crops(picture, UNSEEN, 1_000_003, unseen=True)
    floors = {}
    for steps, count in SAMPLES.items():
        real = domains.crops(picture, count, 1_000_005, unseen=False)
        found = latent_metrics.floor(train=real, held_out=unseen, space=feature_space(picture))
        floors[str(steps)] = dataclasses.asdict(found)
    return floors


def _flow_loss(base: Any, data: RealLatents, unseen: Tensor) -> float:
    samples = tuple(domains.sample(f"unseen {i}", latents) for i, latents in enumerate(unseen))
    held_out = dataclasses.replace(data, samples=samples, held_out=tuple(range(len(samples))))
    return metrics.held_out_flow_loss(base, held_out, 1.0, batch_size=250, most=len(samples))
