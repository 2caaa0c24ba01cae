"""What a comparison asks for: names, prompts, columns, real pictures, few-step prompts; and what it says of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fluxduel.tests.engine.conftest import make_data, practice_prompts, with_phrase
from fluxduel.training.base.classifier_free import Prompt
from fluxduel.training.base.families.flux1 import Flux1
from fluxduel.training.config import AdversarialStageConfig
from fluxduel.training.data.real_latents import RealLatents
from fluxduel.training.evidence.comparison import (
    Column,
    Compared,
    ComparisonError,
    PromptBook,
    asked_of,
    columns,
    headings,
    names_of,
    prompts_of,
    real_cells,
    usual_size,
)
from fluxduel.training.lora.adapter import FluxLoRA
from fluxduel.training.step_counts import sampler_names, seeds, step_counts


@pytest.fixture
def real() -> RealLatents:
    return make_data(count=8, held_out=2)


def of_stage_2(lora: FluxLoRA, phrase: str = "", **config: object) -> FluxLoRA:
    entry = {"stage": "adversarial", "config": dataclasses.asdict(AdversarialStageConfig(**config))}
    return dataclasses.replace(lora, provenance=({"stage": "diffusion"}, entry | {"few_step_phrase": phrase}))


def encoded(text: str) -> Prompt:
    """An encoding that depends on the text."""
    return torch.full((5, 24), float(len(text))), torch.zeros(12)


def test_columns_go_by_steps_then_sampler_then_seed() -> None:
    found = columns((4, 25), ("euler", "heun"), (0, 7))
    assert found[:3] == [Column(4, "euler", 0), Column(4, "euler", 7), Column(4, "heun", 0)] and len(found) == 8


def test_heads_say_what_differs_and_the_title_the_rest() -> None:
    assert headings(columns((1, 4), ("euler",), (0,))) == (["1 step", "4 steps"], ["euler", "seed 0"])
    heads, same = headings(columns((4,), ("euler", "heun"), (0, 7)))
    assert heads[1] == "4 steps\neuler\nseed 7" and same == []
    # A single column, too, says its number of steps.
    assert headings(columns((4,), ("euler",), (0,))) == (["4 steps"], ["euler", "seed 0"])


def test_names_are_the_users_where_written(start: FluxLoRA) -> None:
    loras = [start, of_stage_2(start), dataclasses.replace(start, file="mine_v2")]
    assert names_of(loras, "", "Names") == ["LoRA", "stage 2", "mine_v2"]
    assert names_of(loras, " first,,猫 ", "Names") == ["first", "stage 2", "猫"]
    assert names_of(loras, "first", "Names") == ["first", "stage 2", "mine_v2"]
    with pytest.raises(ComparisonError, match="Names: there are 4 names for 3 LoRAs"):
        names_of(loras, "a, b, c, d", "Names")


def test_prompts_are_the_lines_or_else_captions_of_held_out_pictures_first(real: RealLatents) -> None:
    assert prompts_of(" a cat \n\n\ta dog\na cat", real, "Prompts") == ["a cat", "a dog"]
    assert prompts_of("  \n ", real, "Prompts") == ["caption 6", "caption 7", "caption 0"]
    with pytest.raises(ComparisonError, match="Prompts is empty, and no real_latents are connected"):
        prompts_of("", None, "Prompts")


def test_real_pictures_are_those_of_the_caption_and_else_others(real: RealLatents) -> None:
    assert real_cells(real, ["caption 7", "caption 1"], 2) == [[7, None], [1, None]]
    # Held-out ones first, and none that another prompt shows.
    assert real_cells(real, ["a cat", "caption 6", "a dog"], 3) == [[7, 0, 1], [6, None, None], [2, 3, 4]]
    one_caption = dataclasses.replace(
        real, samples=tuple(dataclasses.replace(sample, prompt=0) for sample in real.samples)
    )
    assert real_cells(one_caption, ["caption 0"], 3) == [[6, 7, 0]]
    assert real_cells(real, [f"text {i}" for i in range(5)], 2)[-1] == [None, None]


def test_the_size_that_most_pictures_have(real: RealLatents) -> None:
    wide = dataclasses.replace(real.samples[0], mean=torch.zeros(16, 4, 8))
    assert usual_size(dataclasses.replace(real, samples=(wide, *real.samples))) == (4, 4)
    assert usual_size(dataclasses.replace(real, samples=(wide, wide, real.samples[0]))) == (4, 8)


def test_captions_and_practice_prompts_need_no_encoder(real: RealLatents) -> None:
    data = dataclasses.replace(real, practice_prompts=practice_prompts())
    book = PromptBook(data, None, "Prompts")
    assert book.plain("caption 2") == (data.prompts[2].prompt_embeds, data.prompts[2].pooled_prompt_embeds)
    assert book.plain("practice 1")[0] is data.practice_prompts[1].prompt_embeds
    with pytest.raises(ComparisonError, match="Prompts: 'a cat' is no caption of the data"):
        book.plain("a cat")
    calls = []
    book = PromptBook(data, lambda text: calls.append(text) or encoded(text), "Prompts")
    assert torch.equal(book.plain("a cat")[0], encoded("a cat")[0])
    assert book.plain("a cat") is book.plain("a cat") and calls == ["a cat"]


def test_a_lora_for_one_sampler_is_asked_plainly(start: FluxLoRA, real: RealLatents) -> None:
    book = PromptBook(with_phrase(real), encoded, "Prompts")
    for lora in (start, of_stage_2(start, "fast", target="target_steps")):
        asked, told = asked_of(lora, ["caption 0", "caption 1"], book)
        assert asked.at(4, 3.5) == (asked.prompts, 3.5) == asked.at(25, 3.5) and told == ""


def test_a_lora_for_two_samplers_is_told_by_its_guidance_or_its_phrase(start: FluxLoRA, real: RealLatents) -> None:
    data = with_phrase(real)
    by_guidance = of_stage_2(start, "fast", target="two_samplers", few_step_guidance=8.0)
    asked, told = asked_of(by_guidance, ["caption 0"], PromptBook(data, None, "Prompts"))
    assert asked.at(4, 3.5) == (asked.prompts, 8.0) and asked.at(25, 3.5)[1] == 3.5 and told == "guidance 8"

    by_phrase = of_stage_2(start, "fast", target="two_samplers", few_step_guidance=0.0)
    asked, told = asked_of(by_phrase, ["caption 0"], PromptBook(data, None, "Prompts"))
    ((embeds, _),) = asked.at(4, 3.5)[0]
    assert embeds is data.few_step_prompts[0].prompt_embeds and told == "the phrase 'fast'"
    assert asked.at(25, 3.5)[0][0][0] is data.prompts[0].prompt_embeds
    # Of a prompt that is no caption, and of data with another phrase, the encoder makes it.
    book = PromptBook(dataclasses.replace(data, few_step_phrase="other"), encoded, "Prompts")
    asked, _ = asked_of(by_phrase, ["caption 0", "a cat"], book)
    assert [float(embeds[0, 0]) for embeds, _ in asked.at(4, 3.5)[0]] == [len("fast, caption 0"), len("fast, a cat")]
    asked, told = asked_of(by_phrase, ["caption 0"], PromptBook(real, None, "Prompts"))
    assert asked.at(4, 3.5) == (asked.prompts, 3.5) and "cannot be encoded without clip" in told


def compared(lora: FluxLoRA, **changes: object) -> Compared:
    given = {
        "names": ["a|b", "two"], "sockets": ["flux_lora", "flux_lora_3"], "loras": [lora, of_stage_2(lora)],
        "few": ["", ""], "prompts": ["a *cat*", "猫"], "columns": columns((4, 25), ("dpmpp_2m",), (3,)),
        "guidance": 3.5, "cfg": 0.0, "size": (8, 12),
    }  # fmt: skip
    return Compared(**{**given, **changes})


def test_the_report_holds_rows_columns_and_prompts_in_full(start: FluxLoRA) -> None:
    report = compared(start).report(["One more thing."])
    lines = report.splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split(" | ")][:3] == [
        "a\\|b", "`flux_lora`", "of unknown origin",
    ]  # fmt: skip
    assert "trained: diffusion, adversarial" in lines[3]
    assert "Columns: 4 steps, 25 steps. All: dpmpp_2m, seed 3, guidance 3.5, 96 x 64." in report
    assert "\n1. a \\*cat\\*\n2. 猫\n" in report
    # Of the sampler that the second was trained for, and not of the first, which may be sampled by any.
    assert report.count("Warning: ") == 1 and "- Warning: two: This LoRA was trained for sampler euler" in report
    assert report.endswith("- One more thing.")
    assert "up to 8 steps by" not in report and "real:" not in report


def test_the_report_says_at_which_cfg_a_base_that_needs_it_was_sampled(start: FluxLoRA, monkeypatch) -> None:
    assert "cfg 2, 96 x 64." in compared(start, cfg=2.0).report() and "cfg 1" not in compared(start, cfg=1.0).report()
    monkeypatch.setattr(Flux1, "usual_cfg", lambda self, variant: 4.0)
    lines = [line.strip("|").split(" | ") for line in compared(start).report().splitlines()]
    # The second is of stage 2, for 4 steps.
    assert [lines[place][-1].strip() for place in (0, 2, 3)] == ["cfg", "4", "1, 4"]
    assert "cfg" not in compared(start, cfg=1.0).report().splitlines()[0]


def test_the_negative_prompt_is_the_datas_or_encoded(data: RealLatents) -> None:
    def encode(text: str) -> Prompt:
        return torch.full((2, 3), float(len(text))), torch.zeros(1)

    def of(text: str, data: RealLatents | None, encoder: Any = encode) -> Prompt:
        return PromptBook(data, encoder, "Compare").negative(text)

    blurred = dataclasses.replace(data.prompts[1], caption="blurred")
    led = dataclasses.replace(data, negative_prompt=blurred)
    assert of("", data)[0] is data.empty_prompt.prompt_embeds and of("", led)[0] is blurred.prompt_embeds
    assert of("blurred", led, None)[0] is blurred.prompt_embeds
    assert of("noisy", led)[0][0, 0] == 5 and of("", None)[0][0, 0] == 0
    with pytest.raises(ComparisonError, match="Connect clip"):
        of("noisy", led, None)
    with pytest.raises(ComparisonError, match="Connect clip"):
        of("", None, None)


def test_the_report_tells_how_few_steps_were_asked_for_and_which_pictures_are_real(start: FluxLoRA) -> None:
    report = compared(start, few=["", "guidance 8"], real=[["one.png"], ["two.png", "_3.png"]]).report()
    assert "up to 8 steps by" in report.splitlines()[0] and "guidance 8" in report.splitlines()[3]
    assert "2. 猫 (real: two.png, \\_3.png)" in report
    many = compared(start, few=["", "guidance 8"], columns=columns((25,), ("euler",), (0,))).report()
    assert "up to 8 steps by" not in many


def test_lists_are_read_as_users_write_them() -> None:
    assert sampler_names(" euler,heun , euler", "S") == ("euler", "heun") and seeds("0, 7,0", "S") == (0, 7)
    assert seeds(str(2**63 - 1), "S") == (2**63 - 1,)
    for text in ("", "euler,", "magic", "Euler", "euler dpmpp_2m", "ab2"):
        with pytest.raises(ValueError, match="S: there is no sampler"):
            sampler_names(text, "S")
    for text in ("", "1,", "-1", "1.5", "x", str(2**63), "9" * 5000, "²"):
        with pytest.raises(ValueError, match="S must be one or more whole numbers from 0"):
            seeds(text, "S")
    assert step_counts("4, 25", "S") == (4, 25)
