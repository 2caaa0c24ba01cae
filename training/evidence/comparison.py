"""What a comparison of LoRAs asks for: prompts, columns, real pictures beside them; and its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..base.classifier_free import Prompt
from ..data.real_latents import RealLatents, with_phrase
from ..lora.adapter import FluxLoRA
from ..lora.sampling_advice import FEW_STEPS, TRAINED_SAMPLER, departures, trigger_phrase
from ..lora.usual_cfg import cfg_at
from ..lora.value import base_family
from ..step_counts import steps_text
from . import markdown
from .lora_names import changes_nothing, last_config, row_names
from .sample_lora import Asked

# Of the data's captions where no prompt is written: as many as stand beside each other with two columns each.
MOST_CAPTIONS = 3
REAL = "real pictures"


class ComparisonError(ValueError):
    """What is asked for cannot be compared. The message says what to change."""


class Column(NamedTuple):
    """One way to sample."""

    steps: int
    solver: str
    seed: int

    @property
    def words(self) -> tuple[str, str, str]:
        """Such as ``4 steps``, ``euler``, ``seed 0``."""
        return steps_text(self.steps), self.solver, f"seed {self.seed}"


def columns(step_counts: Sequence[int], solvers: Sequence[str], seeds: Sequence[int]) -> list[Column]:
    """By number of steps, then by solver, then by seed, as ``sample_loras`` gives its pictures."""
    return [Column(steps, solver, seed) for steps in step_counts for solver in solvers for seed in seeds]


def headings(asked: Sequence[Column]) -> tuple[list[str], list[str]]:
    """What differs from column to column, for each of them in lines; and what is the same in all of them.

    The number of steps always stands above its column.
    """
    differing = [part == 0 or len({column[part] for column in asked}) > 1 for part in range(3)]
    heads = ["\n".join(word for word, differs in zip(c.words, differing, strict=True) if differs) for c in asked]
    same = [word for word, differs in zip(asked[0].words, differing, strict=True) if not differs]
    return heads, same


def names_of(loras: Sequence[FluxLoRA], text: str, where: str) -> list[str]:
    """The rows' names: those of ``text``, with commas between them, where one is written, else by their origin.

    Raises ``ComparisonError``, beginning with ``where``, for more names than LoRAs.
    """
    given = [name.strip() for name in text.split(",")] if text.strip() else []
    if len(given) > len(loras):
        raise ComparisonError(
            f"{where}: there are {len(given)} names for {len(loras)} LoRAs. Write one for each that is connected, with "
            "commas between them; an empty one stands for the LoRA's own."
        )
    given += [""] * (len(loras) - len(given))
    return [name or own for name, own in zip(given, row_names(loras), strict=True)]


def prompts_of(text: str, data: RealLatents | None, where: str) -> list[str]:
    """The lines of ``text`` that are not blank, once each; where there is none, captions of the data.

    Of the data the first ``MOST_CAPTIONS`` captions, those of held-out pictures first. Raises ``ComparisonError``,
    beginning with ``where``, where there is neither.
    """
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if lines:
        return lines
    if data is None:
        raise ComparisonError(
            f"{where} is empty, and no real_latents are connected whose captions could be taken. Write prompts, one a "
            "line, and connect clip; or connect real_latents."
        )
    return list(dict.fromkeys(data.prompts[data.samples[i].prompt].caption for i in _order(data)))[:MOST_CAPTIONS]


def usual_size(data: RealLatents) -> tuple[int, int]:
    """Height and width in latent pixels that most pictures of the data have."""
    shape = Counter(sample.shape for sample in data.samples).most_common(1)[0][0]
    return shape[-2], shape[-1]


def _order(data: RealLatents) -> list[int]:
    return [*data.held_out, *data.training]


def real_cells(data: RealLatents, prompts: Sequence[str], count: int) -> list[list[int | None]]:
    """For each prompt ``count`` places of the data's pictures, or ``None``: those that have the prompt as caption.

    A prompt that is no caption has pictures that no other prompt shows, for want of its own; held-out ones first.
    """
    by_caption: dict[str, list[int]] = {}
    for place in _order(data):
        by_caption.setdefault(data.prompts[data.samples[place].prompt].caption, []).append(place)
    own = {prompt: by_caption.get(prompt, [])[:count] for prompt in prompts}
    shown = {place for places in own.values() for place in places}
    rest = iter([place for place in _order(data) if place not in shown])
    cells: list[list[int | None]] = []
    for prompt in prompts:
        places = own[prompt] or [place for _, place in zip(range(count), rest, strict=False)]
        cells.append([*places, *[None] * (count - len(places))])
    return cells


@dataclass(frozen=True, eq=False)
class PromptBook:
    """The encodings of prompts: those of the data where they are among them, else what ``encode`` gives.

    ``encode`` is ``None`` where no text encoder is connected.
    """

    data: RealLatents | None
    encode: Callable[[str], Prompt] | None
    where: str
    _encoded: dict[str, Prompt] = field(default_factory=dict)

    def plain(self, text: str) -> Prompt:
        """Raises ``ComparisonError``, beginning with ``where``, where it cannot be encoded."""
        found = self._of_data(text) or self._by_encoder(text)
        if found is None:
            raise ComparisonError(
                f"{self.where}: {text!r} is no caption of the data, so it has to be encoded. Connect clip, the text "
                "encoder of the base; or write captions of real_latents, or leave prompts empty to take those."
            )
        return found

    def negative(self, text: str) -> Prompt:
        """Of a negative prompt: the data's where ``text`` is empty and there are data. Raises as ``plain``."""
        if text or self.data is None:
            return self.plain(text)
        return self.data.negative

    def few_step(self, phrase: str, text: str) -> Prompt | None:
        """``text`` with the phrase of a few-step sampler before it; ``None`` where that cannot be encoded."""
        return self._of_data_with(phrase, text) or self._by_encoder(with_phrase(phrase, text))

    def _of_data(self, text: str) -> Prompt | None:
        if self.data is None:
            return None
        negative = [self.data.negative_prompt] if self.data.negative_prompt else []
        known = (*self.data.prompts, *self.data.practice_prompts, *negative)
        return next(((p.prompt_embeds, p.pooled_prompt_embeds) for p in known if p.caption == text), None)

    def _of_data_with(self, phrase: str, text: str) -> Prompt | None:
        if self.data is None or self.data.few_step_phrase != phrase:
            return None
        pairs = zip(self.data.prompts, self.data.few_step_prompts, strict=True)
        return next(((p.prompt_embeds, p.pooled_prompt_embeds) for plain, p in pairs if plain.caption == text), None)

    def _by_encoder(self, text: str) -> Prompt | None:
        if self.encode is None:
            return None
        if text not in self._encoded:
            self._encoded[text] = self.encode(text)
        return self._encoded[text]


