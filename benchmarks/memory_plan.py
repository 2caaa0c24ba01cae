"""What FLUX.1 needs on cards of each size, counted from shapes on the meta device: no card is asked for.

    python -m fluxduel.benchmarks.memory_plan

prints the table of ``docs/PERFORMANCE.md``: by stage and picture side the peak in GiB in each number format, and for
each card the first that fits: bf16, int8, or int8 with the smallest ``streamed_share``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fluxduel.tests.full_size import TOKENS, full_size_reference
from fluxduel.training.config import DiscriminatorConfig, LoRAConfig
from fluxduel.training.lora import adapter
from fluxduel.training.stages.rehearsal import Counted, Demand, rehearse

GIB = 2**30
CARDS = (8, 12, 16, 24, 48)
SIDES = (512, 768, 1024)
# The driver, the desktop and the allocator's losses take a part of a card; a CUDA context is the same on all of them.
USABLE, CONTEXT = 0.94, 0.6
STEP = 0.05


def first_that_fits(bf16: Counted, int8: Counted, card: int) -> str:
    """The setting for a card of so many GiB, in words."""
    usable = (USABLE * card - CONTEXT) * GIB
    if bf16.with_streamed(0) <= usable:
        return "bf16"
    for number in range(round(1 / STEP) + 1):
        if int8.with_streamed(number * STEP) <= usable:
            return f"int8, {number * STEP:.2g} streamed" if number else "int8"
    return "no"


def main() -> None:
    print("| | px | bf16 | int8 | int8, all streamed | " + " | ".join(f"{card} GB" for card in CARDS) + " |")
    print("|" + "---|" * (5 + len(CARDS)))
    with tempfile.TemporaryDirectory() as folder:
        start = adapter.create(full_size_reference(Path(folder)), LoRAConfig(rank=16, alpha=16.0))
        for stage, judge in (("stage 1", None), ("stage 2", DiscriminatorConfig())):
            for side in SIDES:
                demand = Demand((side // 8, side // 8), TOKENS, discriminator=judge)
                bf16, int8 = (rehearse(start, precision, demand) for precision in ("bf16", "int8_convrot"))
                peaks = [bf16.with_streamed(0), int8.with_streamed(0), int8.with_streamed(1)]
                cells = [stage, str(side), *(f"{peak / GIB:.1f}" for peak in peaks)]
                cells += [first_that_fits(bf16, int8, card) for card in CARDS]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
