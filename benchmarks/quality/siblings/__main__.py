"""LoRAs of a base on its distilled siblings: trained on the base, on the sibling by flow loss, and by stage 2.

``python -m fluxduel.benchmarks.quality.siblings`` (an hour and a half of two cores; it needs the pictures of
``benchmarks.pictograms``) makes the siblings, trains and measures, and writes the section of docs/EXPERIMENTS.md. What
is done is taken from ``--folder``. Prints a JSON line for each sibling last: medians of distance and Fréchet distance
over the better of the LoRAs trained on the base and by flow loss, and of the distance outside over that without a LoRA.
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
    found = {name: results(options, name) for name in distilled.SIBLINGS}
    moved = {name: distilled.moved(distilled.sibling(options.folder, name)) for name in found}
    report.write(found, moved, options.report)
    for name, done in found.items():
        told = {
            "over_best": report.over_best(done, "stage2", of=report.TWO),
            "frechet_over_best": report.over_best(done, "stage2", "frechet", of=report.TWO),
            "outside": report.drift(done, "stage2"),
        }
        medians = {key: round(median_and_interval(ratios)[0], 4) for key, ratios in told.items()}
        print(json.dumps({"sibling": name, **medians}))


def results(options: argparse.Namespace, name: str) -> list[report.Result]:
    """Of all arms on one sibling."""
    folder = options.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    sibling = distilled.sibling(options.folder, name)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    # Stage 2 after what it starts from.
    first, then = ("none", "many", *job.OTHERS), ("stage2",)
    once = [job.Job(subjects.STYLES[0], FIRST_SEED, IMAGES, arm) for arm in job.SHOWN_ONCE]
    places = [(style, seed) for seed in seeds for style in subjects.STYLES]
    rounds = [[job.Job(style, seed, IMAGES, arm) for style, seed in places for arm in arms] for arms in (first, then)]
    rounds[1] += once
    found = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for jobs in rounds:
            wanted = [one for one in jobs if not options.done or job.result_file(one, folder).exists()]
            for result in pool.map(job.run, wanted, [folder] * len(wanted), [sibling] * len(wanted)):
                found.append(result)
                where = f"{name}: {result['style']}, seed {result['seed']}, {result['arm']}"
                near, outside = result["whole"]["paired"], result["old"]["paired"]
                print(f"{where}: {near:.3f}, outside {outside:.3f}", flush=True)
    return found


if __name__ == "__main__":
    main()
