"""Order, pairing and random draws of the training batches, on a hand-made dataset."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from fluxduel.training import draws
from fluxduel.training.data.batches import held_out_batches, in_few_step_mode, micro_batches
from fluxduel.training.data.real_latents import LatentSample, Prompt, RealLatents

EMPTY = -1.0


def make_prompt(value: float, length: int = 3) -> Prompt:
    return Prompt(f"caption {value:g}", torch.full((length, 5), value), torch.full((4,), value))


def make_sample(index: int, size: tuple[int, int] = (4, 6), std: float | None = None, **changes) -> LatentSample:
    """Sample and prompt ``index`` are filled with the number ``index``, so that a mismatch shows."""
    shape = (16, *size)
    sample = LatentSample(
        name=f"picture {index}",
        mean=torch.full(shape, float(index)),
        std=None if std is None else torch.full(shape, std),
        flipped_mean=None,
        flipped_std=None,
        mask=None,
        prompt=index,
    )
    return dataclasses.replace(sample, **changes)


def make_data(samples: list[LatentSample], *, held_out=(), lengths=None, empty_length: int = 3) -> RealLatents:
    lengths = lengths or [3] * len(samples)
    prompts = tuple(make_prompt(float(index), length) for index, length in enumerate(lengths))
    return RealLatents(tuple(samples), prompts, make_prompt(EMPTY, empty_length), tuple(held_out), "hand-made")


def two_sizes(held_out=()) -> RealLatents:
    return make_data([make_sample(i, (4, 6) if i < 7 else (6, 4), std=0.25) for i in range(10)], held_out=held_out)


def draw(data: RealLatents, step: int, batch_size: int = 2, gradient_accumulation: int = 2, **options):
    options = {"seed": 5, **options}
    return micro_batches(data, step=step, batch_size=batch_size, gradient_accumulation=gradient_accumulation, **options)


def test_shapes_and_types() -> None:
    batches = draw(two_sizes(), 0, batch_size=3, gradient_accumulation=2)
    assert len(batches) == 2
    for batch in batches:
        assert batch.x0.shape in {(3, 16, 4, 6), (3, 16, 6, 4)}
        assert batch.prompt_embeds.shape == (3, 3, 5)
        assert batch.pooled_prompt_embeds.shape == (3, 4)
        assert batch.mask is None
        assert batch.x0.dtype == batch.prompt_embeds.dtype == batch.pooled_prompt_embeds.dtype == torch.float32
    assert batches[0].x0.shape == batches[1].x0.shape
    assert [batch.positions for batch in batches] == [(0, 1, 2), (3, 4, 5)]


def test_each_sample_comes_with_its_own_name_latents_and_prompt() -> None:
    data = make_data([make_sample(i, (4, 6) if i < 7 else (6, 4)) for i in range(10)])
    for step in range(20):
        for batch in draw(data, step):
            for row, name in enumerate(batch.names):
                index = float(name.removeprefix("picture "))
                assert (batch.x0[row] == index).all()
                assert (batch.prompt_embeds[row] == index).all()
                assert (batch.pooled_prompt_embeds[row] == index).all()


def test_four_singles_equal_one_batch_of_four() -> None:
    flipped = [
        make_sample(i, std=0.25, flipped_mean=torch.full((16, 4, 6), -float(i)), flipped_std=torch.ones(16, 4, 6))
        for i in range(9)
    ]
    masked = [dataclasses.replace(s, mask=torch.rand(1, 4, 6) if i % 3 else None) for i, s in enumerate(flipped)]
    data = make_data(masked)
    for step in range(12):
        singles = draw(data, step, batch_size=1, gradient_accumulation=4, caption_dropout=0.5)
        (whole,) = draw(data, step, batch_size=4, gradient_accumulation=1, caption_dropout=0.5)
        assert tuple(name for batch in singles for name in batch.names) == whole.names
        assert tuple(place for batch in singles for place in batch.positions) == whole.positions == (0, 1, 2, 3)
        for field in ("x0", "prompt_embeds", "pooled_prompt_embeds", "mask"):
            assert torch.equal(torch.cat([getattr(batch, field) for batch in singles]), getattr(whole, field)), field


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    forwards = {step: draw(two_sizes(), step, caption_dropout=0.3) for step in range(15)}
    data = two_sizes()
    for step in (14, 3, 3, 0, 9, 1):
        for one, other in zip(draw(data, step, caption_dropout=0.3), forwards[step], strict=True):
            assert one.names == other.names
            assert torch.equal(one.x0, other.x0)
            assert torch.equal(one.prompt_embeds, other.prompt_embeds)


def test_seeds_differ_in_order_and_noise() -> None:
    data = two_sizes()
    orders = {tuple(name for step in range(6) for b in draw(data, step, seed=s) for name in b.names) for s in range(5)}
    assert len(orders) == 5
    single = make_data([make_sample(0, std=1.0)])
    assert not torch.equal(draw(single, 0, seed=1)[0].x0, draw(single, 0, seed=2)[0].x0)
    assert not torch.equal(draw(single, 0)[0].x0, draw(single, 1)[0].x0)


def names_of_steps(data: RealLatents, steps: range, size: int, seed: int = 5) -> list[str]:
    return [name for step in steps for batch in draw(data, step, size, 1, seed=seed) for name in batch.names]


@pytest.mark.parametrize(("batch_size", "gradient_accumulation"), [(1, 1), (2, 1), (2, 2), (3, 1), (8, 2)])
def test_every_training_sample_comes_equally_often(batch_size: int, gradient_accumulation: int) -> None:
    data = two_sizes(held_out=(2, 8))
    for first in (0, 8, 64):
        seen = Counter(
            name
            for step in range(first, first + 8)
            for batch in draw(data, step, batch_size, gradient_accumulation)
            for name in batch.names
        )
        assert seen == {f"picture {i}": batch_size * gradient_accumulation for i in range(10) if i not in (2, 8)}


def test_a_lone_picture_is_drawn_as_often_as_one_of_eighteen() -> None:
    data = make_data([make_sample(i, (4, 6) if i < 18 else (6, 4)) for i in range(19)])
    seen = Counter(names_of_steps(data, range(19 * 25), 4))
    assert set(seen.values()) == {100}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_no_group_gets_ahead_for_long(size: int) -> None:
    lengths = {(4, 4): 1, (4, 6): 2, (4, 8): 3, (6, 4): 5, (8, 4): 20}
    shapes = [shape for shape, length in lengths.items() for _ in range(length)]
    data = make_data([make_sample(i, shape) for i, shape in enumerate(shapes)])
    drawn: Counter[tuple[int, int]] = Counter()
    for step in range(150):
        drawn[tuple(draw(data, step, size, 1)[0].x0.shape[2:])] += 1
        for shape, length in lengths.items():
            # Within an epoch a group comes in any place: it is off by what it has in one, and by the parts of a batch.
            assert abs(drawn[shape] - (step + 1) * length / 31) < length / size + 2


def test_who_uses_every_other_step_still_sees_all() -> None:
    """Stage 2 draws the LoRA's updates from every second step or so: two small groups must not take turns for ever."""
    data = make_data([make_sample(i, (4, 6) if i < 2 else (6, 4)) for i in range(4)])
    for stride in (2, 3, 4):
        seen = Counter(names_of_steps(data, range(0, 400 * stride, stride), 4))
        # 400 draws of one of two groups, each of which holds 2 of each of its pictures.
        assert all(abs(count - 400) < 5 * 20 for count in seen.values()), (stride, seen)
        assert len(seen) == 4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_one_group_that_the_batch_divides_is_shuffled_anew_in_each_epoch(size: int) -> None:
    """The order that earlier versions had: a permutation an epoch, cut into batches, those in a random order."""
    data = make_data([make_sample(i) for i in range(12)])
    expected = []
    for epoch in range(15):
        order = torch.randperm(12, generator=draws.generator(5, epoch, 0, "data/samples")).tolist()
        batches = [order[start : start + size] for start in range(0, 12, size)]
        places = torch.randperm(len(batches), generator=draws.generator(5, epoch, 0, "data/batches")).tolist()
        expected += [f"picture {index}" for place in places for index in batches[place]]
    assert names_of_steps(data, range(15 * 12 // size), size) == expected


def test_a_group_smaller_than_the_batch_repeats_its_samples_evenly() -> None:
    data = two_sizes()
    by_size = {batch.x0.shape[2:]: batch for step in range(10) for batch in draw(data, step, 8, 1)}
    assert set(by_size) == {(4, 6), (6, 4)}
    names = by_size[6, 4].names
    assert {names.count(f"picture {i}") for i in (7, 8, 9)} <= {2, 3, 4}
    # The same picture twice in a batch is not the same sample: its draws differ.
    first, second = [row for row, name in enumerate(names) if name == names[0]][:2]
    assert not torch.equal(by_size[6, 4].x0[first], by_size[6, 4].x0[second])


def test_a_batch_holds_one_prompt_length() -> None:
    data = make_data([make_sample(i) for i in range(8)], lengths=[3, 3, 7, 3, 7, 3, 3, 3])
    seen = set()
    for step in range(8):
        lengths = {batch.prompt_embeds.shape[1] for batch in draw(data, step)}
        assert len(lengths) == 1
        seen |= lengths
    assert seen == {3, 7}


def test_held_out_samples_are_never_trained_on() -> None:
    data = two_sizes(held_out=(0, 4, 9))
    trained = {name for step in range(40) for batch in draw(data, step) for name in batch.names}
    assert trained.isdisjoint({"picture 0", "picture 4", "picture 9"})
    assert data.training == (1, 2, 3, 5, 6, 7, 8)


def test_posterior_samples_have_the_posteriors_mean_and_deviation() -> None:
    mean, std = torch.randn(16, 4, 6), torch.rand(16, 4, 6) + 0.1
    data = make_data([dataclasses.replace(make_sample(0), mean=mean, std=std)])
    drawn = torch.cat([draw(data, step, 50, 1)[0].x0 for step in range(40)])
    errors = (drawn.mean(0) - mean) / std
    # 2000 draws: the mean's standard error is std / 44.7, the deviation's relative error 1 / 63.
    assert errors.abs().max() < 5 / 2000**0.5
    assert (drawn.std(0) / std - 1).abs().max() < 5 / 4000**0.5
    assert abs(errors.mean()) < 5 / (2000 * mean.numel()) ** 0.5


def test_a_deterministic_vae_gives_its_latents() -> None:
    mean = torch.randn(16, 4, 6)
    data = make_data([make_sample(0, mean=mean)])
    assert torch.equal(draw(data, 3, 1, 1)[0].x0[0], mean)


def test_flips_are_used_half_of_the_time_with_their_own_encoding_and_mask() -> None:
    mask = torch.rand(1, 4, 6)
    data = make_data([make_sample(0, flipped_mean=torch.full((16, 4, 6), 9.0), mask=mask)])
    flips = 0
    for step in range(100):
        (batch,) = draw(data, step, 10, 1)
        for x0, own_mask in zip(batch.x0, batch.mask, strict=True):
            flipped = bool((x0 == 9.0).all())
            assert flipped or (x0 == 0.0).all()
            assert torch.equal(own_mask, mask.flip(-1) if flipped else mask)
            flips += flipped
    assert abs(flips - 500) < 5 * 250**0.5


def test_without_a_flipped_encoding_nothing_is_flipped() -> None:
    mask = torch.rand(1, 4, 6)
    data = make_data([make_sample(0, mask=mask)])
    assert all(torch.equal(m, mask) for step in range(10) for b in draw(data, step, 4, 1) for m in b.mask)


def test_a_missing_mask_beside_a_mask_is_ones() -> None:
    mask = torch.rand(1, 4, 6)
    data = make_data([make_sample(0, mask=mask), make_sample(1)])
    batches = draw(data, 0, 1, 2)
    masks = {name: m for batch in batches for name, m in zip(batch.names, batch.mask, strict=True)}
    assert torch.equal(masks["picture 0"], mask)
    assert torch.equal(masks["picture 1"], torch.ones(1, 4, 6))


def is_dropped(batch) -> list[bool]:
    dropped = (batch.prompt_embeds == EMPTY).flatten(1).all(1)
    assert torch.equal(dropped, (batch.pooled_prompt_embeds == EMPTY).all(1))
    return dropped.tolist()


def test_caption_dropout_per_sample() -> None:
    data = make_data([make_sample(i) for i in range(4)])
    dropped = [is_dropped(draw(data, step, 10, 1, caption_dropout=0.2)[0]) for step in range(100)]
    assert abs(sum(map(sum, dropped)) - 200) < 5 * 160**0.5
    assert any(0 < sum(batch) < 10 for batch in dropped)
    assert not any(any(is_dropped(batch)) for step in range(20) for batch in draw(data, step))
    assert all(all(is_dropped(batch)) for step in range(20) for batch in draw(data, step, caption_dropout=1.0))


def test_caption_dropout_of_a_shorter_empty_prompt_takes_the_whole_global_batch() -> None:
    data = make_data([make_sample(i) for i in range(4)], empty_length=2)
    counts = []
    for step in range(300):
        batches = draw(data, step, 2, 2, caption_dropout=0.3)
        counts.append(sum(sum(is_dropped(batch)) for batch in batches))
        assert {batch.prompt_embeds.shape[1] for batch in batches} == ({2} if counts[-1] else {3})
    assert set(counts) == {0, 4}
    assert abs(counts.count(4) - 90) < 5 * 63**0.5


def test_dropout_changes_neither_samples_nor_noise() -> None:
    data = two_sizes()
    for step in range(5):
        for plain, dropped in zip(draw(data, step), draw(data, step, caption_dropout=0.9), strict=True):
            assert plain.names == dropped.names
            assert torch.equal(plain.x0, dropped.x0)


def test_held_out_batches_give_means_in_any_batch_size() -> None:
    data = two_sizes(held_out=(1, 3, 5, 8, 9))
    for batch_size in (1, 2, 16):
        places = {}
        for batch in held_out_batches(data, batch_size):
            assert len(batch.names) <= batch_size
            for row, name in enumerate(batch.names):
                index = float(name.removeprefix("picture "))
                assert (batch.x0[row] == index).all()
                assert (batch.prompt_embeds[row] == index).all()
                places[name] = batch.positions[row]
        assert places == {"picture 1": 0, "picture 3": 1, "picture 5": 2, "picture 8": 3, "picture 9": 4}


def test_held_out_repeats_come_once_per_caption() -> None:
    sample = make_sample(0)
    other_caption = dataclasses.replace(sample, prompt=1)
    other_mask = dataclasses.replace(sample, mask=torch.ones(1, 4, 6))
    data = make_data([sample, sample, other_caption, other_mask, make_sample(4)], held_out=(0, 1, 2, 3))
    (batch,) = held_out_batches(data, 8)
    assert len(batch.names) == 3
    assert batch.prompt_embeds[:, 0, 0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_of_many_held_out_samples_some_are_drawn(batch_size: int) -> None:
    """Different ones, however often each repeats, and the same with the same draws in any batch size."""
    samples = [make_sample(index // 3, (4, 6) if index % 2 else (6, 4)) for index in range(120)]
    samples = [dataclasses.replace(sample, prompt=0) for sample in samples]
    data = make_data(samples, held_out=range(120))

    def found(batch_size: int, most: int | None) -> dict[tuple[str, tuple[int, ...]], int]:
        return {
            (name, tuple(batch.x0.shape[1:])): position
            for batch in held_out_batches(data, batch_size, most=most)
            for name, position in zip(batch.names, batch.positions, strict=True)
        }

    chosen = found(batch_size, 10)
    assert len(chosen) == 10 and sorted(chosen.values()) == list(range(10)) and chosen == found(7, 10)
    assert max(int(name.split()[1]) for name, _ in chosen) >= 20
    everything = found(batch_size, None)
    assert len(everything) == 80 == len(found(batch_size, 80)) and set(chosen) < set(everything)


def test_no_held_out_samples_no_batches() -> None:
    assert list(held_out_batches(two_sizes(), 4)) == []


# Two samplers

PHRASE = 100.0


def with_few_step_prompts(data: RealLatents) -> RealLatents:
    """The few-step prompt of prompt k is filled with the number k + PHRASE, the empty one with EMPTY + PHRASE."""
    few_step = [make_prompt(k + PHRASE, prompt.prompt_embeds.shape[0]) for k, prompt in enumerate(data.prompts)]
    return dataclasses.replace(
        data,
        few_step_prompts=tuple(few_step),
        few_step_empty_prompt=make_prompt(EMPTY + PHRASE, data.empty_prompt.prompt_embeds.shape[0]),
        few_step_phrase="fast",
    )


def prompt_numbers(batch) -> list[float]:
    """The number that each row's prompt is filled with, in both embeddings."""
    numbers = batch.pooled_prompt_embeds[:, 0].tolist()
    for row, number in enumerate(numbers):
        assert (batch.prompt_embeds[row] == number).all() and (batch.pooled_prompt_embeds[row] == number).all()
    return numbers


@pytest.mark.parametrize("positions", [(0, 1), (0, 1, 2, 3), tuple(range(16))])
def test_half_of_an_even_global_batch_is_for_the_few_step_sampler(positions: tuple[int, ...]) -> None:
    firsts = set()
    for step in range(30):
        modes = in_few_step_mode(step, positions)
        assert len(modes) == len(positions) == 2 * sum(modes)
        assert modes == in_few_step_mode(step, positions)
        assert modes == tuple(mode for position in positions for mode in in_few_step_mode(step, (position,)))
        firsts.add(modes[0])
    assert firsts == {True, False}


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
def test_a_single_sample_serves_both_samplers_whatever_the_stride_of_the_steps(stride: int) -> None:
    # Steps of the LoRA's updates lie discriminator_updates + 1 apart.
    few = sum(in_few_step_mode(51 + stride * k, (0,))[0] for k in range(1000))
    assert abs(few - 500) < 5 * 250**0.5


@pytest.mark.parametrize(("batch_size", "gradient_accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_few_step_samples_carry_their_few_step_prompts(batch_size: int, gradient_accumulation: int) -> None:
    data = with_few_step_prompts(make_data([make_sample(i) for i in range(9)]))
    for step in range(12):
        batches = draw(data, step, batch_size, gradient_accumulation, two_samplers=True)
        modes = tuple(mode for batch in batches for mode in batch.few_step)
        assert modes == in_few_step_mode(step, range(4)) and sum(modes) == 2
        for batch in batches:
            own = [float(name.removeprefix("picture ")) for name in batch.names]
            expected = [number + PHRASE * mode for number, mode in zip(own, batch.few_step, strict=True)]
            assert prompt_numbers(batch) == expected


def test_four_singles_equal_one_batch_of_four_with_two_samplers() -> None:
    data = with_few_step_prompts(make_data([make_sample(i, std=0.25) for i in range(9)]))
    for step in range(12):
        singles = draw(data, step, 1, 4, caption_dropout=0.5, two_samplers=True)
        (whole,) = draw(data, step, 4, 1, caption_dropout=0.5, two_samplers=True)
        assert tuple(mode for batch in singles for mode in batch.few_step) == whole.few_step
        for field in ("x0", "prompt_embeds", "pooled_prompt_embeds"):
            assert torch.equal(torch.cat([getattr(batch, field) for batch in singles]), getattr(whole, field)), field


def test_two_samplers_change_prompts_alone() -> None:
    data = with_few_step_prompts(two_sizes())
    for step in range(8):
        for one, two in zip(draw(data, step), draw(data, step, two_samplers=True), strict=True):
            assert one.names == two.names and one.positions == two.positions
            assert torch.equal(one.x0, two.x0)
            assert one.few_step == () and max(prompt_numbers(one)) < PHRASE


def test_without_few_step_prompts_the_modes_are_marked_and_the_prompts_plain() -> None:
    data = make_data([make_sample(i) for i in range(4)])
    for step in range(8):
        (batch,) = draw(data, step, 4, 1, two_samplers=True, caption_dropout=0.3)
        (plain,) = draw(data, step, 4, 1, caption_dropout=0.3)
        assert sum(batch.few_step) == 2
        assert torch.equal(batch.prompt_embeds, plain.prompt_embeds)


def test_a_dropped_caption_keeps_the_phrase_of_its_sampler() -> None:
    data = with_few_step_prompts(make_data([make_sample(i) for i in range(4)]))
    seen = set()
    for step in range(20):
        (batch,) = draw(data, step, 4, 1, caption_dropout=0.5, two_samplers=True)
        (plain,) = draw(data, step, 4, 1, caption_dropout=0.5)
        for number, mode, dropped in zip(prompt_numbers(batch), batch.few_step, is_dropped(plain), strict=True):
            assert (number >= EMPTY + PHRASE) == mode
            assert (number in (EMPTY, EMPTY + PHRASE)) == dropped
            seen.add((mode, dropped))
    assert len(seen) == 4


def test_caption_dropout_of_the_whole_batch_keeps_the_phrase() -> None:
    data = with_few_step_prompts(make_data([make_sample(i) for i in range(4)], empty_length=2))
    (batch,) = draw(data, 0, 4, 1, caption_dropout=1.0, two_samplers=True)
    assert batch.prompt_embeds.shape[1] == 2
    assert prompt_numbers(batch) == [EMPTY + PHRASE * mode for mode in batch.few_step]


def test_dropout_for_two_samplers_needs_the_phrase_alone() -> None:
    data = with_few_step_prompts(make_data([make_sample(i) for i in range(4)]))
    data = dataclasses.replace(data, few_step_empty_prompt=None)
    draw(data, 0, two_samplers=True)
    draw(data, 0, caption_dropout=0.5)
    with pytest.raises(ValueError, match="caption_dropout needs few_step_empty_prompt"):
        draw(data, 0, two_samplers=True, caption_dropout=0.5)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_held_out_batches_for_the_few_step_sampler(batch_size: int) -> None:
    data = with_few_step_prompts(two_sizes(held_out=(1, 3, 5, 8, 9)))
    pairs = zip(held_out_batches(data, batch_size), held_out_batches(data, batch_size, few_step=True), strict=True)
    for plain, few_step in pairs:
        assert plain.few_step == () and few_step.few_step == (True,) * len(few_step.names)
        assert plain.names == few_step.names and plain.positions == few_step.positions
        assert torch.equal(plain.x0, few_step.x0)
        assert prompt_numbers(few_step) == [number + PHRASE for number in prompt_numbers(plain)]


def test_held_out_batches_without_few_step_prompts_keep_the_plain_ones() -> None:
    data = two_sizes(held_out=(1,))
    (batch,) = held_out_batches(data, 1, few_step=True)
    assert batch.few_step == (True,) and prompt_numbers(batch) == [1.0]


def test_any_number_of_latent_channels_is_batched() -> None:
    four = {"mean": torch.zeros(4, 4, 6), "std": torch.ones(4, 4, 6)}
    data = make_data([dataclasses.replace(make_sample(i), **four) for i in range(3)], held_out=(2,))
    assert draw(data, 0, 2, 1)[0].x0.shape == (2, 4, 4, 6)
    assert next(held_out_batches(data, 1)).x0.shape == (1, 4, 4, 6)


def test_to_moves_every_tensor() -> None:
    data = make_data([make_sample(0, mask=torch.ones(1, 4, 6))])
    moved = draw(data, 0, two_samplers=True)[0].to("meta")
    assert {t.device.type for t in (moved.x0, moved.prompt_embeds, moved.pooled_prompt_embeds, moved.mask)} == {"meta"}
    assert moved.names == ("picture 0", "picture 0") and moved.positions == (0, 1)
    assert moved.few_step == in_few_step_mode(0, (0, 1))
    assert draw(two_sizes(), 0)[0].to("meta").mask is None


def test_numbers_out_of_range() -> None:
    data = two_sizes()
    for options, message in (
        ({"batch_size": 0}, "batch_size and gradient_accumulation must be at least 1, got 0 and 2"),
        ({"gradient_accumulation": 0}, "got 2 and 0"),
        ({"step": -1}, "step must be at least 0, got -1"),
        ({"caption_dropout": 1.5}, "caption_dropout must be from 0 to 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(data, **{"step": 0, **options})
    with pytest.raises(ValueError, match="no training samples"):
        draw(two_sizes(held_out=range(10)), 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        list(held_out_batches(data, 0))


@pytest.mark.parametrize("two_samplers", [False, True])
@pytest.mark.parametrize(("ranks", "batch_size", "gradient_accumulation"), [(2, 1, 2), (2, 2, 1), (4, 1, 1)])
def test_the_ranks_share_what_one_would_have(
    ranks: int, batch_size: int, gradient_accumulation: int, two_samplers: bool
) -> None:
    """Put together, in the order of the ranks, their batches are the single process's: samples, draws, places."""
    mask = torch.zeros(1, 4, 6)
    mask[..., :2] = 1
    samples = [
        make_sample(i, std=0.25, flipped_mean=torch.full((16, 4, 6), -float(i)), mask=mask if i == 3 else None)
        for i in range(9)
    ]
    data = make_data(samples)
    options = {"caption_dropout": 0.4, "two_samplers": two_samplers}
    masks = 0
    for step in range(12):
        whole = draw(data, step, batch_size, gradient_accumulation * ranks, **options)
        parts = [
            batch
            for rank in range(ranks)
            for batch in draw(data, step, batch_size, gradient_accumulation, share=(rank, ranks), **options)
        ]
        for expected, found in zip(whole, parts, strict=True):
            assert (expected.names, expected.positions) == (found.names, found.positions)
            assert expected.few_step == found.few_step
            for name in ("x0", "prompt_embeds", "pooled_prompt_embeds"):
                assert torch.equal(getattr(expected, name), getattr(found, name))
            assert (expected.mask is None) == (found.mask is None)
            masks += expected.mask is not None
    assert masks
