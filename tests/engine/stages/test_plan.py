"""What a stage's memory is planned to be: in the order of what it costs, and by what fits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from fluxduel.tests.engine.conftest import LENGTH, make_data
from fluxduel.tests.engine.small import Small, each_family
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.config import (
    AUTO,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.lora.adapter import FluxLoRA, create
from fluxduel.training.stages.plan import Counting, NoRoom, Plan, Room, asked, choose, demand_of, plan_stage

SIDE, BATCH = 16, 2
JUDGE = DiscriminatorConfig(width=8)
NONE, FEED_FORWARD, BLOCKS = "none", "feed_forward", "blocks"


@pytest.fixture(scope="module")
def automatic(wide_transformer: Path) -> FluxLoRA:
    return create(BaseReference(str(wide_transformer), AUTO), LoRAConfig(rank=3))


@pytest.fixture(scope="module")
def counting(automatic: FluxLoRA, family: Small) -> Counting:
    config = DiffusionStageConfig(batch_size=BATCH)
    # Of one size for all: with pictures that are large for so narrow a base no format of its weights saves anything.
    side = SIDE * FLUX_1.factor // family.family.space.factor
    return Counting(automatic, demand_of(automatic, make_data(side=side, small=family), config, None))


@each_family
def test_a_demand_is_of_the_largest_picture_and_the_longest_prompt(automatic, family):
    data = make_data(side=SIDE, small=family)
    tall = dataclasses.replace(data.samples[3], mean=data.samples[3].mean.repeat(1, 2, 1), std=None)
    data = dataclasses.replace(data, samples=(*data.samples[:3], tall, *data.samples[4:]))
    alone = demand_of(automatic, data, DiffusionStageConfig(batch_size=BATCH), None)
    assert (alone.side, alone.text_tokens, alone.batch_size) == ((2 * SIDE, SIDE), LENGTH, BATCH)
    assert alone.factor == family.family.space.factor
    # The running average; stage 2 also keeps its start.
    assert alone.copies == 1
    assert demand_of(automatic, data, DiffusionStageConfig(ema_decay=0.0), None).copies == 0
    assert demand_of(automatic, data, AdversarialStageConfig(), JUDGE).copies == 2


@each_family
def test_the_less_memory_the_dearer_the_plan(counting):
    """Every plan is chosen where it just fits, and the one before it where a byte more is there than that needs."""
    wanted = asked(AUTO, DiffusionStageConfig())
    order = [
        Plan("bf16", NONE), Plan("bf16", FEED_FORWARD), Plan("bf16", BLOCKS), Plan("int8_convrot", NONE),
        Plan("int8_convrot", FEED_FORWARD), Plan("int8_convrot", BLOCKS), Plan("int8_convrot", BLOCKS, 0.5),
        Plan("int8_convrot", BLOCKS, 0.75),
    ]  # fmt: skip
    peaks = [counting.peak(plan) for plan in order]
    for plan, peak in zip(order, peaks, strict=True):
        found = choose(counting, wanted, peak)
        assert found is not None and found.peak <= peak
        # Another one that comes first may need less than this one.
        first = next(each for each, size in zip(order, peaks, strict=True) if size <= peak)
        if not plan.streamed_share:
            assert found.plan == first
    assert peaks[2] < peaks[1] < peaks[0] and peaks[5] < peaks[4] < peaks[3]
    assert choose(counting, wanted, counting.peak(Plan("int8_convrot", BLOCKS, 1.0)) - 1) is None


@each_family
def test_as_little_is_streamed_as_fits(counting):
    wanted = asked(AUTO, DiffusionStageConfig())
    whole, least = (counting.peak(Plan("int8_convrot", BLOCKS, share)) for share in (0.0, 1.0))
    for usable in (whole - 1, (whole + least) // 2, least):
        found = choose(counting, wanted, usable)
        assert found is not None and found.plan.streamed_share > 0 and found.peak <= usable
        below = round(found.plan.streamed_share - 0.05, 2)
        assert counting.peak(dataclasses.replace(found.plan, streamed_share=below)) > usable


@pytest.mark.parametrize(
    ("settings", "precision", "plans"),
    [
        ({}, "bf16", [("bf16", NONE, 0.0), ("bf16", BLOCKS, 0.0)]),
        ({"gradient_checkpointing": False}, AUTO, [("bf16", NONE, 0.0), ("int8_convrot", NONE, 0.0)]),
        ({"compile_blocks": True}, AUTO, [("bf16", NONE, 0.0), ("bf16", BLOCKS, 0.0)]),
        ({"streamed_share": 0.5}, "int8", [("int8", BLOCKS, 0.5), ("int8", BLOCKS, 0.5)]),
    ],
)
def test_what_the_user_has_settled_stays(counting, settings, precision, plans):
    """With all the memory in the world, and with the least that fits."""
    wanted = asked(precision, DiffusionStageConfig(**settings))
    most, least = (choose(counting, wanted, counting.peak(Plan(*plan)) + extra) for plan, extra in
                   zip(plans, (10**9, 0), strict=True))  # fmt: skip
    assert most is not None and most.plan == Plan(*plans[0])
    assert least is not None and least.plan == Plan(*plans[1])


def refusal(counting: Counting, usable: int, precision: str, **settings: object) -> str:
    start = dataclasses.replace(counting.start, base=dataclasses.replace(counting.start.base, precision=precision))
    settled, room = dataclasses.replace(counting, start=start), Room(usable, usable)
    with pytest.raises(NoRoom) as caught:
        plan_stage(settled, DiffusionStageConfig(**settings), room, precision)
    return str(caught.value)


@each_family
def test_a_refusal_names_the_cheapest_change_that_fits(counting):
    one = counting.of(dataclasses.replace(counting.demand, batch_size=1))
    text = refusal(counting, counting.peak(Plan("bf16", BLOCKS)), "bf16", gradient_checkpointing=False)
    assert "What fits: turn gradient_checkpointing on (" in text
    text = refusal(counting, one.peak(Plan("bf16", BLOCKS)), "bf16")
    assert "What fits: set batch_size to 1, and raise gradient_accumulation to make up for it (" in text
    usable = one.peak(Plan("bf16", BLOCKS, 0.5))
    text = refusal(one, usable, "bf16")
    share = float(re.search(r"What fits: raise streamed_share to ([0-9.]+) \(", text)[1])
    assert one.peak(Plan("bf16", BLOCKS, share)) <= usable < one.peak(Plan("bf16", BLOCKS, share - 0.05))
    usable = one.peak(Plan("int8_convrot", BLOCKS, 1.0))
    assert usable < one.peak(Plan("bf16", BLOCKS, 1.0))
    assert "What fits: set precision to auto (" in refusal(one, usable, "bf16")


def test_what_the_user_has_settled_may_take_all_that_is_free(counting):
    """The margin is for what is chosen by itself."""
    start = dataclasses.replace(counting.start, base=dataclasses.replace(counting.start.base, precision="bf16"))
    settled, plan = dataclasses.replace(counting, start=start), Plan("bf16", BLOCKS)
    peak = counting.peak(plan)
    assert plan_stage(settled, DiffusionStageConfig(), Room(peak - 1, peak), "bf16").plan == plan
    with pytest.raises(NoRoom):
        plan_stage(settled, DiffusionStageConfig(), Room(peak - 1, peak - 1), "bf16")
    assert plan_stage(counting, DiffusionStageConfig(), Room(peak - 1, peak), AUTO).plan.precision == "int8_convrot"


@each_family
def test_a_refusal_asks_for_smaller_pictures_last(counting, family):
    """Of 1024 pixels, with room for 512."""
    one = dataclasses.replace(counting.demand, batch_size=1)
    sides = [pixels // family.family.space.factor for pixels in (512, 1024)]
    small, large = (counting.of(dataclasses.replace(one, side=(side, side))) for side in sides)
    text = refusal(large, small.peak(Plan("int8_convrot", BLOCKS, 1.0)), AUTO)
    assert "What fits: encode the pictures at a resolution of 512 (" in text


def test_a_refusal_without_a_way_out_says_so(counting):
    text = refusal(counting.of(dataclasses.replace(counting.demand, batch_size=1)), 1000, AUTO)
    assert text.endswith(
        "Lower the rank, train fewer layers (targets), or take a larger card: no other setting makes it fit."
    )


def test_a_refusal_tells_of_the_limit_where_that_is_what_binds(counting):
    one = counting.of(dataclasses.replace(counting.demand, batch_size=1))
    peak, least = one.peak(Plan("int8_convrot", BLOCKS, 1.0)), 1000
    wanted = r"^Stage 1 does not fit: int8_convrot.*What fits: raise memory_limit_gb to 0\.\d+\.$"
    with pytest.raises(NoRoom, match=wanted):
        plan_stage(one, DiffusionStageConfig(), Room(least, least, 2 * peak), AUTO)
    with pytest.raises(NoRoom, match="or raise memory_limit_gb: no other setting"):
        plan_stage(one, DiffusionStageConfig(), Room(least, least, least + 1), AUTO)


def test_a_run_that_goes_on_is_not_told_to_take_what_it_has(counting):
    """Its base is on auto already, and it is held to the format that it began in."""
    one = counting.of(dataclasses.replace(counting.demand, batch_size=1))
    usable = one.peak(Plan("int8_convrot", BLOCKS, 1.0))
    assert usable < one.peak(Plan("bf16", BLOCKS, 1.0))
    with pytest.raises(NoRoom) as caught:
        plan_stage(one, DiffusionStageConfig(), Room(usable, usable), "bf16")
    assert "The run began in bf16 and goes on in that. With another seed" in str(caught.value)
    assert "precision to auto" not in str(caught.value)
    assert plan_stage(one, DiffusionStageConfig(), Room(10**9, 10**9), "bf16").text.startswith(
        "Memory, in the format in which the run began: bf16, nothing computed anew."
    )


def test_a_plan_tells_what_it_is_and_what_did_not_fit(counting):
    wanted = asked(AUTO, DiffusionStageConfig())
    found = choose(counting, wanted, counting.peak(Plan("int8_convrot", BLOCKS, 1.0)))
    assert found is not None
    first, *rest = found.text.splitlines()
    assert first.startswith("Memory: int8_convrot, every block computed anew, ")
    assert [line.split(",")[0].strip() for line in rest] == ["bf16", "int8_convrot"]


def test_cheaper_plans_end_where_all_is_streamed():
    plan, seen = Plan("bf16", NONE), []
    while plan is not None:
        seen.append((plan.checkpointing, plan.streamed_share))
        plan = plan.cheaper()
    assert seen == [(NONE, 0), (FEED_FORWARD, 0), (BLOCKS, 0), *((BLOCKS, share) for share in (0.25, 0.5, 0.75, 1.0))]
