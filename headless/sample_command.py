"""Pictures from a LoRA, without ComfyUI: the job behind ``python -m fluxduel sample``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..training.base import variants
from ..training.base.families import PIXELS_PER_TOKEN
from ..training.config import AdversarialStageConfig, DataConfig
from ..training.data.encoders import load_encoders
from ..training.data.fits import check_prompt_fits
from ..training.evidence.picture_files import free_path, single_pictures
from ..training.evidence.sample_lora import latent_side, sample_lora
from ..training.failure_words import reason
from ..training.lora.adapter import FluxLoRA, load_file
from ..training.lora.sampling_advice import ORDINARY_STEPS, TRAINED_SAMPLER, departures, trained_resolution
from ..training.lora.usual_cfg import advice_for
from ..training.lora.value import base_family
from ..training.runs.output_check import check_writable, leaving_nothing
from .launched import joined
from .run_config import RunConfig
from .terminal import Progress, say
from .train_command import base_reference, sampling_reference


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """``given``, and the lines of ``file`` that are not blank. Raises ``ValueError`` where that is none."""
    lines: list[str] = []
    if file is not None:
        try:
            lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--prompts: {file} cannot be read as UTF-8 text: {reason(error)}.") from error
    prompts = [*given, *(line.strip() for line in lines if line.strip())]
    if not prompts:
        raise ValueError("There is no prompt. Give one with --prompt TEXT, or several as lines of --prompts FILE.")
    return prompts


def sample_pictures(
    config: RunConfig,
    lora_file: Path,
    prompts: Sequence[str],
    *,
    width: int | None,
    height: int | None,
    resolution: int | None,
    step_counts: Sequence[int] | None,
    count: int,
    seed: int,
    guidance: float,
    cfg: float,
    negative_prompt: str,
    sampler: str,
    folder: Path,
) -> list[Path]:
    """Write ``count`` pictures for each prompt and number of steps to ``folder``; returns their paths.

    Picture i has the noise of ``seed + i``, whatever prompt and steps. A picture that is there is never written
    over: the new one's name gets a number. Names say the sampler where it is not euler. ``step_counts`` of
    ``None``: the number that the LoRA was trained for in stage 2, else 25. A side of ``None``: ``resolution``, else
    that of the LoRA's training, else the default of training. Of ``config`` the sections base and encoders count.

    Raises ``ValueError`` for sides that are no multiple of 16 and for files that do not fit each other, ``OSError``
    before anything is sampled where ``folder`` cannot be written to.
    """
    reference = base_reference(config)
    space = base_family(reference).space
    lora = load_file(lora_file.expanduser(), reference)
    side = resolution or trained_resolution(lora.provenance)
    if not side and not (width and height):
        side = DataConfig().resolution
        say(
            f"{lora_file.name} does not say at which resolution it was trained: pictures have sides of {side}. Other "
            "ones are given by --width and --height."
        )
    whole = side // PIXELS_PER_TOKEN * PIXELS_PER_TOKEN
    latent_height = latent_side(height or whole, space, "--height")
    latent_width = latent_side(width or whole, space, "--width")
    lora = replace(lora, base=sampling_reference(config) or reference)
    counts = tuple(dict.fromkeys(step_counts or (trained_steps(lora),)))
    folder = folder.expanduser()
    mark = "" if sampler == TRAINED_SAMPLER else f"-{sampler}"
    with leaving_nothing(folder), joined(config.base.device) as place:
        check_writable(folder, [f"{len(prompts):02}-steps{max(counts)}{mark}-seed{seed + count}.png"])
        encoders = load_encoders(config.encoders, config.base.checkpoint, place.device)
        encoded = [encoders.encode_prompt(prompt) for prompt in prompts]
        negative = encoders.encode_prompt(negative_prompt)
        encoders.free()
        for embeds, pooled in encoded:
            check_prompt_fits(lora.base, embeds.shape[-1], pooled.shape[-1], "encoders.folder")
        progress = Progress("sampling")
        seeds = range(seed, seed + count)
        latents = sample_lora(
            lora,
            encoded,
            height=latent_height,
            width=latent_width,
            step_counts=counts,
            seeds=seeds,
            guidance=guidance,
            cfg=cfg,
            negative=negative,
            device=place.device,
            after_step=lambda done, total: progress.update(done, total, {}),
            solver=sampler,
        )
        progress.close()
        # The VAE may find no room beside what the base has left.
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
        paths = []
        for number, of_prompt in enumerate(latents, 1):
            for steps, batch in zip(counts, of_prompt, strict=True):
                for own_seed, picture in zip(seeds, single_pictures(encoders.decode(batch)), strict=True):
                    paths.append(free_path(folder / f"{number:02}-steps{steps}{mark}-seed{own_seed}.png"))
                    picture.save(paths[-1])
    advice, _ = advice_for(lora)
    written = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
    say(f"Wrote {written} to {folder}, the first is {paths[0].name}. {advice}".rstrip())
    for sentence in departures(lora.provenance, sampler=sampler, step_counts=counts, cfg=cfg or 1.0):
        say(f"Warning: {sentence}")
    return paths


def trained_steps(lora: FluxLoRA) -> int:
    """The sampling steps that stage 2 trained ``lora`` for; without stage 2 those of its distilled base, else 25."""
    last = lora.provenance[-1] if lora.provenance else {}
    if last.get("stage") != "adversarial":
        return variants.usual_steps(lora.base.path) or ORDINARY_STEPS
    return int(last.get("config", {}).get("target_steps", AdversarialStageConfig().target_steps))
