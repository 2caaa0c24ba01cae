"""LoRAs side by side: the same captions, the same noise, measured against the same real pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..base import sampler
from ..base.base_model import BaseLoader, BaseReference, FluxBase
from ..config import NEIGHBOURS, DiffusionStageConfig
from ..data.batches import held_out_batches
from ..data.data_error import DataError
from ..data.fits import check_fits
from ..data.real_latents import Prompt, RealLatents
from ..data.stored_latents import StoredPrompt
from ..lora import adapter as adapters
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from ..lora.sibling import on_sibling
from ..lora.usual_cfg import AS_USUAL, cfg_at, guided
from ..lora.value import at_strength
from .evaluation_notes import notes_on_loras, notes_on_numbers
from .evaluation_reals import Reals
from .evaluation_result import Evaluation, Result
from .lora_names import changes_nothing, last_config
from .metrics import HELD_OUT_SIGMAS, held_out_flow_loss
from .neighbours import EMPTY, LEFT_OUT, PRACTICE, Setting, around, notes_on_neighbours, own_steps
from .sample_lora import batches, pictures_at_once, shared_space
from .sampling_base import load_for_sampling

# Of the held-out pictures, for the flow loss: one that is steady to a percent.
MOST_HELD_OUT = 256
SAMPLED_ON = "All are sampled on {}. Their flow loss is that on the base they were trained on."


def evaluate(
    loras: Sequence[tuple[str, FluxLoRA]],
    data: RealLatents,
    *,
    step_counts: Sequence[int],
    count: int,
    seed: int,
    guidance: float,
    device: torch.device | str,
    cfg: float = AS_USUAL,
    sampling_base: BaseReference | None = None,
    keep: int = 0,
    solver: str = "euler",
    neighbours: str = "off",
    after_step: Callable[[int, int], None] = lambda done, total: None,
    load: BaseLoader | None = None,
) -> Evaluation:
    """Sample ``count`` pictures from each named LoRA with each number of steps, and measure them.

    Picture i has the noise of ``seed + i`` and the same caption everywhere: the held-out pictures' captions, then those
    of the training pictures, over and over. Pictures have one size, the one that most of the data has. A LoRA whose B
    is zero stands for its base. The LoRA to be judged comes last: ``Evaluation.comparisons`` are about it. LoRAs may
    have different bases; each base is loaded once, one at a time. ``solver``: one of ``solvers.SOLVERS``, for all.

    ``sampling_base``: the sibling of the LoRAs' bases that all are sampled on, in place of their own; the flow loss
    stays that on their own.

    ``neighbours`` (``on``, ``off``, or ``auto``: where they take no longer than all the rest) are of the last LoRA,
    at the number of steps that it was trained for, or else the fewest: see ``neighbours.around``.

    A LoRA that was last trained for two samplers is asked, at up to 8 steps, as it was trained to be for few: with the
    few-step prompts, where the data has them, and at its few-step guidance, where it has one. Otherwise prompts are
    plain, at ``guidance``. ``cfg``: see ``cfg_at``; other than 1 it leads away from the data's negative prompt. The
    flow loss is at the guidance that the last LoRA was trained with, for all of them.

    With fewer than 4 held-out pictures the distances are to the training pictures, and a note says so. ``keep`` samples
    of each result stay in it. ``after_step`` is called with the number of evaluations of the model so far and in all;
    what it raises ends the evaluation. ``load``: where bases come from, ``load_base`` by default.

    Raises ``ValueError`` for numbers out of range and for a name that comes twice, ``DataError`` for pictures that are
    too few or too small, or were encoded for another model, ``BaseModelError`` or ``LoRAError`` where a LoRA and its
    base cannot be loaded.
    """
    names = [name for name, _ in loras]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Evaluation needs at least one LoRA, each with a name of its own, got {names}.")
    if count < 2:
        raise ValueError(f"count must be at least 2 pictures, for there is no distribution of fewer, got {count}.")
    counts = sorted(set(step_counts))
    if not counts or counts[0] < 1:
        raise ValueError(f"step_counts must be one or more whole numbers from 1 on, got {list(step_counts)}.")
    if neighbours not in NEIGHBOURS:
        raise ValueError(f"neighbours must be one of {', '.join(NEIGHBOURS)}, got {neighbours!r}.")
    for name, lora in loras:
        try:
            check_fits(lora.base, data)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
    space = shared_space([lora for _, lora in loras])
    reals = Reals.choose(data, count)
    judged, judged_lora = loras[-1]
    flow_guidance = float(last_config(judged_lora).get("guidance", DiffusionStageConfig().guidance))
    at_once = min((4, *(pictures_at_once(space, *data.samples[i].shape[1:]) for i in data.held_out)))
    held_out_evaluations = sum(1 for _ in held_out_batches(data, at_once, most=MOST_HELD_OUT)) * len(HELD_OUT_SIGMAS)

    def sampled(setting: Setting) -> int:
        groups = _prompts(data, reals, setting, False)
        return setting.evaluations * sum(batches(len(places), space, *reals.size) for _, places in groups)

    main = [Setting(solver=solver, steps=steps) for steps in counts]
    centre = own_steps(judged_lora, counts)
    beside = around(solver, centre, practice=bool(data.practice_prompts) and not data.few_step_prompts)
    total = len(loras) * (sum(map(sampled, main)) + held_out_evaluations)
    more = sum(map(sampled, beside))
    left_out = neighbours == "auto" and more > total
    if neighbours == "off" or left_out:
        beside = ()
    else:
        total += more
    done = 0

    def count_step() -> None:
        nonlocal done
        done += 1
        after_step(done, total)

    drawn = {name: on_sibling(lora, sampling_base, name) if sampling_base else lora for name, lora in loras}
    losses: dict[str, float] = {}
    found: dict[tuple[str, Setting], Result] = {}

    def on_base(reference: BaseReference) -> None:
        height, width = reals.size
        own = [lora for lora in (*drawn.values(), *(lora for _, lora in loras)) if lora.base == reference]
        led = any(guided(lora, counts, cfg) for lora in own)
        asked_for = (*data.prompts, *([data.negative_prompt or data.empty_prompt] if led else []))
        base = load_for_sampling(
            own[0],
            device,
            load,
            height=height,
            width=width,
            tokens=max(prompt.length for prompt in asked_for),
            batch_size=(1 + led) * pictures_at_once(space, height, width),
        )
        for name, lora in loras:
            if held_out_evaluations and lora.base == reference:
                adapters.attach(base, lora)
                losses[name] = held_out_flow_loss(
                    base, data, flow_guidance, batch_size=at_once, most=MOST_HELD_OUT, after_step=count_step
                )
            lora = drawn[name]
            if lora.base != reference:
                continue
            adapters.attach(base, lora)
            for setting in [*main, *(beside if name == judged else ())]:
                adapters.restore(base, at_strength(lora.tensors, setting.strength))
                asked_steps = centre if setting.variation else setting.steps
                few_step, asked_guidance = _asked(lora, asked_steps, guidance)
                asked_cfg = cfg_at(lora, asked_steps, cfg)
                fake = _sample(base, data, reals, setting, seed, few_step, asked_guidance, asked_cfg, count_step)
                found[name, setting] = Result(
                    name=name,
                    bare=changes_nothing(lora),
                    steps=setting.steps,
                    guidance=asked_guidance,
                    cfg=asked_cfg,
                    solver=setting.solver,
                    variation=setting.variation,
                    few_step=few_step,
                    measurement=reals.measure(fake),
                    held_out_loss=None,
                    latents=fake[:keep].clone(),
                )

    measured = [lora.base for _, lora in loras] if held_out_evaluations else []
    for reference in dict.fromkeys([*measured, *(lora.base for lora in drawn.values())]):
        on_base(reference)

    def result(name: str, setting: Setting) -> Result:
        return replace(found[name, setting], held_out_loss=losses.get(name) if setting.strength == 1 else None)

    results = tuple(result(name, setting) for name in names for setting in main)
    others = tuple(result(judged, setting) for setting in beside)
    floor = reals.floor()
    return Evaluation(
        results=results,
        neighbours=others,
        floor=floor,
        count=count,
        size=reals.size,
        factor=space.factor,
        training=reals.num_training,
        held_out=reals.num_held_out,
        against_training=reals.against_training,
        flow_guidance=flow_guidance,
        captions=tuple(data.prompts[number].caption for number in reals.prompts[:keep]),
        notes=(
            *notes_on_numbers(reals, count, floor),
            *notes_on_loras(loras, data, results),
            *([SAMPLED_ON.format(sampling_base.name)] if sampling_base else []),
            *notes_on_neighbours(found[judged, main[counts.index(centre)]], others),
            *([LEFT_OUT] if left_out else []),
        ),
    )


def _asked(lora: FluxLoRA, steps: int, guidance: float) -> tuple[bool, float]:
    """Whether the LoRA is asked as a few-step sampler, and at which guidance."""
    config = last_config(lora)
    if steps > FEW_STEPS or config.get("target") != "two_samplers":
        return False, guidance
    return True, float(config.get("few_step_guidance") or guidance)


def _sample(
    base: FluxBase,
    data: RealLatents,
    reals: Reals,
    setting: Setting,
    seed: int,
    few_step: bool,
    guidance: float,
    cfg: float,
    after_step: Callable[[], None],
) -> Tensor:
    height, width = reals.size
    latents = torch.empty(len(reals.prompts), *reals.compared.shape[1:])
    for prompt, places in _prompts(data, reals, setting, few_step):
        latents[places] = sampler.sample(
            base,
            prompt.prompt_embeds,
            prompt.pooled_prompt_embeds,
            height=height,
            width=width,
            steps=setting.steps,
            seeds=[seed + place for place in places],
            guidance=guidance,
            cfg=cfg,
            negative=data.negative,
            batch_size=pictures_at_once(base.family.space, height, width),
            solver=setting.solver,
            after_step=after_step,
        ).cpu()
    return latents


def _prompts(
    data: RealLatents, reals: Reals, setting: Setting, few_step: bool
) -> list[tuple[Prompt | StoredPrompt, list[int]]]:
    """Each prompt with the places of the pictures that are drawn from it."""
    if setting.prompts == PRACTICE:
        used = data.practice_prompts[: len(reals.prompts)]
        return [(prompt, list(range(i, len(reals.prompts), len(used)))) for i, prompt in enumerate(used)]
    if setting.prompts == EMPTY:
        empty = data.few_step_empty_prompt if few_step and data.few_step_empty_prompt else data.empty_prompt
        return [(empty, list(range(len(reals.prompts))))]
    prompts = (data.few_step_prompts if few_step else ()) or data.prompts
    return [(prompts[number], list(places)) for number, places in reals.places.items()]
