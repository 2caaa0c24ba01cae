"""What a model needs on cards of each size, counted from shapes on the meta device: no card is asked for.

    python -m fluxduel.benchmarks.memory_plan ["FLUX.2 klein 4B"]

prints the table of ``docs/PERFORMANCE.md``: by stage and picture side the peak in GiB in each number format, every
block computed anew, and for each card what ``precision = auto`` comes to; of FLUX.1-dev without a name. Takes a few
minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from fluxduel.tests.full_size import TOKENS, full_size_reference
from fluxduel.training.base.families.flux2 import FLUX2
from fluxduel.training.config import AUTO, DiffusionStageConfig, DiscriminatorConfig, LoRAConfig
from fluxduel.training.lora import adapter
from fluxduel.training.lora.value import base_family
from fluxduel.training.stages.plan import GIB, Chosen, Counting, Plan, asked, choose
from fluxduel.training.stages.rehearsal import Demand

CARDS = (8, 12, 16, 24, 48)
SIDES = (512, 768, 1024)
# The driver, the desktop and the allocator's losses take a part of a card; a CUDA context is the same on all of them.
USABLE, CONTEXT = 0.94, 0.6
LEVELS = {"none": "nothing anew", "feed_forward": "feed-forward anew", "blocks": ""}


def told(found: Chosen | None) -> str:
    """The plan in a cell; where every block is computed anew, which is usual, that is not said."""
    if found is None:
        return "no"
    plan = found.plan
    streamed = f"{plan.streamed_share:.0%} streamed" if plan.streamed_share else ""
    return ", ".join(part for part in (plan.precision, LEVELS[plan.checkpointing], streamed) if part)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fluxduel.benchmarks.memory_plan")
    parser.add_argument("model", nargs="?", default="", choices=["", *FLUX2.published])
    model = parser.parse_args().model
    print("| | px | bf16 | int8 | int8, all streamed | " + " | ".join(f"{card} GB" for card in CARDS) + " |")
    print("|" + "---|" * (5 + len(CARDS)))
    with tempfile.TemporaryDirectory() as folder:
        reference = replace(full_size_reference(Path(folder), model), precision=AUTO)
        factor = base_family(reference).space.factor
        start = adapter.create(reference, LoRAConfig(rank=16, alpha=16.0))
        for stage, judge in (("stage 1", None), ("stage 2", DiscriminatorConfig())):
            for side in SIDES:
                # Besides what the optimiser has of the LoRA, its running average, and in stage 2 its start.
                latents, copies = (side // factor, side // factor), 1 + (judge is not None)
                demand = Demand(latents, TOKENS, discriminator=judge, copies=copies, factor=factor)
                counting = Counting(start, demand)
                plans = [Plan("bf16", "blocks"), Plan("int8_convrot", "blocks"), Plan("int8_convrot", "blocks", 1.0)]
                cells = [stage, str(side), *(f"{counting.peak(plan) / GIB:.1f}" for plan in plans)]
                for card in CARDS:
                    usable = int((USABLE * card - CONTEXT) * GIB)
                    cells.append(told(choose(counting, asked(AUTO, DiffusionStageConfig()), usable)))
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
