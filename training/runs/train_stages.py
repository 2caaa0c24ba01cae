"""Both stages as functions of LoRA and data, in a run folder or without one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..base.base_model import BaseLoader, BaseReference
from ..config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA
from ..stages.adversarial_stage import AdversarialStage
from ..stages.diffusion_stage import DiffusionStage
from ..stages.ranks import ALONE, Ranks
from ..stages.stage import Reporter, StageResult
from .fingerprints import fingerprint
from .planned import settings_of, settle, train
from .requests import Requests


def train_diffusion_stage(
    lora: FluxLoRA,
    data: RealLatents,
    config: DiffusionStageConfig,
    *,
    device: torch.device | str,
    reporter: Reporter,
    run_folder: Path | None = None,
    ranks: Ranks = ALONE,
    load: BaseLoader | None = None,
    requests: Requests | None = None,
    sampling_base: BaseReference | None = None,
) -> StageResult:
    """Train ``lora`` on ``data`` with the flow-matching loss; neither is changed.

    With a ``run_folder`` (see ``run_directory``) an unfinished run goes on from its last checkpoint, one with fewer
    steps is extended, and a finished one gives its result at once.
    ``load``: where the base comes from, ``load_base`` by default. ``requests``: what is asked of the run meanwhile.
    ``sampling_base``: the sibling of the base that previews and the watch sample with, in place of it.

    Raises ``BaseModelError``, ``DataError``, ``RunDirectoryError`` or ``OSError`` before the first step,
    ``StageFailure`` (with the last good weights) after it.
    """
    return train(
        lambda plan: DiffusionStage(
            lora,
            data,
            config,
            device=device,
            ranks=ranks,
            load=load,
            plan=plan,
            sampling_base=sampling_base,
        ),
        partial(settle, lora, data, config, None, device=device, ranks=ranks, load=load, sampling_base=sampling_base),
        fingerprint("diffusion", lora, data, config, ranks=ranks.count),
        lora,
        reporter,
        run_folder,
        settings_of(lora, diffusion=config),
        ranks,
        requests,
    )


def train_adversarial_stage(
    lora: FluxLoRA,
    data: RealLatents,
    discriminator: DiscriminatorConfig,
    config: AdversarialStageConfig,
    *,
    device: torch.device | str,
    reporter: Reporter,
    run_folder: Path | None = None,
    discriminator_weights: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
    load: BaseLoader | None = None,
    requests: Requests | None = None,
    sampling_base: BaseReference | None = None,
) -> StageResult:
    """Train ``lora`` against a discriminator; neither ``lora`` nor ``data`` is changed.

    The discriminator is a fresh one, unless ``discriminator_weights`` (see ``discriminator_files``) continue another
    run's. With a ``run_folder`` (see ``run_directory``) an unfinished run goes on from its last checkpoint, one with
    fewer steps is extended, and a finished one gives its result at once; what the discriminator has become lies there.
    ``load``: where the base comes from, ``load_base`` by default. ``requests``: what is asked of the run meanwhile.
    ``sampling_base``: the sibling of the base that previews and the watch sample with, in place of it.

    Raises ``BaseModelError``, ``DataError``, ``ValueError``, ``RunDirectoryError`` or ``OSError`` before the first
    step, ``StageFailure`` (with the last good weights) after it.
    """
    return train(
        lambda plan: AdversarialStage(
            lora,
            data,
            discriminator,
            config,
            device=device,
            discriminator_weights=discriminator_weights,
            ranks=ranks,
            load=load,
            plan=plan,
            sampling_base=sampling_base,
        ),
        partial(
            settle,
            lora,
            data,
            config,
            discriminator,
            device=device,
            ranks=ranks,
            load=load,
            sampling_base=sampling_base,
        ),
        fingerprint(
            "adversarial", lora, data, config, discriminator, discriminator_weights, ranks.count, sampling_base
        ),
        lora,
        reporter,
        run_folder,
        settings_of(lora, adversarial=config, discriminator=discriminator),
        ranks,
        requests,
    )
