"""LoRAs side by side: the same captions, the same noise, measured against the same real pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import draws
from ..base import sampler
from ..base.base_model import BaseReference, FluxBase, load_base
from ..base.families import flux1
from ..config import DiffusionStageConfig
from ..data.batches import held_out_batches
from ..data.data_error import DataError
from ..data.fits import check_fits
from ..data.real_latents import LatentSample, RealLatents
from ..lora import adapter as adapters
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS
from ..lora.value import UP
from . import latent_metrics
from .latent_metrics import Measurement
from .metrics import HELD_OUT_SIGMAS, held_out_flow_loss
from .random_features import SMALLEST_SIDE, FeatureSpace

STAGE_NAMES = {"diffusion": "stage 1", "adversarial": "stage 2"}
# A floor needs two halves of the held-out pictures, each of at least two.
FEWEST_HELD_OUT = 4
FEWEST_FOR_HALVES = 2 * FEWEST_HELD_OUT
# A bound on memory: the metrics copy all pictures in fp64, 2 MiB for one of 1024 x 1024.
MOST_REALS = 1024
# From how many pictures a side on a number says something: see ``Measurement``.
FRECHET_FROM, PATCHES_FROM, SPECTRUM_FROM = 100, 24, 8
MEMORISED_FROM = 19
# About what two samples of n pictures of one law are apart, times n.
FRECHET_OF_CHANCE = 1400
# As many pictures go through the base at once as fill one picture of 1024 x 1024: more gains no speed there.
TOKENS_AT_ONCE = 4096
# Of the held-out pictures, for the flow loss: one that is steady to a percent.
MOST_HELD_OUT = 256

# Of ``Measurement``, in the table's order, with the headings there.
COLUMNS = {
    "frechet": "Fréchet",
    "patch_sliced_wasserstein": "patch SWD",
    "spectrum_distance": "spectrum",
    "high_frequency": "HF ratio",
    "diversity": "diversity",
    "memorised": "memorised",
}
FLOW_LOSS = "flow loss"
BEST_AT_1 = (COLUMNS["high_frequency"], COLUMNS["diversity"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one LoRA gives with one number of sampling steps."""

    name: str
    bare: bool
    """Whether the LoRA changes nothing, so that this is its base."""
    steps: int
    guidance: float
    """Given to the base while sampling."""
    few_step: bool
    """Whether a LoRA for two samplers was asked as its few-step one, by prompt or by guidance."""
    measurement: Measurement
    """``memorised`` is NaN where no pictures were held out to compare with."""
    held_out_loss: float | None
    """The LoRA's, so the same for all its numbers of steps; ``None`` where no picture is held out."""
    latents: Tensor
    """The first ``keep`` samples (keep, C, h, w), in model space, on the CPU."""

    def values(self) -> dict[str, float]:
        """The table's numbers by their headings; NaN where there is none."""
        loss = math.nan if self.held_out_loss is None else self.held_out_loss
        return _columns(self.measurement) | {FLOW_LOSS: loss}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What ``evaluate`` found. ``results``: by LoRA, in the order given, and then by rising number of steps."""

    results: tuple[Result, ...]
    floor: Measurement | None
    """What real pictures score against real ones; ``None`` where there are too few."""
    count: int
    """Pictures sampled for each result."""
    size: tuple[int, int]
    """Height and width of the latents."""
    training: int
    held_out: int
    """Real pictures of that size."""
    against_training: bool
    """Whether the distances are to training pictures, for want of held-out ones."""
    flow_guidance: float
    """Given to the base for the flow loss, of all LoRAs alike."""
    notes: tuple[str, ...]
    """What to know before the numbers are believed, in sentences."""

    @property
    def names(self) -> list[str]:
        """The LoRAs, in order."""
        return list(dict.fromkeys(result.name for result in self.results))

    def rows(self) -> list[dict[str, str | int | float]]:
        """One dict a result: ``LoRA``, ``steps`` and the table's numbers by their headings; NaN where not measured."""
        return [{"LoRA": result.name, "steps": result.steps, **result.values()} for result in self.results]

    def table(self) -> str:
        """The numbers as text of fixed width; the last row is the floor. ``-`` is a number that was not measured."""
        lines = [["LoRA", "steps", *COLUMNS.values(), FLOW_LOSS]]
        for result in self.results:
            steps = f"{result.steps}{'*' if result.few_step else ''}"
            lines.append([result.name, steps, *map(_number, result.values().values())])
        floor = {} if self.floor is None else _columns(self.floor)
        lines.append(["floor (real)", "-", *(_number(floor.get(heading, math.nan)) for heading in lines[0][2:])])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
        )

    def comparisons(self) -> list[str]:
        """The last LoRA's numbers against another's, one sentence for each number of steps: distances as multiples.

        The other is the first that is not the bare base, or else the base; there is none to a LoRA that is alone.
        """
        last = self.names[-1]
        bare = {result.name for result in self.results if result.bare}
        others = sorted(self.names[:-1], key=lambda name: name in bare)
        if not others:
            return []
        values = {(result.name, result.steps): result.values() for result in self.results}
        sentences = []
        for steps in dict.fromkeys(result.steps for result in self.results):
            theirs = values[others[0], steps]
            changes = {
                heading: _change(heading, own, theirs[heading])
                for heading, own in values[last, steps].items()
                # A share of a few in a hundred pictures: its multiples are chance.
                if heading != COLUMNS["memorised"]
            }
            told = ", ".join(f"{heading} {change}" for heading, change in changes.items() if change)
            if told:
                sentences.append(f"{last} against {others[0]} at {steps_text(steps)}: {told}.")
        return sentences

    def report(self) -> str:
        """Table, comparisons and notes as one text."""
        height, width = (side * flux1.VAE_FACTOR for side in self.size)
        reals = f"{self.training} training" if self.against_training else f"{self.held_out} held-out"
        head = (
            f"{self.count} pictures of {width} x {height} a row, against {reals} pictures. Fréchet, patch SWD and "
            "spectrum are distances: better when smaller, down to the floor, which is real pictures against real ones. "
            f"HF ratio and diversity are best at 1. The flow loss is at guidance {self.flow_guidance:g}."
        )
        parts = (head, self.table(), "\n".join(self.comparisons()), "\n".join(self.notes))
        return "\n\n".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        """All but the latents, fit for JSON: what was not measured, or is not finite, is ``None``."""
        return {
            "count": self.count,
            "size": list(self.size),
            "training": self.training,
            "held_out": self.held_out,
            "against_training": self.against_training,
            "flow_guidance": self.flow_guidance,
            "results": [
                {
                    "name": result.name,
                    "steps": result.steps,
                    "guidance": result.guidance,
                    "few_step": result.few_step,
                    **_finite(asdict(result.measurement) | {"held_out_loss": result.held_out_loss}),
                }
                for result in self.results
            ],
            "floor": None if self.floor is None else _finite(asdict(self.floor)),
            "comparisons": self.comparisons(),
            "notes": list(self.notes),
        }


