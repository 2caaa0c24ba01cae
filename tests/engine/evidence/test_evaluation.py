"""The comparison of LoRAs against its pieces, computed one by one; its words; its chart and its grid."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.conftest import make_data
from fluxduel.training.base.base_model import BaseReference, FluxBase, load_base
from fluxduel.training.base.sampler import sample
from fluxduel.training.config import AdversarialStageConfig, LoRAConfig
from fluxduel.training.data.data_error import DataError
from fluxduel.training.data.real_latents import Prompt, RealLatents
from fluxduel.training.evidence import evaluation as module
from fluxduel.training.evidence import evaluation_reals, latent_metrics, sample_lora
from fluxduel.training.evidence.evaluation import evaluate
from fluxduel.training.evidence.evaluation_plot import picture_sheet, plot_evaluation, was_watched
from fluxduel.training.evidence.evaluation_result import Result
from fluxduel.training.evidence.glossary import CURVES
from fluxduel.training.evidence.lora_names import changes_nothing, row_names
from fluxduel.training.evidence.metrics import held_out_flow_loss
from fluxduel.training.evidence.random_features import FeatureSpace
from fluxduel.training.evidence.training_log import TrainingLog
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA, create

COUNT = 6
FIELDS = [field.name for field in dataclasses.fields(latent_metrics.Measurement)]
SETTINGS = dict(step_counts=(1, 2), count=COUNT, seed=40, guidance=2.0, device=DEVICE)


@pytest.fixture(scope="module")
def real() -> RealLatents:
    return make_data(count=12, held_out=5, side=8)


@pytest.fixture
def bare(reference) -> FluxLoRA:
    return create(reference, LoRAConfig(rank=2, alpha=2.0))


def with_stage(some: FluxLoRA, stage: str, data: RealLatents | None = None, **config: object) -> FluxLoRA:
    """``some`` as if it came from a stage. Of the adversarial one with the settings ``config``."""
    entry = {"stage": stage, "config": {"guidance": 1.0}}
    if stage == "adversarial":
        entry["config"] = dataclasses.asdict(AdversarialStageConfig(**config))
    if data is not None:
        entry["data"] = data.fingerprint
    return dataclasses.replace(some, provenance=(*some.provenance, entry))


def few_step(data: RealLatents) -> RealLatents:
    """The data with prompts for a few-step sampler, of other numbers than the plain ones."""
    prompts = tuple(Prompt(f"fast, {p.caption}", -p.prompt_embeds, -p.pooled_prompt_embeds) for p in data.prompts)
    return dataclasses.replace(
        data, few_step_prompts=prompts, few_step_empty_prompt=prompts[0], few_step_phrase="fast,"
    )


@pytest.fixture
def sampled(monkeypatch) -> list[dict[str, object]]:
    """What the sampler is asked for, call by call."""
    calls = []

    def spy(base, embeds, pooled, **options):
        calls.append({"embeds": embeds, **options})
        return sample(base, embeds, pooled, **options)

    monkeypatch.setattr(module.sampler, "sample", spy)
    return calls


def stack(data: RealLatents, indices: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([data.samples[i].mean for i in indices])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def equal(one: latent_metrics.Measurement, other: latent_metrics.Measurement) -> bool:
    return dataclasses.asdict(one) == pytest.approx(dataclasses.asdict(other), rel=1e-4, abs=1e-7, nan_ok=True)


def test_the_numbers_are_those_of_the_pieces(start, bare, real):
    """Picture by picture with the sampler, then the metrics, the floor and the flow loss, each called by itself."""
    found = evaluate([("base", bare), ("one", start)], real, **SETTINGS, keep=2)
    base = load_base(start.base, DEVICE)
    lora.attach(base, start)
    captions = [real.prompts[real.samples[i].prompt] for i in (*real.held_out, *real.training)]
    train, held_out = stack(real, real.training), stack(real, real.held_out)
    space = FeatureSpace.fit(train)
    for steps, result in zip((1, 2), found.results[2:], strict=True):
        pictures = [
            sample(
                base,
                captions[i].prompt_embeds,
                captions[i].pooled_prompt_embeds,
                height=8,
                width=8,
                steps=steps,
                seeds=[40 + i],
                guidance=2.0,
            ).cpu()
            for i in range(COUNT)
        ]
        expected = latent_metrics.measure(torch.cat(pictures), train=train, held_out=held_out, space=space)
        assert (result.name, result.steps, result.few_step, result.guidance) == ("one", steps, False, 2.0)
        # Which patches are drawn depends on the order of the pictures, unless all of them are.
        assert equal(result.measurement, expected)
        torch.testing.assert_close(result.latents, torch.cat(pictures[:2]), rtol=1e-4, atol=1e-5)
        assert result.held_out_loss == pytest.approx(held_out_flow_loss(base, real, 1.0, batch_size=4), rel=1e-5)
    assert [result.bare for result in found.results] == [True, True, False, False]
    assert (found.training, found.held_out, found.size, found.against_training) == (7, 5, (8, 8), False)


def test_the_floor_is_of_as_many_pictures_as_a_row(start, real, monkeypatch):
    floors = []

    def spy(*, train, held_out, space):
        floors.append((len(train), len(held_out)))
        return latent_metrics.Measurement(**dict.fromkeys(FIELDS, 0.25))

    monkeypatch.setattr(evaluation_reals.latent_metrics, "floor", spy)
    found = evaluate([("one", start)], real, **SETTINGS)
    assert floors == [(COUNT, 5)] and found.floor is not None and found.floor.frechet == 0.25


def test_the_floor_is_real_against_real(start, real):
    found = evaluate([("one", start)], real, **SETTINGS | {"count": 7})
    train, held_out = stack(real, real.training), stack(real, real.held_out)
    expected = latent_metrics.floor(train=train, held_out=held_out, space=FeatureSpace.fit(train))
    assert found.floor is not None
    # Halves of the held-out pictures depend on their order, which is not the data's.
    assert equal(dataclasses.replace(found.floor, memorised=0), dataclasses.replace(expected, memorised=0))


def test_a_lora_that_changes_nothing_is_its_base(start, bare, real):
    other = dataclasses.replace(start, tensors={k: t * ("lora_A" in k) for k, t in start.tensors.items()})
    found = evaluate([("base", bare), ("one", start), ("same", other)], real, **SETTINGS)
    by_name = {(result.name, result.steps): result for result in found.results}
    for steps in (1, 2):
        assert equal(by_name["base", steps].measurement, by_name["same", steps].measurement)
        assert not equal(by_name["base", steps].measurement, by_name["one", steps].measurement)
    assert by_name["base", 1].held_out_loss == pytest.approx(by_name["same", 1].held_out_loss)
    assert changes_nothing(bare) and changes_nothing(other) and not changes_nothing(start)


def test_every_row_has_the_same_noise_and_captions(start, bare, real, sampled):
    evaluate([("base", bare), ("one", start)], real, **SETTINGS)
    asked = [(call["steps"], call["seeds"], call["embeds"].data_ptr()) for call in sampled]
    rows = [asked[first : first + COUNT] for first in range(0, len(asked), COUNT)]
    assert [row[0][0] for row in rows] == [1, 2, 1, 2]
    assert len({str([call[1:] for call in row]) for row in rows}) == 1
    assert [call[1] for call in rows[0]] == [[40 + i] for i in range(COUNT)]


def test_pictures_of_one_caption_go_through_the_base_together(start, real, sampled, monkeypatch):
    one_caption = dataclasses.replace(
        real, samples=tuple(dataclasses.replace(s, prompt=0) for s in real.samples)
    )
    whole = evaluate([("one", start)], one_caption, **SETTINGS | {"step_counts": (1,)}, keep=COUNT)
    assert [call["seeds"] for call in sampled] == [[40, 41, 42, 43, 44, 45]]
    # As many as fill one picture of 1024 x 1024, and no more.
    monkeypatch.setattr(sample_lora, "TOKENS_AT_ONCE", 4 * 16)
    parts = evaluate([("one", start)], one_caption, **SETTINGS | {"step_counts": (1,)}, keep=COUNT)
    assert [call["batch_size"] for call in sampled] == [4096 // 16, 4]
    torch.testing.assert_close(whole.results[0].latents, parts.results[0].latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 8.0])
def test_only_a_lora_for_two_samplers_is_asked_for_few_steps(start, real, sampled, guidance):
    both = few_step(real)
    one = with_stage(start, "adversarial", target="target_steps")
    two = with_stage(one, "adversarial", target="two_samplers", few_step_guidance=guidance)
    found = evaluate([("one", one), ("two", two)], both, **SETTINGS | {"step_counts": (1, 9)})
    plain = {p.prompt_embeds.data_ptr() for p in both.prompts}
    few = {p.prompt_embeds.data_ptr() for p in both.few_step_prompts}
    kinds = [
        {"few" if call["embeds"].data_ptr() in few else "plain" for call in sampled[first : first + COUNT]}
        for first in range(0, len(sampled), COUNT)
    ]
    assert not plain & few and kinds == [{"plain"}, {"plain"}, {"few"}, {"plain"}]
    assert [result.guidance for result in found.results] == [2.0, 2.0, guidance or 2.0, 2.0]
    assert [result.few_step for result in found.results] == [False, False, True, False]
    assert "| 1 few |" in found.table() and "9 few" not in found.table()
    (note,) = [note for note in found.notes if note.startswith("two was asked as its few-step sampler")]
    assert "'fast,'" in note and ("guidance 8" in note) == bool(guidance)


def test_a_phrase_that_the_data_lack_is_told(start, real):
    two = with_stage(start, "adversarial", target="two_samplers")
    found = evaluate([("two", two)], real, **SETTINGS)
    assert any("two was trained" in note and "few_step_phrase" in note for note in found.notes)


def test_the_flow_loss_is_at_the_last_loras_guidance(start, bare, real):
    last = with_stage(start, "adversarial", guidance=4.0)
    found = evaluate([("base", bare), ("one", last)], real, **SETTINGS)
    base = load_base(start.base, DEVICE)
    lora.attach(base, bare)
    assert found.flow_guidance == 4.0
    assert found.results[0].held_out_loss == pytest.approx(held_out_flow_loss(base, real, 4.0, batch_size=4), rel=1e-5)


def test_other_data_than_those_of_training_are_told(start, real):
    elsewhere = with_stage(start, "diffusion", make_data(seed=9))
    here = with_stage(start, "diffusion", real)
    found = evaluate([("elsewhere", elsewhere), ("here", here)], real, **SETTINGS)
    told = [note for note in found.notes if "was trained on other data" in note]
    assert len(told) == 1 and told[0].startswith("elsewhere")


def test_each_base_is_loaded_once_and_has_its_own_loras(start, bare, real):
    loaded = []

    def load(reference: BaseReference, *args: Any, **kwargs: Any) -> FluxBase:
        loaded.append(reference.precision)
        return load_base(reference, *args, **kwargs)

    rounded = dataclasses.replace(start, base=dataclasses.replace(start.base, precision="bf16"))
    found = evaluate([("a", bare), ("b", rounded), ("c", start)], real, **SETTINGS | {"step_counts": (1,)}, load=load)
    assert loaded == ["fp32", "bf16"]
    assert [result.name for result in found.results] == ["a", "b", "c"]
    # In bf16 the same LoRA gives something else.
    alone = evaluate([("c", start)], real, **SETTINGS | {"step_counts": (1,)}).results[0]
    assert found.results[2].measurement == alone.measurement != found.results[1].measurement


def test_progress_counts_every_evaluation_and_may_end_it(start, bare, real):
    seen = []
    evaluate([("a", bare), ("b", start)], real, **SETTINGS, after_step=lambda *step: seen.append(step))
    # 5 held-out pictures in batches of 4, at 4 levels each.
    total = 2 * (COUNT * (1 + 2) + 2 * 4)
    assert seen == [(done, total) for done in range(1, total + 1)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate([("a", bare)], real, **SETTINGS, after_step=stop)


def test_the_table_has_every_lora_and_the_floor(start, bare, real):
    found = evaluate([("base", bare), ("stage 1", start), ("stage 2", start)], real, **SETTINGS)
    lines = found.table().splitlines()
    assert lines[0].split()[:6] == ["|", "LoRA", "|", "steps", "|", "Fréchet"]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["base"] * 2 + ["stage 1"] * 2 + ["stage 2"] * 2 + [
        "floor (real)"
    ]
    # Aligned as a terminal shows it, and ruled as Markdown wants it.
    assert len({len(line) for line in lines}) == 1 and set(lines[1]) == set("|-: ")
    assert f"{found.results[3].measurement.spectrum_distance:.3g}" in lines[5]
    assert found.rows()[3]["spectrum"] == found.results[3].measurement.spectrum_distance
    # Two equal LoRAs: every number is as many times the other's.
    assert found.comparisons()[1].startswith("stage 2 against stage 1 at 2 steps: Fréchet 1.00x, patch SWD 1.00x")
    detail = f"{found.results[5].measurement.high_frequency:.3g}"
    assert f"high frequencies {detail} -> {detail}, diversity" in found.comparisons()[1]
    assert "memorised" not in found.comparisons()[1]
    assert all(f"\n- {text}" in found.report() for text in (*found.comparisons(), *found.notes))
    assert f"\n\n{found.table()}\n\n" in found.report()
    assert "6 pictures of 64 x 64 a row, against 5 held-out" in found.report()


def test_comparisons_are_with_the_first_that_is_not_the_base(start, bare, real):
    settings = SETTINGS | {"step_counts": (1,)}
    assert evaluate([("x", start)], real, **settings).comparisons() == []
    (alone,) = evaluate([("bare", bare), ("x", start)], real, **settings).comparisons()
    assert alone.startswith("x against bare at 1 step: ")
    (later,) = evaluate([("bare", bare), ("x", start), ("y", bare)], real, **settings).comparisons()
    assert later.startswith("y against x at 1 step: ")


def test_the_json_is_json(start, real):
    found = evaluate([("one", start)], dataclasses.replace(real, held_out=()), **SETTINGS)
    plain = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert plain["results"][1]["frechet"] == pytest.approx(found.results[1].measurement.frechet)
    assert plain["results"][1]["memorised"] is None and plain["results"][1]["held_out_loss"] is None
    assert plain["against_training"] is True and plain["floor"]["diversity"] > 0


@pytest.mark.parametrize("held_out", [0, 3])
def test_with_too_few_held_out_the_training_pictures_are_compared(start, real, held_out):
    data = dataclasses.replace(real, held_out=real.held_out[:held_out])
    found = evaluate([("one", start)], data, **SETTINGS, keep=COUNT)
    train = stack(data, data.training)
    expected = latent_metrics.measure(
        found.results[0].latents, train=train, held_out=train, space=FeatureSpace.fit(train)
    )
    assert found.against_training
    assert equal(found.results[0].measurement, dataclasses.replace(expected, memorised=math.nan))
    assert (found.results[0].held_out_loss is None) == (held_out == 0)
    assert found.notes[0].startswith(f"Only {held_out} pictures are held out") and "held_out_share" in found.notes[0]
    assert found.floor is not None and math.isnan(found.floor.memorised)
    assert "against 12 training" in found.report() or held_out
    if not held_out:
        assert cells(found.table().splitlines()[2])[-2:] == ["-", "-"]


def test_too_few_pictures_for_a_floor(start):
    found = evaluate([("one", start)], make_data(count=4, held_out=0, side=8), **SETTINGS)
    assert found.floor is None and any("too few pictures for a floor" in note for note in found.notes)
    assert set(cells(found.table().splitlines()[-1])[1:]) == {"-"}


def test_too_few_or_too_small_pictures_are_refused(start):
    with pytest.raises(DataError, match="1 training pictures of one size .64 x 64.*lower held_out_share"):
        evaluate([("one", start)], make_data(count=6, held_out=5, side=8), **SETTINGS)
    with pytest.raises(DataError, match="16 x 16 are too small.*Raise resolution"):
        evaluate([("one", start)], make_data(side=2), **SETTINGS)


def test_data_for_another_model_name_the_lora(start, real):
    wide = dataclasses.replace(real.prompts[0], prompt_embeds=torch.zeros(5, 30))
    with pytest.raises(DataError, match="^one: prompt_embeds of caption .* are 30 wide"):
        evaluate([("one", start)], dataclasses.replace(real, prompts=(wide, *real.prompts[1:])), **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"count": 1}, "count must be at least 2"), ({"step_counts": ()}, "step_counts"), ({"step_counts": (0,)}, "0")],
)
def test_numbers_out_of_range(start, real, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate([("one", start)], real, **SETTINGS | changes)


def test_names_must_differ(start, real):
    for loras in ([], [("one", start), ("one", start)]):
        with pytest.raises(ValueError, match="a name of its own"):
            evaluate(loras, real, **SETTINGS)


def test_the_size_that_most_pictures_have_is_compared(start, real):
    small = make_data(count=3, held_out=1, side=4)
    mixed = dataclasses.replace(
        real, samples=(*small.samples, *real.samples), held_out=(2, *(i + 3 for i in real.held_out))
    )
    found = evaluate([("one", start)], mixed, **SETTINGS)
    assert (found.size, found.training, found.held_out) == ((8, 8), 7, 5)


def test_latents_that_are_not_finite_are_told(start, real):
    broken = dataclasses.replace(start, tensors={k: t * math.inf for k, t in start.tensors.items()})
    found = evaluate([("one", start), ("two", broken)], real, **SETTINGS)
    assert any("two gave latents that are not finite at 1 step, 2 steps" in note for note in found.notes)
    assert found.comparisons() == []
    assert cells(found.table().splitlines()[4])[:2] == ["two", "1"]
    assert cells(found.table().splitlines()[4])[2:] == ["-"] * 7
    plot_evaluation(found)


@pytest.mark.parametrize(
    ("count", "held_out", "told", "not_told"),
    [
        (6, 5, "no number here says much", "can be read"),
        (12, 12, "only spectrum and high frequencies", "no number"),
        (40, 40, "chance alone makes about 35", "only spectrum"),
    ],
)
def test_how_far_to_trust_the_numbers(start, count, held_out, told, not_told):
    data = make_data(count=2 * held_out, held_out=held_out, side=4)
    notes = " ".join(evaluate([("one", start)], data, **SETTINGS | {"step_counts": (1,), "count": count}).notes)
    assert told in notes and not_told not in notes
    assert ("outright copying" in notes) == (held_out < 19)
    assert ("fewer than the" in notes) == (count > held_out)


def test_names_tell_where_a_lora_comes_from(start, bare):
    first = with_stage(start, "diffusion")
    second = with_stage(first, "adversarial")
    assert row_names([bare, first, second]) == ["base", "stage 1", "stage 2"]
    assert row_names([start, second, second, first]) == ["LoRA", "stage 2", "stage 2 (2)", "stage 1"]
    # Trained, and yet nothing has come of it.
    assert row_names([with_stage(bare, "diffusion"), bare]) == ["base", "base (2)"]
    assert row_names([]) == []


def test_a_lora_of_a_file_has_the_files_name(start, bare):
    read = dataclasses.replace(with_stage(start, "adversarial"), file="mine")
    assert row_names([read, dataclasses.replace(start, file="theirs"), read]) == ["mine", "theirs", "mine (2)"]
    # One that changes nothing is the base, wherever it comes from.
    assert row_names([dataclasses.replace(bare, file="empty")]) == ["base"]


def colour_in(picture: Image.Image, rgb: tuple[int, int, int]) -> bool:
    pixels = np.asarray(picture).astype(int)
    return bool((np.abs(pixels - np.array(rgb)).max(-1) < 12).sum() > 50)


def test_the_chart_has_a_line_for_each_lora(start, bare, real):
    blue, orange, green = (31, 119, 180), (255, 127, 14), (44, 160, 44)
    two = plot_evaluation(evaluate([("base", bare), ("one", start)], real, **SETTINGS))
    three = plot_evaluation(evaluate([("base", bare), ("one", start), ("two", start)], real, **SETTINGS))
    assert [colour_in(two, colour) for colour in (blue, orange, green)] == [True, True, False]
    assert colour_in(three, green) and three.mode == "RGB" and three.size == two.size


def test_a_single_number_of_steps_and_no_floor_can_be_drawn(start):
    data = make_data(count=4, held_out=0, side=8)
    picture = plot_evaluation(evaluate([("one", start)], data, **SETTINGS | {"step_counts": (4,)}))
    assert colour_in(picture, (31, 119, 180))


def test_the_pictures_stand_in_rows_of_loras_above_their_captions(start, bare, real):
    found = evaluate([("base", bare), ("one", start)], real, **SETTINGS, keep=3)
    assert len(set(found.captions)) == 3 and set(found.captions) <= {prompt.caption for prompt in real.prompts}
    colours = {("base", 1): "red", ("base", 2): "lime", ("one", 1): "blue", ("one", 2): "yellow"}

    def decode(result: Result) -> list[Image.Image]:
        assert result.latents.shape[0] == 3
        return [Image.new("RGB", (64, 64), colours[result.name, result.steps])] * 3

    sheet = picture_sheet(found, decode)
    pixels = np.asarray(sheet.picture)
    for colour, rgb in (("red", (255, 0, 0)), ("lime", (0, 255, 0)), ("blue", (0, 0, 255)), ("yellow", (255, 255, 0))):
        assert (pixels == rgb).all(-1).sum() == 3 * 192**2, colour
    tops = [np.flatnonzero((pixels == rgb).all(-1).any(1))[0] for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert tops == sorted(tops) and sheet.note == ""


def test_masks_that_are_not_used_are_told(start, real):
    """Once, with their number; none where no picture has one."""
    samples = list(real.samples)
    for number in (0, 3):
        samples[number] = dataclasses.replace(samples[number], mask=torch.ones(1, *samples[number].shape[1:]))
    told = []
    for data in (real, dataclasses.replace(real, samples=tuple(samples))):
        found = evaluate([("one", start)], data, **SETTINGS | {"step_counts": (1,), "count": 4})
        told.append([note for note in found.notes if "masks" in note])
    assert told[0] == [] and len(told[1]) == 1 and told[1][0].startswith("2 pictures have masks, which are not used")


WATCHED_LOG = TrainingLog(
    "adversarial",
    tuple(
        {"step": step, "score": 1.0 - 0.01 * step, "diversity": 2.0 - 0.02 * step, "high_frequency": 0.9,
         "held_out_loss": 0.5, "total": 20, "best_step": 20}
        for step in range(0, 21, 5)
    ),
)  # fmt: skip


def rgb_of(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_the_watchs_score_stands_in_the_chart_in_the_glossarys_colours(start, real):
    found = evaluate([("one", start)], real, **SETTINGS)
    plain, with_score = plot_evaluation(found), plot_evaluation(found, WATCHED_LOG)
    assert with_score.width == plain.width and with_score.height == plain.height * 3 // 2
    shown = ("score", "diversity", "high_frequency", "held_out_loss")
    assert [colour_in(with_score, rgb_of(CURVES[name].colour)) for name in shown] == [True] * 4
    assert not any(colour_in(plain, rgb_of(CURVES[name].colour)) for name in ("score", "diversity"))
    # A stage 1 has no score: the rest stays empty.
    first = TrainingLog("diffusion", tuple({"step": step, "held_out_loss": 0.4} for step in range(3)))
    drawn = plot_evaluation(found, first)
    assert colour_in(drawn, rgb_of(CURVES["held_out_loss"].colour))
    assert not colour_in(drawn, rgb_of(CURVES["score"].colour))


def test_a_log_without_measurements_changes_nothing(start, real):
    found = evaluate([("one", start)], real, **SETTINGS)
    empty = TrainingLog("adversarial", ({"step": 1, "adversarial_loss": 0.5},))
    assert plot_evaluation(found, empty).tobytes() == plot_evaluation(found).tobytes() and not was_watched(empty)
