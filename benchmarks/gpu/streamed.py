"""Steps of stage 1 with a share of the base's blocks in the computer's memory, against what bounds them."""

from __future__ import annotations

from typing import Any

from fluxduel.training.base.ring import Ring
from fluxduel.training.base.streaming import streamer_of

from .rows import in_precision, steps_of, told
from .subject import WARM_UP, Subject, gib


def streamed(subject: Subject, pixels: int, precision: str, share: float) -> dict[str, Any]:
    """Seconds of a step; of the same with the whole base on the device (``compute``); of a step's copies (``copy``).

    Both at once would take the longer of the two: ``exposed`` is what a step takes beyond that, and ``over_bound`` how
    many times as long it takes. On the CPU one core does both, one after the other.
    """
    if (precision, pixels) not in subject.alone:
        in_precision(subject, pixels, precision)
        subject.settle()
    compute = subject.alone[precision, pixels]
    stage, made = subject.cost(lambda: subject.stage_1(pixels, precision, streamed_share=share))
    streamer = streamer_of(stage.base)
    if streamer is None:
        raise AssertionError("nothing is streamed")
    ring, step = streamer.ring, steps_of(stage)
    values = subject.each(step, WARM_UP)[0][1]
    before = (ring.copies, ring.copied)
    step()
    copies, copied = ring.copies - before[0], ring.copied - before[1]
    seconds, steps = subject.cost(lambda: subject.median(step))
    of_one = _seconds_per_byte(subject, ring, len(streamer.blocks))
    copy = copied * of_one
    bound = max(compute, copy)
    return {
        "made": made,
        "steps": steps,
        "seconds": round(seconds, 4),
        "at_first": told(values),
        "compute": round(compute, 4),
        "copy": round(copy, 4),
        "exposed": round(seconds - bound, 4),
        "over_bound": round(seconds / bound, 3),
        "blocks": len(streamer.blocks),
        "copies": copies,
        "copied_gib": gib(copied),
        "gb_per_s": round(1e-9 / of_one, 2) if of_one else None,
        "pinned": round(ring.locked_bytes / ring.host_bytes, 3),
        "notes": stage.take_notes(),
    }


def _seconds_per_byte(subject: Subject, ring: Ring, blocks: int) -> float:
    """The mean over all blocks forth and back, with nothing computed beside it.

    0 where the ring holds all of them at once: nothing is ever copied then.
    """

    def forth_and_back() -> None:
        for number in (*range(blocks), *reversed(range(blocks))):
            ring.fetch(number)

    before = ring.copied
    seconds = subject.median(forth_and_back, 3)
    copied = ring.copied - before
    return 3 * seconds / copied if copied else 0.0
