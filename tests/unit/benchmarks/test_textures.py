"""The textures of the quality benchmark: where its crops are from, its codec and prompts, its arms, its ratios."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor

from fluxduel.benchmarks.quality import run
from fluxduel.benchmarks.quality.textures import domains, report
from fluxduel.benchmarks.quality.textures.arms import ARMS, GENERATOR_STEPS, SCALE
from fluxduel.benchmarks.quality.textures.domains import CROP, GAP, TILE
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.stages.endpoints import judged_endpoints

# Where crops come from


def numbered(height: int, width: int) -> Tensor:
    """A picture whose every pixel is its own number."""
    return torch.arange(height * width, dtype=torch.float32).reshape(height, width)


def corners(height: int, width: int, seed: int, unseen: bool | None, count: int = 700) -> Tensor:
    """Row and column of the first pixel of crops (count, 2); each crop is what is there in the picture."""
    picture = numbered(height, width)
    cut = torch.pixel_shuffle(domains.crops(picture, count, seed, unseen=unseen), 2)[:, 0]
    first = cut[:, 0, 0].long()
    found = torch.stack([first // width, first % width], 1)
    for (row, column), pixels in zip(found.tolist(), cut, strict=True):
        assert torch.equal(pixels, picture[row : row + CROP, column : column + CROP])
    return found


@pytest.mark.parametrize(("height", "width"), [(512, 512), (300, 700), (128, 256)])
def test_unseen_crops_are_apart_from_training_crops(height, width):
    """By at least GAP pixels, down or across, for crops of any two seeds; and no further than that."""
    train = torch.cat([corners(height, width, seed, False) for seed in (0, 1)])
    unseen = corners(height, width, 1_000_003, True)
    between = (train[:, None] - unseen).abs().amax(2) - CROP
    assert between.min().item() >= GAP
    assert between.min().item() <= GAP + 8, "a wide gap would be a waste of the picture"
    for found in (train, unseen):
        assert bool((found % TILE >= GAP // 2).all()) and bool((found % TILE + CROP <= TILE - GAP // 2).all())


def test_all_tiles_of_a_picture_are_used():
    """Every other one to train on, like a chessboard, the rest to measure on."""
    tiles = [{(row // TILE, column // TILE) for row, column in corners(512, 640, 3, kind).tolist()} for kind in (0, 1)]
    assert tiles[0] | tiles[1] == {(row, column) for row in range(4) for column in range(5)}
    assert not tiles[0] & tiles[1]
    for row, column in tiles[0]:
        assert not {(row + 1, column), (row, column + 1)} & tiles[0]


def test_crops_from_anywhere_are_from_everywhere():
    found = corners(64, 48, 0, None, 3000)
    assert found.amin(0).tolist() == [0, 0] and found.amax(0).tolist() == [64 - CROP, 48 - CROP]


def test_crops_depend_on_their_seed_and_kind_alone():
    before = torch.random.get_rng_state()
    picture = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    kinds = [{"seed": 0, "unseen": False}, {"seed": 1, "unseen": False}, {"seed": 0, "unseen": True}]
    sets = [domains.crops(picture, 20, **kind) for kind in kinds]
    assert torch.equal(sets[0], domains.crops(picture, 20, 0, unseen=False))
    # The first ones of many are the few.
    assert torch.equal(sets[0][:5], domains.crops(picture, 5, 0, unseen=False))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(sets[a], sets[b])
    assert torch.equal(before, torch.random.get_rng_state())


def test_datasets_are_cut_from_the_training_tiles(monkeypatch):
    """With the held-out share at their end, one caption, and the captioned phrase beside it."""
    monkeypatch.setattr(domains, "grey", lambda _: numbered(256, 256))
    data = domains.dataset(domains.DOMAINS["brick"], 24, 5, 0.125)
    latents = domains.stack(data.samples)
    assert torch.equal(latents, domains.crops(numbered(256, 256), 24, 5, unseen=False))
    assert data.held_out == (21, 22, 23) and len(data.training) == 21
    assert [p.caption for p in data.prompts] == ["brick"] and {s.prompt for s in data.samples} == {0}
    (few,) = data.few_step_prompts
    assert few.caption.startswith(domains.FEW_STEP_PHRASE) and few.caption.endswith("brick")
    assert few.prompt_embeds.shape == data.prompts[0].prompt_embeds.shape
    assert data.fingerprint != domains.dataset(domains.DOMAINS["brick"], 24, 6, 0.125).fingerprint


def test_photographs_are_in_scikit_images_wheel_and_standardised():
    """No domain is a photograph that the base was trained on."""
    folder = Path(skimage.data.__file__).parent
    photos = (*domains.BASE_PHOTOS, *domains.DOMAINS.values())
    assert all((folder / photo.file).is_file() for photo in photos)
    assert len({photo.file for photo in photos}) == len(photos)
    for photo in domains.DOMAINS.values():
        pixels = domains.grey(photo)
        assert pixels.mean().item() == pytest.approx(0, abs=1e-4) and pixels.std().item() == pytest.approx(1, rel=1e-4)
        # A chessboard of both colours.
        assert min(pixels.shape) // TILE >= 2


# Latents and prompts


def test_a_place_holds_a_square_of_pixels():
    pixels = torch.rand(3, CROP, CROP, generator=torch.Generator().manual_seed(0))
    latents = domains.encode(pixels)
    assert latents.shape == (3, domains.CHANNELS, CROP // 2, CROP // 2)
    for channel, (down, right) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(latents[:, channel], pixels[:, down::2, right::2])


def test_decoding_shows_what_was_encoded():
    """With a lower contrast around grey, and cut off where a pixel can be no darker or lighter."""
    pixels = torch.randn(5, CROP, CROP, generator=torch.Generator().manual_seed(0))
    shown = domains.decode(domains.encode(pixels))
    torch.testing.assert_close(shown, (0.5 + domains.CONTRAST * pixels).clamp(0, 1), rtol=0, atol=1e-7)
    inside = (shown > 0) & (shown < 1)
    assert inside.float().mean() > 0.97
    torch.testing.assert_close(((shown - 0.5) / domains.CONTRAST)[inside], pixels[inside], rtol=0, atol=1e-5)
    assert domains.decode(torch.full((1, 4, 8, 8), 99.0)).unique().tolist() == [1.0]


def test_words_have_vectors_of_their_own():
    """The same in any caption, process and order; the pooled vector is their sum, and no word's is nothing."""
    before = torch.random.get_rng_state()
    pair, swapped, one, other, none = (domains.prompt(c) for c in ("quick, moss", "moss quick", "moss", "quick", ""))
    assert torch.equal(before, torch.random.get_rng_state())
    again = domains.prompt("quick, moss")
    assert torch.equal(pair.prompt_embeds, again.prompt_embeds)
    assert torch.equal(pair.pooled_prompt_embeds, again.pooled_prompt_embeds)
    assert pair.caption == "quick, moss"
    for prompt in (pair, swapped, one, none):
        assert prompt.prompt_embeds.shape == (domains.TOKENS, domains.CONTEXT)
        assert prompt.pooled_prompt_embeds.shape == (domains.POOLED,)
    assert torch.equal(pair.prompt_embeds[0], other.prompt_embeds[0])
    assert torch.equal(pair.prompt_embeds[1], one.prompt_embeds[0])
    assert torch.equal(swapped.prompt_embeds[:2], pair.prompt_embeds[:2].flip(0))
    torch.testing.assert_close(pair.pooled_prompt_embeds, one.pooled_prompt_embeds + other.pooled_prompt_embeds)
    assert not torch.equal(one.prompt_embeds, other.prompt_embeds)
    assert not none.prompt_embeds.any() and not none.pooled_prompt_embeds.any()
    assert torch.equal(domains.prompt("a b c d e").prompt_embeds, domains.prompt("a b c d").prompt_embeds)


