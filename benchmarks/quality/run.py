"""Does stage 2 win, and over what? The evidence, in one command.

    make bench-quality                 every domain, seed and arm; under an hour on two cores, without a GPU
    QUICK=1 make bench-quality         one seed; minutes

Jobs that are done are taken from ``--folder``, so an interrupted run goes on; ``--fresh`` starts anew. Writes
``docs/EXPERIMENTS.md`` with its pictures (``--report``), and prints one JSON line last: for each of ``target4``,
``target25``, ``both`` and ``few_images`` medians over domains and seeds of ratios to the control that had as many
generator steps (``fd4``, ``fd25``, ``spectrum4``, ``val_flow``), ``diversity`` (to real) and ``memorised``; the
real-to-real ``floor``; and ``wins``, the number of domain x seed pairs in which ours is better, of all pairs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from . import domains, job, report
from .arms import ARMS, SHOWN_ONCE
from .job import Job

ROOT = Path(__file__).resolve().parents[2]
IMAGES, FEW_IMAGES = 256, 24
SEEDS, QUICK_SEEDS = 3, 1
FEW_ARMS = ("control", "target4")
QUICK_ARMS = ("control", "target4", "target25", "both")


def jobs(seeds: int, quick: bool) -> list[Job]:
    """Stage 1 of every domain and seed first: the arms start from it."""
    arms = QUICK_ARMS if quick else tuple(ARMS)
    pairs = [(domain, seed) for seed in range(seeds) for domain in domains.DOMAINS]
    few_pairs = pairs[:1] if quick else pairs
    first = [Job(d, s, IMAGES, "stage1") for d, s in pairs] + [Job(d, s, FEW_IMAGES, "stage1") for d, s in few_pairs]
    rest = [Job(d, s, IMAGES, arm) for d, s in pairs for arm in arms if s == 0 or arm not in SHOWN_ONCE]
    few = [Job(d, s, FEW_IMAGES, arm) for d, s in few_pairs for arm in FEW_ARMS]
    bases = [] if quick else [Job(d, 0, IMAGES, "base") for d in domains.DOMAINS]
    return [*first, *rest, *few, *bases]


def compute(wanted: list[Job], folder: Path, workers: int) -> list[dict[str, Any]]:
    """All results, by as many processes as there are cores, each on one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results: list[dict[str, Any]] = []
    stages = [[j for j in wanted if j.arm == "stage1"], [j for j in wanted if j.arm != "stage1"]]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for stage in stages:
            for done in as_completed([pool.submit(job.run, one, folder) for one in stage]):
                result = done.result()
                results.append(result)
                distances = ", ".join(f"{result[str(steps)]['frechet']:.2f} at {steps}" for steps in job.STEP_COUNTS)
                print(
                    f"[{len(results)}/{len(wanted)}, {time.perf_counter() - started:.0f} s] "
                    f"{result['domain']} {result['images']} images, seed {result['seed']}, {result['arm']}: "
                    f"Frechet {distances}",
                    flush=True,
                )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench" / "quality")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "EXPERIMENTS.md")
    parser.add_argument("--fresh", action="store_true", help="compute everything anew")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    quick = os.environ.get("QUICK", "") not in ("", "0")
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    started = time.perf_counter()
    results = compute(jobs(QUICK_SEEDS if quick else SEEDS, quick), options.folder, options.workers)
    floors = {domain: job.floor(domain) for domain in domains.DOMAINS}
    minutes = (time.perf_counter() - started) / 60
    if quick:
        print("A quick run writes no report.")
    else:
        report.write(results, floors, options.folder, options.report, IMAGES, FEW_IMAGES)
        print(f"{options.report} written.")
    print(f"{minutes:.1f} minutes", file=sys.stderr)
    print(json.dumps(report.summary(results, floors, IMAGES, FEW_IMAGES)))


if __name__ == "__main__":
    main()
