"""Memory and time of both stages at FLUX.1's full size, with random weights, on one GPU.

    python -m fluxduel.benchmarks.gpu.run [--seconds 470] [--out rows.jsonl] [--only NAME] [--pixels 512 1024]
        [--tiny | --blocks 19 38] [--page docs/PERFORMANCE.md]

Prints a JSON line after each row, the most valuable first, and appends it to ``--out``: what ends the run costs only
the rows after it. ``oom``: the row ran out of memory; ``error``: what else ended it; ``skipped``: it would not have
fitted into ``--seconds``. Memory in GiB, as torch's allocator counts it: a CUDA context takes about 0.5 more.

Rows: ceilings of the device, with each product of the blocks in bf16 and in int8 by every kernel; both stages by the
plan's own choice on cards of 8 to 24 GiB, predicted against measured peak; stage 1 in bf16, with its executed
operations and each measurement alone; the same compiled, and in int8; a plain diffusers + PEFT loop; streamed blocks
against the longer of computation and copies; stage 2 with and without held-out pictures; at last the ratios. A whole
run on a GPU then writes its part of ``--page``. ``--tiny`` is for a rehearsal without a GPU: the built-in base's shape,
and small pictures.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch

from . import report, rows
from .caps import Caps
from .ceilings import ceilings
from .streamed import streamed
from .subject import TINY, Shape, Subject
from .summary import summary

Row = tuple[str, float, Callable[[Subject], dict[str, Any]]]

SIDES = {"full": (512, 1024), "tiny": (64, 128)}
# GiB; those of the rehearsal are where its plans differ.
CAPS = {"full": (8.0, 12.0, 16.0, 24.0), "tiny": (0.0148, 0.016, 0.0185, 0.03)}
# Seconds of an eager stage-1 step, checkpointed: what its many small kernels take, measured at 512 px on an H200, and
# what 240 TFLOP add at 1024 px. Rows are estimated in such steps.
SMALL_KERNELS, PIXELS = 0.65, 0.45
# Setting up a stage; bringing blocks into the computer's memory and locking them there; compiling a stage's passes.
STAGE_SECONDS, STREAM_SECONDS, COMPILE_SECONDS = 2.5, 7.0, 30.0


def all_rows(sides: tuple[int, ...], caps: Sequence[float] = CAPS["full"]) -> Iterator[Row]:
    """Name, seconds that an H100 is expected to take, and measurement, the most valuable first.

    ``sides`` rise, and so do ``caps``, GiB of four cards.
    """
    small, large = sides[0], sides[-1]
    # What both stages are meant to fit into comes first; what fits large pictures fits small ones.
    goals = ((3, large), (1, large), (0, small))
    others = [(number, side) for side in (large, small) for number in (2, 0, 1, 3)]
    later = [card for card in dict.fromkeys(others) if card not in goals]

    def steps(side: int, count: float) -> float:
        """Seconds of as many stage-1 steps: operations grow a little faster than pictures."""
        return count * (SMALL_KERNELS + PIXELS * (side / 1024) ** 1.85)

    within = Caps()

    def capped(number: int, side: int) -> Row:
        estimate = 2 * (STAGE_SECONDS + STREAM_SECONDS) + steps(side, 14)
        measure = functools.partial(within.measure, pixels=side, cap=caps[number])
        return f"card of {caps[number]:g} GiB, {side} px", estimate, measure

    def streaming(precision: str, share: float, side: int) -> Row:
        estimate = STAGE_SECONDS + STREAM_SECONDS + steps(side, 12)
        measure = functools.partial(streamed, pixels=side, precision=precision, share=share)
        return f"streamed {precision} {share:g}, {side} px", estimate, measure

    def compiled_int8(side: int) -> Row:
        estimate = STAGE_SECONDS + COMPILE_SECONDS + steps(side, 8)
        measure = functools.partial(_compiled, "stage_1", pixels=side, precision="int8_convrot")
        return f"stage 1 int8_convrot compiled, {side} px", estimate, measure

    yield "ceilings", 8.0, functools.partial(ceilings, pixels=sides)
    for number, side in dict.fromkeys(goals):
        yield capped(number, side)
    yield "load", 3.0, rows.load
    for side in sides:
        yield f"stage 1, {side} px", STAGE_SECONDS + steps(side, 20), functools.partial(rows.stage_1, pixels=side)
    for side in sides:
        estimate = STAGE_SECONDS + COMPILE_SECONDS + steps(side, 6)
        yield f"stage 1 compiled, {side} px", estimate, functools.partial(_compiled, "stage_1", pixels=side)
    for side in sides:
        estimate = STAGE_SECONDS + steps(side, 9)
        yield f"plain autocast, {side} px", estimate, functools.partial(rows.plain, pixels=side, adapter="autocast")
    for side in sides:
        estimate = STAGE_SECONDS + steps(side, 12)
        measure = functools.partial(rows.in_precision, pixels=side, precision="int8_convrot")
        yield f"stage 1 int8_convrot, {side} px", estimate, measure
    yield compiled_int8(large)
    for side in sides:
        yield f"stage 2, {side} px", STAGE_SECONDS + steps(side, 30), functools.partial(rows.stage_2, pixels=side)
    for side in sides:
        yield streaming("int8_convrot", 1.0, side)
    for number, side in later[:2]:
        yield capped(number, side)
    for side in sides[:-1]:
        yield compiled_int8(side)
    for precision in ("int8_convrot", "bf16"):
        for side in sides:
            yield streaming(precision, 0.5, side)
    for number, side in later[2:]:
        yield capped(number, side)
    for side in sides:
        measure = functools.partial(rows.in_precision, pixels=side, precision="int8")
        yield f"stage 1 int8, {side} px", STAGE_SECONDS + steps(side, 12), measure
    for adapter in ("bf16", "fp32"):
        for side in sides:
            estimate = STAGE_SECONDS + steps(side, 9)
            yield f"plain {adapter}, {side} px", estimate, functools.partial(rows.plain, pixels=side, adapter=adapter)
    for side in sides:
        estimate = STAGE_SECONDS + 2 * COMPILE_SECONDS + steps(side, 12)
        yield f"stage 2 compiled, {side} px", estimate, functools.partial(_compiled, "stage_2", pixels=side)
    for side in sides:
        estimate = STAGE_SECONDS + steps(side, 16)
        yield f"two samplers, {side} px", estimate, functools.partial(rows.two_samplers, pixels=side)


def _compiled(stage: str, subject: Subject, pixels: int, precision: str = "bf16") -> dict[str, Any]:
    make = subject.stage_1 if stage == "stage_1" else subject.stage_2
    return rows.compiled(subject, lambda: make(pixels, precision, compile_blocks=True))


def attempt(measure: Callable[[Subject], dict[str, Any]], subject: Subject) -> dict[str, Any]:
    """What a row gives. Whatever ends it is its result: the rows after it are measured all the same."""
    try:
        return measure(subject)
    except torch.OutOfMemoryError as error:
        return {"oom": True, "message": str(error).partition("\n")[0]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:600]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=470.0, help="rows that do not fit into these are left out")
    parser.add_argument("--out", type=Path, help="a file to which the rows are appended")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--pixels", type=int, nargs="+", help="sides of the pictures, multiples of 16")
    parser.add_argument("--blocks", type=int, nargs=2, default=(19, 38), help="double and single blocks")
    parser.add_argument("--tiny", action="store_true", help="the built-in base's shape, for a rehearsal")
    parser.add_argument("--page", type=Path, default=report.PAGE, help="where a whole run on a GPU is written to")
    options = parser.parse_args()
    started = time.perf_counter()
    size = "tiny" if options.tiny else "full"
    sides = tuple(sorted(options.pixels or SIDES[size]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = TINY if options.tiny else Shape(doubles=options.blocks[0], singles=options.blocks[1])
    told: list[dict[str, Any]] = []

    def tell(name: str, values: dict[str, Any]) -> None:
        told.append({"row": name, "at": round(time.perf_counter() - started, 1)} | values)
        line = json.dumps(told[-1])
        print(line, flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")

    whole = shape == Shape() and sides == SIDES["full"] and not options.only
    tell("machine", machine(device) | {"sides": sides, "whole": whole})
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(shape, device, Path(folder))
        for name, estimate, measure in all_rows(sides, CAPS[size]):
            if options.only not in name:
                continue
            left = options.seconds - (time.perf_counter() - started)
            if estimate > left:
                tell(name, {"skipped": f"about {estimate:.0f} s, and {left:.0f} are left"})
                continue
            subject.settle()
            found[name] = attempt(measure, subject)
            tell(name, found[name])
    tell("ratios", summary(found, sides))
    if not report.unfit(told):
        report.write(told, options.page)


def machine(device: torch.device) -> dict[str, Any]:
    """Where the rows come from."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "comfy_kitchen": _version("comfy-kitchen"),
        "arguments": sys.argv[1:],
    }


def _version(package: str) -> str:
    """Empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