def test_vectors_are_those_that_the_base_was_trained_with():
    """A word's vector is drawn from a hash that no process salts: these are numbers from an earlier one."""
    found = domains.prompt("quick, gravel")
    assert found.prompt_embeds[:2, :2].flatten().tolist() == pytest.approx(
        [-0.54191, 0.00179, -0.75328, -1.36830], abs=1e-4
    )
    assert found.pooled_prompt_embeds[:3].tolist() == pytest.approx([-0.65838, -1.45955, -0.66925], abs=1e-4)


# Arms


def changed(config: Any) -> set[str]:
    """Names of the fields that are not at their defaults."""
    default = type(config)()
    return {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != getattr(default, f.name)}


@pytest.mark.parametrize("name", ARMS)
def test_arms_have_valid_settings_and_as_many_steps(name):
    arm = ARMS[name]
    for seed in (0, 2):
        stage, judge = arm.stage_config(seed), arm.judge_config(seed)
        assert stage.seed == judge.seed == seed and stage.steps == GENERATOR_STEPS
        assert all(getattr(stage, key) == value for key, value in SCALE.items() if key not in arm.stage)
        assert isinstance(stage, DiffusionStageConfig if arm.judge is None else AdversarialStageConfig)
        assert isinstance(judge, DiscriminatorConfig)
    assert arm.two_samplers == (arm.judge is not None and len(judged_endpoints(stage)) == 2)
    assert name in report.TITLES


