"""Memory and time of both stages at FLUX.1's full size, with random weights, on one GPU.

    python -m fluxduel.benchmarks.gpu.run [--seconds 240] [--out rows.jsonl] [--only NAME] [--pixels 512 1024]
        [--tiny | --blocks 19 38]

Prints a JSON line after each row, the most valuable first, and appends it to ``--out``: what ends the run costs only
the rows after it. ``oom``: the row ran out of memory; ``error``: what else ended it; ``skipped``: it would not have
fitted into ``--seconds``. Memory in GiB, as torch's allocator counts it: a CUDA context takes about 0.5 more.

Rows: ceilings of the device; stage 1, with its executed operations and each measurement alone; stage 2 with and without
held-out pictures; a plain diffusers + PEFT loop; both stages under caps on the memory; compiled blocks; at last the
ratios. ``--tiny`` is for a rehearsal without a GPU: the built-in base's shape, and small pictures.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch

from . import rows
from .ceilings import ceilings
from .subject import TINY, Shape, Subject

Row = tuple[str, float, Callable[[Subject], dict[str, Any]]]

CAPS = (24, 32, 40)
# Seconds of an H100 for a checkpointed stage-1 step at 1024 px, from its 240 TFLOP; rows are estimated in such steps.
STEP_SECONDS = 0.7
# Setting up a stage, and compiling one kind of call.
STAGE_SECONDS, COMPILE_SECONDS = 2.5, 12.0


def all_rows(sides: tuple[int, ...]) -> Iterator[Row]:
    """Name, seconds that an H100 is expected to take, and measurement, the most valuable first."""

    def steps(side: int, count: float) -> float:
        """Seconds of as many stage-1 steps: operations grow a little faster than pictures."""
        return count * STEP_SECONDS * (side / 1024) ** 1.85

    yield "load", 0.0, rows.load
    yield "ceilings", 6.0, functools.partial(ceilings, pixels=sides)
    for side in sides:
        estimate = STAGE_SECONDS + steps(side, 13)
        yield f"stage 1, {side} px", estimate, functools.partial(rows.stage_1, pixels=side)
    for side in sides:
        estimate = STAGE_SECONDS + steps(side, 27)
        yield f"stage 2, {side} px", estimate, functools.partial(rows.stage_2, pixels=side)
    for adapter in ("autocast", "bf16"):
        for side in sides:
            estimate = STAGE_SECONDS / 2 + steps(side, 9)
            yield f"plain {adapter}, {side} px", estimate, functools.partial(rows.plain, pixels=side, adapter=adapter)
    for side in sides:
        estimate = 4 * STAGE_SECONDS + steps(side, 20)
        yield f"caps, {side} px", estimate, functools.partial(rows.capped, pixels=side, caps=CAPS)
    for side in sides:
        estimate = STAGE_SECONDS + steps(side, 16)
        yield f"two samplers, {side} px", estimate, functools.partial(rows.two_samplers, pixels=side)
    for number, side in enumerate(sides):
        estimate = STAGE_SECONDS + (0 if number else 4 * COMPILE_SECONDS) + steps(side, 8)
        yield f"stage 1 compiled, {side} px", estimate, functools.partial(_compiled_1, pixels=side)
    for side in sides:
        estimate = STAGE_SECONDS / 2 + steps(side, 12)
        yield f"plain fp32, {side} px", estimate, functools.partial(rows.plain, pixels=side, adapter="fp32")
    for number, side in enumerate(sides):
        estimate = STAGE_SECONDS + (0 if number else 6 * COMPILE_SECONDS) + steps(side, 14)
        yield f"stage 2 compiled, {side} px", estimate, functools.partial(_compiled_2, pixels=side)


def _compiled_1(subject: Subject, pixels: int) -> dict[str, Any]:
    return rows.compiled(subject, pixels, subject.stage_1, warm_up=2)


def _compiled_2(subject: Subject, pixels: int) -> dict[str, Any]:
    return rows.compiled(subject, pixels, subject.stage_2, warm_up=3)


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
    parser.add_argument("--seconds", type=float, default=240.0, help="rows that do not fit into these are left out")
    parser.add_argument("--out", type=Path, help="a file to which the rows are appended")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--pixels", type=int, nargs="+", help="sides of the pictures, multiples of 16")
    parser.add_argument("--blocks", type=int, nargs=2, default=(19, 38), help="double and single blocks")
    parser.add_argument("--tiny", action="store_true", help="the built-in base's shape, for a rehearsal")
    options = parser.parse_args()
    started = time.perf_counter()
    sides = tuple(options.pixels or ((64, 128) if options.tiny else (512, 1024)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def tell(name: str, values: dict[str, Any]) -> None:
        line = json.dumps({"row": name, "at": round(time.perf_counter() - started, 1)} | values)
        print(line, flush=True)
        if options.out:
            with options.out.open("a") as stream:
                stream.write(line + "\n")

    tell("machine", machine(device))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        shape = TINY if options.tiny else Shape(doubles=options.blocks[0], singles=options.blocks[1])
        subject = Subject(shape, device, Path(folder))
        for name, estimate, measure in all_rows(sides):
            if options.only not in name:
                continue
            left = options.seconds - (time.perf_counter() - started)
            if estimate > left:
                tell(name, {"skipped": f"about {estimate:.0f} s, and {left:.0f} are left"})
                continue
            subject.settle()
            found[name] = attempt(measure, subject)
            tell(name, found[name])
    tell("ratios", rows.summary(found, sides))


def machine(device: torch.device) -> dict[str, Any]:
    """Where the rows come from."""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
        "arguments": sys.argv[1:],
    }


if __name__ == "__main__":
    main()
