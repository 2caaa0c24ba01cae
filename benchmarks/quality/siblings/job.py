"""One job: a LoRA of a style for the distilled sibling, trained in one of the ways, and measured at its four steps."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fluxduel.benchmarks import pictograms
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.lora import adapter
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.runs.stage_loop import run as run_stage
from fluxduel.training.runs.train_stages import train_diffusion_stage
from fluxduel.training.stages.adversarial_stage import AdversarialStage

from ..styles import arms, subjects
from ..styles import job as styles
from ..styles.drawing import Setting
from ..styles.job import Job
from ..textures.job import Quiet
from . import distilled
from .taught import TaughtStage

OWN = Setting("euler", distilled.STEPS, distilled.GUIDANCE)
# Of the base itself.
MANY = Setting("euler", styles.MANY, arms.GUIDANCE)
# What the LoRA draws outside: styles of the base, without the one that it is measured in, and none the most, then words
# for styles that the base has never seen.
KNOWN_STYLES = tuple(style.word for style in pictograms.BASE_STYLES if style.word != subjects.OLD_STYLE)
WORDS = (
    "sketch", "watercolor", "pixel", "photo", "oil", "neon", "clay", "paper", "ink", "chalk", "vintage", "gothic",
    "comic", "crayon", "steel", "wood", "glass", "fabric", "poster", "mosaic",
)  # fmt: skip
OUTSIDE = 240
STAGE_2: dict[str, Any] = {
    **arms.SCALE, "target": "distilled", "target_steps": distilled.STEPS, "guidance": distilled.GUIDANCE,
    "objective": "pure", "adversarial_weight": 3.0, "outside_share": 1.0, "outside_weight": 2.0,
    "steps": 500, "learning_rate": 8e-4, "validate_every": arms.VALIDATE_EVERY,
}  # fmt: skip
HYBRID: dict[str, Any] = {"objective": "hybrid"}


# What shows a part's worth, for the first seed of the first style alone.
SHOWN_ONCE = ("unheld", "hybrid", "taught")


@dataclass(frozen=True)
class Arm:
    """``changes``: of stage 2's settings, ``None`` where there is no stage 2; it begins from the arm ``base``.
    ``strength``: that the LoRA is sampled at; ``times``: as many updates of stage 1."""

    title: str
    changes: dict[str, Any] | None = None
    stage: type[AdversarialStage] = AdversarialStage
    strength: float = 1.0
    times: int = 1


ARMS = {
    "none": Arm("no LoRA"),
    "many": Arm("trained on the base, sampled there"),
    "base": Arm("trained on the base"),
    "strong": Arm("trained on the base, at strength 1.5", strength=1.5),
    "stronger": Arm("trained on the base, at strength 2", strength=2.0),
    "longer": Arm("trained on the base twice as long", times=2),
    "flow": Arm("trained on the distilled model by flow loss"),
    "stage2": Arm("stage 2 on the distilled model", {}),
    "unheld": Arm("stage 2, not held outside", {"outside_share": 0.0}),
    "hybrid": Arm("stage 2, held to the LoRA it starts from", HYBRID),
    "taught": Arm("stage 2, held to the base with the LoRA", HYBRID, stage=TaughtStage),
}
# What a user has without stage 2.
OTHERS = ("base", "strong", "stronger", "longer", "flow")


def outside(data: RealLatents, style: str, images: int, seed: int) -> RealLatents:
    """The same data with outside prompts for a LoRA of ``style``: the subjects that it draws, in other styles and in
    none, so that nothing but the style's word tells where it is for."""
    others = tuple(each for each in subjects.STYLES if each != style)
    words = (*KNOWN_STYLES * 4, *[""] * 3, *others, *WORDS)
    names = [*subjects.split(style, images, seed)[0], *subjects.practice(style, images, seed)]
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(words), (OUTSIDE,), generator=generator).tolist()
    captions = [subjects.caption(words[k], names[i % len(names)]).strip() for i, k in enumerate(chosen)]
    prompts = tuple(map(subjects.prompt, captions))
    return dataclasses.replace(data, outside_prompts=prompts, outside_fingerprint=" ".join(captions))


def trained(job: Job, folder: Path, sibling: BaseReference, reporter: Quiet) -> FluxLoRA:
    """The job's LoRA on the sibling, trained or from ``folder``; those of the base are in the folder above, for all
    siblings."""
    kept = folder / f"sibling-{job.name}.safetensors"
    config = LoRAConfig(rank=arms.RANK, alpha=float(arms.RANK), targets="all", seed=job.seed)
    start = adapter.create(sibling, config)
    if job.arm == "none":
        return start
    if job.arm in ("base", "many", "strong", "stronger"):
        first = styles.trained(job._replace(arm="stage1"), folder.parent, reporter)
        return first if job.arm == "many" else dataclasses.replace(first, base=sibling)
    if kept.exists():
        return dataclasses.replace(start, tensors=load_file(kept))
    data = subjects.dataset(job.style, job.images, job.seed, styles.HELD_OUT_SHARE)
    arm = ARMS[job.arm]
    if arm.changes is None:
        steps = arm.times * arms.STAGE_1_STEPS[job.images]
        settings = DiffusionStageConfig(**{**arms.SCALE, **arms.STAGE_1, "steps": steps, "seed": job.seed})
        place = start if job.arm == "flow" else dataclasses.replace(start, base=styles.BASE)
        found = train_diffusion_stage(place, data, settings, device="cpu", reporter=reporter).lora
    else:
        data = outside(subjects.practising(data, job.style, job.images, job.seed), job.style, job.images, job.seed)
        settings = AdversarialStageConfig(**{**STAGE_2, "seed": job.seed, **arm.changes})
        judge = DiscriminatorConfig(learning_rate=arms.DISCRIMINATOR_RATE, seed=job.seed)
        first = trained(job._replace(arm="base"), folder, sibling, reporter)
        found = run_stage(arm.stage(first, data, judge, settings, device="cpu"), reporter).lora
    save_file(dict(found.tensors), kept)
    return dataclasses.replace(found, base=sibling)


def measured(lora: FluxLoRA, job: Job) -> dict[str, Any]:
    """Unseen subjects in the style, and old captions in a style of the base, on the sibling at its own steps."""
    view, setting = styles.View(lora, job), MANY if job.arm == "many" else OWN
    setting = setting._replace(strength=ARMS[job.arm].strength)
    return {"whole": view.whole(setting), "old": view.old_style(setting)}


def result_file(job: Job, folder: Path) -> Path:
    """Where the result of a job is kept, whose ``arm`` is one of ``ARMS``."""
    return folder / f"sibling-{job.name}.json"


def run(job: Job, folder: Path, sibling: BaseReference) -> dict[str, Any]:
    """Train and measure; the result is also written into ``folder``, and taken from there the next time."""
    file = result_file(job, folder)
    if file.exists():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    started, reporter = time.perf_counter(), Quiet()
    lora = trained(job, folder, sibling, reporter)
    seconds = time.perf_counter() - started
    result = {**job._asdict(), **measured(lora, job), "train_seconds": seconds, "notes": reporter.notes}
    file.write_text(json.dumps(result))
    return result