def asked_of(lora: FluxLoRA, prompts: Sequence[str], book: PromptBook) -> tuple[Asked, str]:
    """How the LoRA is asked for ``prompts``, and in words how at few steps; empty where it is asked as at many.

    Raises ``ComparisonError`` as ``PromptBook.plain``.
    """
    plain = [book.plain(text) for text in prompts]
    config = last_config(lora)
    if config.get("target") != "two_samplers":
        return Asked(lora=lora, prompts=plain), ""
    if config.get("few_step_guidance"):
        guidance = float(config["few_step_guidance"])
        return Asked(lora=lora, prompts=plain, few_step_guidance=guidance), f"guidance {guidance:g}"
    phrase = trigger_phrase(lora.provenance)
    few = [book.few_step(phrase, text) for text in prompts] if phrase else [None]
    known = [prompt for prompt in few if prompt is not None]
    if len(known) < len(few):
        return Asked(lora=lora, prompts=plain), "as at many: its phrase cannot be encoded without clip"
    return Asked(lora=lora, prompts=plain, few_step_prompts=known), f"the phrase {phrase!r}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """A comparison in words. ``few``: for each row how it was asked at few steps, see ``asked_of``."""

    names: Sequence[str]
    sockets: Sequence[str]
    loras: Sequence[FluxLoRA]
    few: Sequence[str]
    prompts: Sequence[str]
    columns: Sequence[Column]
    guidance: float
    cfg: float
    """See ``cfg_at``."""
    size: tuple[int, int]
    """Height and width in latent pixels."""
    real: Sequence[Sequence[str]] = ()
    """The names of the real pictures shown for each prompt."""

    @property
    def same_words(self) -> list[str]:
        """What is the same in all columns, for the sheet's title."""
        factor = base_family(self.loras[0].base).space.factor
        height, width = (side * factor for side in self.size)
        cfgs = {cfg for own in self._cfgs() for cfg in own}
        told = [f"cfg {cfg:g}" for cfg in cfgs if cfgs != {1.0}] if len(cfgs) == 1 else []
        return [*headings(self.columns)[1], f"guidance {self.guidance:g}", *told, f"{width} x {height}"]

    def _cfgs(self) -> list[list[float]]:
        """Of each LoRA by column."""
        return [[cfg_at(lora, column.steps, self.cfg) for column in self.columns] for lora in self.loras]

    def report(self, notes: Sequence[str] = ()) -> str:
        """Rows, columns, prompts and warnings as Markdown."""
        told_few = any(self.few) and any(column.steps <= FEW_STEPS for column in self.columns)
        cfgs = [", ".join(f"{cfg:g}" for cfg in dict.fromkeys(own)) for own in self._cfgs()]
        told_cfg = len({cfg for own in self._cfgs() for cfg in own}) > 1
        head = ["row", "input", "LoRA", "base", *([f"up to {FEW_STEPS} steps by"] if told_few else [])]
        head += ["cfg"] if told_cfg else []
        rows = [
            [markdown.plain(name), f"`{socket}`", markdown.plain(_origin(lora)), markdown.plain(lora.base.name)]
            + ([markdown.plain(few) or "-"] if told_few else [])
            + ([cfg] if told_cfg else [])
            for name, socket, lora, few, cfg in zip(self.names, self.sockets, self.loras, self.few, cfgs, strict=True)
        ]
        heads = ", ".join(head.replace("\n", " ") for head in headings(self.columns)[0])
        said = f"Columns: {heads}. All: {', '.join(self.same_words)}. Pictures of one column have the same noise."
        prompts = [
            f"{number}. {markdown.plain(prompt)}"
            + (f" (real: {markdown.plain(', '.join(self.real[number - 1]))})" if self.real else "")
            for number, prompt in enumerate(self.prompts, 1)
        ]
        warnings = [*(f"Warning: {text}" for text in self._doubts()), *notes]
        parts = [
            markdown.table(head, rows, words=len(head)),
            said,
            "\n".join(["Prompts:", "", *prompts]),
            markdown.bullets([*map(markdown.plain, warnings)]),
        ]
        return "\n\n".join(part for part in parts if part)

    def _doubts(self) -> list[str]:
        """In what the LoRAs are sampled otherwise than stage 2 has trained them for, each once with its row's name."""
        solvers = [column.solver for column in self.columns]
        sampler = TRAINED_SAMPLER if TRAINED_SAMPLER in solvers else solvers[0]
        counts = list(dict.fromkeys(column.steps for column in self.columns))
        return [
            f"{name}: {sentence}"
            for name, lora in zip(self.names, self.loras, strict=True)
            for sentence in departures(lora.provenance, sampler=sampler, step_counts=counts, cfg=self.cfg or 1.0)
        ]


def _origin(lora: FluxLoRA) -> str:
    """In words, how a LoRA came to be."""
    stages = [str(entry.get("stage", "?")) for entry in lora.provenance]
    trained = f"trained: {', '.join(stages)}" if stages else "of unknown origin"
    if changes_nothing(lora):
        return "changes nothing: the bare base"
    return f"{lora.file}.safetensors" if lora.file else trained
