"""What to know before an evaluation's numbers are believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..data.real_latents import RealLatents
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from ..step_counts import steps_text
from .evaluation_reals import FEWEST_FOR_HALVES, FEWEST_HELD_OUT, MOST_REALS, Reals
from .evaluation_result import Result
from .latent_metrics import Measurement
from .lora_names import last_config

# From how many pictures a side on a number says something: see ``Measurement``.
FRECHET_FROM, PATCHES_FROM, SPECTRUM_FROM = 100, 24, 8
MEMORISED_FROM = 19
# About what two samples of n pictures of one law are apart, times n.
FRECHET_OF_CHANCE = 1400


def notes_on_numbers(reals: Reals, count: int, floor: Measurement | None) -> list[str]:
    notes = []
    fewest = min(count, len(reals.compared))
    if reals.against_training:
        notes.append(
            f"Only {reals.num_held_out} pictures are held out, so the distances are to the training pictures: a LoRA "
            "that repeats them looks good, and memorised cannot be told. Raise held_out_share in Encode Real Latents "
            f"so that at least {FEWEST_HELD_OUT} are held out, and train again."
        )
    if fewest < SPECTRUM_FROM:
        notes.append(f"With {fewest} pictures a side no number here says much. From {SPECTRUM_FROM} on some do.")
    elif fewest < PATCHES_FROM:
        notes.append(
            f"With {fewest} pictures a side only spectrum and high frequencies can be read. Patch SWD and diversity "
            f"say something from {PATCHES_FROM} on, Fréchet from {FRECHET_FROM} on."
        )
    elif fewest < FRECHET_FROM:
        notes.append(
            f"With {fewest} pictures a side Fréchet says little: chance alone makes about "
            f"{FRECHET_OF_CHANCE / fewest:.0f}. It is of use from {FRECHET_FROM} on."
        )
    if not reals.against_training and len(reals.compared) < MEMORISED_FROM:
        notes.append(
            f"With {len(reals.compared)} held-out pictures memorised shows outright copying only; "
            f"{1 / (len(reals.compared) + 1):.2g} is what a LoRA that copies nothing gives on average."
        )
    if floor is None:
        notes.append(f"There are too few pictures for a floor, which needs {FEWEST_FOR_HALVES} to train on.")
    elif reals.against_training:
        notes.append("The floor is one half of the training pictures against the other, hence higher than is fair.")
    elif len(reals.training) < count:
        notes.append(
            f"The floor is of {len(reals.training)} pictures, fewer than the {count} of a row: its Fréchet is higher "
            "than is fair."
        )
    if reals.num_masked:
        notes.append(
            f"{reals.num_masked} pictures have masks, which are not used here: all numbers are of whole pictures, also "
            "of what the LoRA was not to learn."
        )
    if max(reals.num_training, reals.num_held_out) > MOST_REALS:
        notes.append(f"Of training and held-out pictures {MOST_REALS} each were used, chosen at random.")
    return notes


def notes_on_loras(
    loras: Sequence[tuple[str, FluxLoRA]], data: RealLatents, results: Sequence[Result]
) -> list[str]:
    notes = []
    for name, lora in loras:
        config, own = last_config(lora), [result for result in results if result.name == name]
        few = next((result for result in own if result.few_step), None)
        if few is not None and not data.few_step_prompts and not config.get("few_step_guidance"):
            notes.append(
                f"{name} was trained to be told the few-step sampler by a phrase, which these data lack: at up to "
                f"{FEW_STEPS} steps it was asked without. Set few_step_phrase in Encode Real Latents."
            )
        elif few is not None:
            means = [f"the phrase {data.few_step_phrase!r}"] if data.few_step_prompts else []
            means += [f"guidance {few.guidance:g}"] if config.get("few_step_guidance") else []
            notes.append(f"{name} was asked as its few-step sampler where its steps say few, by {' and '.join(means)}.")
        if any(stage.get("data", data.fingerprint) != data.fingerprint for stage in lora.provenance):
            notes.append(
                f"{name} was trained on other data than these, or on these in another encoding: what is held out here "
                "may be among what it has seen."
            )
        broken = [steps_text(result.steps) for result in own if math.isnan(result.measurement.frechet)]
        if broken:
            notes.append(
                f"{name} gave latents that are not finite at {', '.join(broken)}, so there is nothing to measure. "
                "Train it anew at a lower learning rate."
            )
    return notes
