"""LoRAs of a base on its distilled sibling: trained on the base, on the sibling by flow loss, and by stage 2.

``python -m fluxduel.benchmarks.quality.siblings`` (an hour of two cores; it needs the pictures of
``benchmarks.pictograms``) makes the sibling, trains and measures, and writes the section of docs/EXPERIMENTS.md. What
is done is taken from ``--folder``. Prints one JSON line last: medians of distance over the better of the two LoRAs
without stage 2, and of the distance outside over that without a LoRA.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ..run import FIRST_SEED, ROOT
from ..statistics import median_and_interval
from ..styles import subjects
from . import distilled, job, report

IMAGES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench" / "siblings")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "EXPERIMENTS.md")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--done", action="store_true", help="report the jobs that are done, and train nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    sibling = distilled.sibling(options.folder)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    # Stage 2 after what it starts from.
    first, then = ("none", "many", "base", "flow"), ("stage2",)
    once = [job.Job(subjects.STYLES[0], FIRST_SEED, IMAGES, arm) for arm in job.SHOWN_ONCE]
    places = [(style, seed) for seed in seeds for style in subjects.STYLES]
    rounds = [[job.Job(style, seed, IMAGES, arm) for style, seed in places for arm in arms] for arms in (first, then)]
    rounds[1] += once
    results = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for jobs in rounds:
            wanted = [one for one in jobs if not options.done or job.result_file(one, options.folder).exists()]
            for result in pool.map(job.run, wanted, [options.folder] * len(wanted), [sibling] * len(wanted)):
                results.append(result)
                print(f"{result['style']}, seed {result['seed']}, {result['arm']}: {result['whole']['paired']:.3f}, "
                      f"outside {result['old']['paired']:.3f}", flush=True)
    report.write(results, options.report)
    told = {"over_best": report.best_of_two(results, "stage2"), "outside": report.drift(results, "stage2")}
    print(json.dumps({name: round(median_and_interval(ratios)[0], 4) for name, ratios in told.items()}))


if __name__ == "__main__":
    main()