@pytest.mark.parametrize("name", ["target4", "target25", "both"])
def test_ours_are_the_packs_defaults(name):
    """But for what a small model needs, and the number of steps that the LoRA is for."""
    arm = ARMS[name]
    needed = {*SCALE, "learning_rate", "seed"}
    assert changed(arm.stage_config(1)) <= needed | {"target", "target_steps"}
    assert changed(arm.judge_config(1)) <= needed
    expected = {"target4": ("x0",), "target25": ("jump",), "both": ("x0", "jump")}
    assert judged_endpoints(arm.stage_config(1)) == expected[name]


@pytest.mark.parametrize("quick", [True, False])
def test_every_job_is_done_once_and_has_its_start_and_its_control(quick):
    wanted = run.texture_jobs(2, quick)
    assert len({one.name for one in wanted}) == len(wanted)
    for one in wanted:
        if one.arm in ARMS:
            assert one._replace(arm="stage1") in wanted and (quick or one._replace(arm="control") in wanted)
    ours = {(one.domain, one.seed) for one in wanted if one.arm == "target4"}
    assert ours == {(domain, seed) for domain in [*domains.DOMAINS][: 1 if quick else None] for seed in (0, 1)}
    few = {one.arm for one in wanted if one.images == run.FEW_IMAGES}
    assert few == {"stage1", report.FEW_ARM} | (set() if quick else {"target4", "control"})
    assert {one.seed for one in wanted if one.arm == "pure"} == (set() if quick else {0})


# Ratios


def measured(frechet: float) -> dict[str, float]:
    return {"frechet": frechet, "high_frequency": 1.0, "diversity": 1.0, "memorised": 0.05}


def result(domain: str, seed: int, arm: str, euler: float, other: float, images: int = 256) -> dict[str, Any]:
    """At 25 steps all is half."""
    solvers = {str(steps): {"euler": euler / by, "deis": other / by} for steps, by in ((4, 1), (25, 2))}
    return {
        "domain": domain, "seed": seed, "images": images, "arm": arm, "flow": 1.0, "solvers": solvers,
        "4": measured(euler), "25": measured(euler / 2),
    }  # fmt: skip


def some_results() -> list[dict]:
    """Ours over stage 1 with its better solver: 0.5, 0.75, 2; with few images 0.25. Their order must not matter."""
    places = [("gravel", 0), ("gravel", 1), ("brick", 0)]
    stage_1 = [(40.0, 4.0), (40.0, 8.0), (3.0, 5.0)]
    results = [result(*place, "stage1", *each) for place, each in zip(places, stage_1, strict=True)]
    results += [result(*p, "target4", d, 99.0) for p, d in zip(places, (2.0, 6.0, 6.0), strict=True)]
    few = (("stage1", 80.0, 8.0), ("target4", 4.0, 1.0), (report.FEW_ARM, 2.0, 1.0))
    results += [result("gravel", 0, *each, images=24) for each in few]
    return results[::-1]


def test_ours_is_compared_with_the_best_that_costs_nothing():
    """With Euler, against the solver that is best in that pair; medians of ratios, not ratios of medians."""
    assert sorted(report.over_best_solver(some_results(), 256)) == [0.5, 0.75, 2.0]
    found = report.summary(some_results(), 256, 24)
    assert found["target4"] == {"ratio": 0.75, "ci": [0.5, 2.0], "pairs": 3, "better_in": 2}
    assert found["few_images"] == {"ratio": 0.25, "ci": [0.25, 0.25], "pairs": 1, "better_in": 1}


def test_the_toll_of_other_solvers_is_over_its_own_at_few_steps():
    assert sorted(report.toll(some_results(), 256, "target4", 4)) == [16.5, 16.5, 49.5]
    # Its own is not among the others there: at 25 steps the worst of all solvers counts.
    assert report.toll(some_results(), 24, report.FEW_ARM, 25) == [0.5]
    assert report.toll(some_results(), 24, "both", 4) == []


def test_the_page_says_what_the_summary_says():
    floors = {domain: {str(steps): measured(0.12345) for steps in (4, 25)} for domain in domains.DOMAINS}
    page = "\n".join(report.section(some_results(), floors, 256, 24))
    assert "| target_steps 4, 256 images | 0.75 (0.5 to 2) | 2 of 3 |" in page
    assert "| target_steps 4, anchor start, 24 images | 0.25 (0.25 to 0.25) | 1 of 1 |" in page
    # Mean and deviation over the seeds of one domain.
    rows = page.split("### gravel, 256 images")[1].splitlines()
    row = next(line for line in rows if line.startswith(f"| {report.TITLES['target4']}"))
    assert row.split(" | ")[1] == "4 ± 2.8"
    assert next(line for line in rows if line.startswith("| FD by solver")) == (
        "| FD by solver | euler 4 | deis 4 | euler 25 | deis 25 |"
    )
    assert "real against real" in page