def row_names(loras: Sequence[FluxLoRA]) -> list[str]:
    """A name for each LoRA by how it came to be: base, stage 1, stage 2, or LoRA for one of unknown origin.

    A LoRA that changes nothing is the base. A name that comes again gets a number, as in ``stage 2 (2)``.
    """
    seen: Counter[str] = Counter()
    names = []
    for lora in loras:
        name = _origin(lora)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def changes_nothing(lora: FluxLoRA) -> bool:
    """Whether the LoRA's B is zero, as that of a new one is."""
    return not any(bool(tensor.any()) for key, tensor in lora.tensors.items() if key.endswith(UP))


def _origin(lora: FluxLoRA) -> str:
    if changes_nothing(lora):
        return "base"
    if not lora.provenance:
        return "LoRA"
    stage = str(lora.provenance[-1]["stage"])
    return STAGE_NAMES.get(stage, stage)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reals:
    """The real pictures that all LoRAs are measured against, and the captions that they are asked for."""

    training: Tensor
    compared: Tensor
    against_training: bool
    num_training: int
    num_held_out: int
    space: FeatureSpace
    prompts: tuple[int, ...]
    """Index into the dataset's prompts of each picture to sample."""
    groups: tuple[tuple[int, ...], ...]
    """The pictures to sample, in groups of one prompt that go through the base at once."""

    @classmethod
    def choose(cls, data: RealLatents, count: int) -> _Reals:
        """Pictures of one size, the one that most have. Raises ``DataError`` where they cannot be compared with."""
        shape = Counter(sample.shape for sample in data.samples).most_common(1)[0][0]

        def of_shape(indices: tuple[int, ...]) -> list[LatentSample]:
            return [data.samples[i] for i in indices if data.samples[i].shape == shape]

        training, held_out = of_shape(data.training), of_shape(data.held_out)
        height, width = shape[-2:]
        size = f"{width * flux1.VAE_FACTOR} x {height * flux1.VAE_FACTOR}"
        if len(training) < 2:
            raise DataError(
                f"Distances to {len(training)} training pictures of one size ({size}, the most frequent one) say "
                "nothing: at least 2 are needed. Add pictures, lower held_out_share, or raise bucket_step in Encode "
                "Real Latents, so that more of them have the same size."
            )
        if min(height, width) < SMALLEST_SIDE:
            raise DataError(
                f"Pictures of {size} are too small to be measured: both sides must be at least "
                f"{SMALLEST_SIDE * flux1.VAE_FACTOR} pixels. Raise resolution in Encode Real Latents."
            )
        against_training = len(held_out) < FEWEST_HELD_OUT
        seen, unseen = _stacked(training), _stacked(training if against_training else held_out)
        asked = [sample.prompt for sample in held_out + training]
        prompts = tuple(asked[number % len(asked)] for number in range(count))
        return cls(
            training=seen,
            compared=unseen,
            against_training=against_training,
            num_training=len(training),
            num_held_out=len(held_out),
            space=FeatureSpace.fit(seen),
            prompts=prompts,
            groups=_groups(prompts, max(1, TOKENS_AT_ONCE // flux1.num_tokens(height, width))),
        )

    def measure(self, fake: Tensor) -> Measurement:
        measured = latent_metrics.measure(fake, train=self.training, held_out=self.compared, space=self.space)
        # Among the pictures that were trained on nothing tells a copy from a new one.
        return replace(measured, memorised=math.nan) if self.against_training else measured

    def floor(self) -> Measurement | None:
        """Of as many pictures as are sampled, where there are that many; ``None`` where there are too few."""
        count = len(self.prompts)
        if not self.against_training:
            return latent_metrics.floor(train=self.training[:count], held_out=self.compared, space=self.space)
        if len(self.training) < FEWEST_FOR_HALVES:
            return None
        one, other = self.training[::2], self.training[1::2]
        return replace(latent_metrics.floor(train=one[:count], held_out=other, space=self.space), memorised=math.nan)


def _stacked(samples: Sequence[LatentSample]) -> Tensor:
    """The posterior means (n, C, h, w) of at most ``MOST_REALS`` samples, in an order that does not follow theirs.

    A folder is often sorted, and the first pictures of it are then not like the rest.
    """
    order = torch.randperm(len(samples), generator=draws.generator(0, 0, 0, "evaluation"))[:MOST_REALS]
    return torch.stack([samples[i].mean for i in order.tolist()])


def _groups(prompts: Sequence[int], most: int) -> tuple[tuple[int, ...], ...]:
    """Places 0, 1, ... in groups of one prompt and at most ``most``."""
    places: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    return tuple(tuple(same[start : start + most]) for same in places.values() for start in range(0, len(same), most))


def evaluate(
    loras: Sequence[tuple[str, FluxLoRA]],
    data: RealLatents,
    *,
    step_counts: Sequence[int],
    count: int,
    seed: int,
    guidance: float,
    device: torch.device | str,
    keep: int = 0,
    after_step: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Sample ``count`` pictures from each named LoRA with each number of steps, and measure them.

    Picture i has the noise of ``seed + i`` and the same caption everywhere: the held-out pictures' captions, then those
    of the training pictures, over and over. Pictures have one size, the one that most of the data has. A LoRA whose B
    is zero stands for its base. The LoRA to be judged comes last: ``Evaluation.comparisons`` are about it. LoRAs may
    have different bases; each base is loaded once, one at a time.

    A LoRA that was last trained for two samplers is asked, at up to 8 steps, as it was trained to be for few: with the
    few-step prompts, where the data has them, and at its few-step guidance, where it has one. Otherwise prompts are
    plain, at ``guidance``. The flow loss is at the guidance that the last LoRA was trained with, for all of them.

    With fewer than 4 held-out pictures the distances are to the training pictures, and a note says so. ``keep`` samples
    of each result stay in it. ``after_step`` is called with the number of evaluations of the model so far and in all;
    what it raises ends the evaluation.

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
    for name, lora in loras:
        try:
            check_fits(lora.base, data)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
    reals = _Reals.choose(data, count)
    flow_guidance = float(_last_config(loras[-1][1]).get("guidance", DiffusionStageConfig().guidance))
    largest = max((flux1.num_tokens(*data.samples[i].shape[1:]) for i in data.held_out), default=1)
    at_once = max(1, min(4, TOKENS_AT_ONCE // largest))
    held_out_evaluations = sum(1 for _ in held_out_batches(data, at_once, most=MOST_HELD_OUT)) * len(HELD_OUT_SIGMAS)
    total = len(loras) * (sum(counts) * len(reals.groups) + held_out_evaluations)
    done = 0

    def count_step() -> None:
        nonlocal done
        done += 1
        after_step(done, total)

    def on_base(reference: BaseReference) -> dict[tuple[str, int], Result]:
        base = load_base(reference, device)
        found = {}
        for name, lora in loras:
            if lora.base != reference:
                continue
            adapters.attach(base, lora)
            loss = None
            if held_out_evaluations:
                loss = held_out_flow_loss(
                    base, data, flow_guidance, batch_size=at_once, most=MOST_HELD_OUT, after_step=count_step
                )
            for steps in counts:
                few_step, asked_guidance = _asked(lora, steps, guidance)
                fake = _sample(base, data, reals, steps, seed, few_step, asked_guidance, count_step)
                found[name, steps] = Result(
                    name=name,
                    bare=changes_nothing(lora),
                    steps=steps,
                    guidance=asked_guidance,
                    few_step=few_step,
                    measurement=reals.measure(fake),
                    held_out_loss=loss,
                    latents=fake[:keep].clone(),
                )
        return found

    found: dict[tuple[str, int], Result] = {}
    for reference in dict.fromkeys(lora.base for _, lora in loras):
        found |= on_base(reference)
    results = tuple(found[name, steps] for name in names for steps in counts)
    floor = reals.floor()
    return Evaluation(
        results=results,
        floor=floor,
        count=count,
        size=(reals.compared.shape[-2], reals.compared.shape[-1]),
        training=reals.num_training,
        held_out=reals.num_held_out,
        against_training=reals.against_training,
        flow_guidance=flow_guidance,
        notes=(
            *_notes_on_numbers(reals, count, floor),
            *_notes_on_loras(loras, data, results),
        ),
    )


def _last_config(lora: FluxLoRA) -> dict[str, Any]:
    return dict(lora.provenance[-1].get("config", {})) if lora.provenance else {}


def _asked(lora: FluxLoRA, steps: int, guidance: float) -> tuple[bool, float]:
    """Whether the LoRA is asked as a few-step sampler, and at which guidance."""
    config = _last_config(lora)
    if steps > FEW_STEPS or config.get("target") != "two_samplers":
        return False, guidance
    return True, float(config.get("few_step_guidance") or guidance)


def _sample(
    base: FluxBase,
    data: RealLatents,
    reals: _Reals,
    steps: int,
    seed: int,
    few_step: bool,
    guidance: float,
    after_step: Callable[[], None],
) -> Tensor:
    prompts = (data.few_step_prompts if few_step else ()) or data.prompts
    height, width = reals.compared.shape[-2:]
    latents = torch.empty(len(reals.prompts), *reals.compared.shape[1:])
    for places in reals.groups:
        prompt = prompts[reals.prompts[places[0]]]
        latents[list(places)] = sampler.sample(
            base,
            prompt.prompt_embeds,
            prompt.pooled_prompt_embeds,
            height=height,
            width=width,
            steps=steps,
            seeds=[seed + place for place in places],
            guidance=guidance,
            after_step=after_step,
        ).cpu()
    return latents


def _notes_on_numbers(reals: _Reals, count: int, floor: Measurement | None) -> list[str]:
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
            f"With {fewest} pictures a side only spectrum and HF ratio can be read. Patch SWD and diversity say "
            f"something from {PATCHES_FROM} on, Fréchet from {FRECHET_FROM} on."
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
    if max(reals.num_training, reals.num_held_out) > MOST_REALS:
        notes.append(f"Of training and held-out pictures {MOST_REALS} each were used, chosen at random.")
    return notes


def _notes_on_loras(
    loras: Sequence[tuple[str, FluxLoRA]], data: RealLatents, results: Sequence[Result]
) -> list[str]:
    notes = []
    for name, lora in loras:
        config, own = _last_config(lora), [result for result in results if result.name == name]
        few = next((result for result in own if result.few_step), None)
        if few is not None and not data.few_step_prompts and not config.get("few_step_guidance"):
            notes.append(
                f"{name} was trained to be told the few-step sampler by a phrase, which these data lack: at up to "
                f"{FEW_STEPS} steps it was asked without. Set few_step_phrase in Encode Real Latents."
            )
        elif few is not None:
            means = [f"the phrase {data.few_step_phrase!r}"] if data.few_step_prompts else []
            means += [f"guidance {few.guidance:g}"] if config.get("few_step_guidance") else []
            notes.append(f"* {name} was asked as its few-step sampler, by {' and '.join(means)}.")
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


def _columns(measurement: Measurement) -> dict[str, float]:
    return {heading: getattr(measurement, field) for field, heading in COLUMNS.items()}


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _change(heading: str, own: float, other: float) -> str:
    """Such as ``0.21x``, or ``1.4 -> 1.1`` of what is best at 1; empty where there is nothing to compare."""
    if not (math.isfinite(own) and math.isfinite(other) and other > 0):
        return ""
    return f"{_number(other)} -> {_number(own)}" if heading in BEST_AT_1 else f"{own / other:.2f}x"


def steps_text(number: int) -> str:
    """Such as ``4 steps``."""
    return "1 step" if number == 1 else f"{number} steps"


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
