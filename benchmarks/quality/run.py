"""Does stage 2 win, and over what? The evidence, in one command.

    make bench-quality                 both parts; ARGS="--part styles" for that alone
    QUICK=1 make bench-quality         one seed of one style and one texture, two arms

*Styles*: LoRAs of drawing styles from 24 and 60 pictures, judged on unseen subjects whose true pictures are known
(``styles``); it needs the pictures of ``benchmarks.pictograms``. *Textures*: photographs as small latents
(``textures``). Jobs that are done are taken from ``--folder``, so an interrupted run goes on, and with more ``--seeds``
it is extended; ``--fresh`` starts anew.

Writes ``docs/EXPERIMENTS.md`` with its pictures (``--report``), and prints one JSON line last. All ratios are medians
over styles and seeds of ours, sampled as it says of itself, to stage 1 sampled with the best of ComfyUI's solvers and
guidances at as many evaluations: ``styles24`` and ``styles60`` with ``paired4`` (distance to the true picture) and its
95 % interval ``paired4_ci``, ``paired4_same_guidance``, ``paired4_both_best`` (ours
with its best solver, too), ``frechet4`` (against the setting that is best by that), and
``paired4_over_many`` (stage 1 at 25); ``retrieval``, ``style``, ``memorised``, ``drift``
(the same captions in an old style) and ``val_flow`` over stage 1's; ``diversity`` over real; ``toll4`` and ``toll25``,
the worst of the other solvers over the LoRA's own sampling, and by strength. ``textures`` with ``target4`` and
``few_images``; ``over_distil`` and ``over_mmd``; ``base_retrieval``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from . import report
from .styles import arms as style_arms
from .styles import job as style_job
from .styles import subjects
from .styles import summary as style_summary
from .textures import domains
from .textures import job as texture_job
from .textures import report as texture_report
from .textures.arms import SHOWN_ONCE

ROOT = Path(__file__).resolve().parents[2]
SEEDS, QUICK_SEEDS = 6, 1
TEXTURE_SEEDS = 3
# The seeds that are reported; none of them was used to choose a setting.
FIRST_SEED = style_job.FIRST_SEED
IMAGES, FEW_IMAGES = 256, 24
COUNTS = (24, 60)
# The rest are compared with it where pictures are fewest.
CLAIMED = "ours"
QUICK_ARMS, QUICK_STYLES, QUICK_DOMAINS = ("ours", "distil"), subjects.STYLES[:1], tuple(domains.DOMAINS)[:1]
# What earns the discriminator its place is compared at so many seeds, what shows a part's worth at the first.
RIVALS, RIVAL_SEEDS = ("distil", "mmd"), 3

AnyJob = style_job.Job | texture_job.Job


def style_jobs(seeds: int, quick: bool) -> list[style_job.Job]:
    """What is claimed first, seed by seed, then what it is compared with: an interrupted run has whole parts."""
    styles = QUICK_STYLES if quick else subjects.STYLES
    places = [(style, seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds) for style in styles]
    counts = COUNTS[:1] if quick else COUNTS
    few = QUICK_ARMS if quick else tuple(style_arms.ARMS)
    wanted = [
        style_job.Job(style, seed, images, arm)
        for style, seed in places
        for images in counts
        for arm in ("stage1", CLAIMED)
    ]
    others = [
        style_job.Job(style, seed, COUNTS[0], arm)
        for arm in few
        for style, seed in places
        if arm != CLAIMED and seed < FIRST_SEED + (RIVAL_SEEDS if arm in RIVALS else 1)
    ]
    return wanted + others


def texture_jobs(seeds: int, quick: bool) -> list[texture_job.Job]:
    """As ``style_jobs``, with some arms for the first seed alone."""
    wanted = []
    for seed in range(seeds):
        few = [texture_report.FEW_ARM] + ["target4", "control"] * (not quick)
        many = ["target4"] + ["control"] * (not quick) + [arm for arm in SHOWN_ONCE if seed == 0 and not quick]
        where = QUICK_DOMAINS if quick else domains.DOMAINS
        for images, names in ((IMAGES, many), (FEW_IMAGES, few)):
            wanted += [texture_job.Job(d, seed, images, arm) for arm in ("stage1", *names) for d in where]
    return wanted


def compute(wanted: list[AnyJob], folder: Path, workers: int) -> Iterator[dict[str, Any]]:
    """All results, by as many processes as there are cores, each on one thread; an arm begins after its stage 1."""
    folder.mkdir(parents=True, exist_ok=True)
    left, done = list(wanted), set()
    running: dict[Future, AnyJob] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while left or running:
            ready = [one for one in left if one.arm in ("stage1", "base") or one._replace(arm="stage1") in done]
            for one in ready[: workers - len(running)]:
                left.remove(one)
                running[pool.submit(_runner(one), one, folder)] = one
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done.add(running.pop(future))
                yield future.result()


def _runner(one: AnyJob) -> Callable[[Any, Path], dict[str, Any]]:
    return style_job.run if isinstance(one, style_job.Job) else texture_job.run


def _told(result: dict[str, Any]) -> str:
    if "style" in result:
        own = style_summary.own(result)
        return f"{result['style']} {result['images']} pictures, seed {result['seed']}, {result['arm']}: {own:.3f}"
    return (
        f"{result['domain']} {result['images']} images, seed {result['seed']}, {result['arm']}: "
        f"FD {result['4']['frechet']:.2f} at 4"
    )


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The JSON line."""
    return {
        **{f"styles{images}": style_summary.summary(found["styles"], images) for images in found["counts"]},
        "textures": {"target4": found["over_solver"], "few_images": found["few_over_solver"]},
        "over_distil": found["over_distil"],
        "over_mmd": found["over_mmd"],
        "base_retrieval": round(statistics.mean(found["base"].values()), 4),
    }


def collected(results: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """All that page and summary are made from."""
    styles = [r for r in results if "style" in r]
    textures = [r for r in results if "domain" in r]
    over = texture_report.summary(textures, IMAGES, FEW_IMAGES)
    return {
        "folder": folder,
        "styles": styles,
        "textures": textures,
        "counts": tuple(c for c in COUNTS if style_summary.by_cell(styles, "ours", c)),
        "images": IMAGES,
        "few_images": FEW_IMAGES,
        "floors": {domain: texture_job.floor(domain) for domain in domains.DOMAINS} if textures else {},
        "over_solver": over["target4"],
        "few_over_solver": over["few_images"],
        "over_distil": style_summary.over(styles, "distil", COUNTS[0]),
        "over_mmd": style_summary.over(styles, "mmd", COUNTS[0]),
        "base": style_job.base_retrieval(folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench" / "quality")
    parser.add_argument("--report", type=Path, default=ROOT / "docs" / "EXPERIMENTS.md")
    parser.add_argument("--part", choices=("both", "styles", "textures"), default="both")
    parser.add_argument("--seeds", type=int, help=f"of the styles ({SEEDS})")
    parser.add_argument("--done", action="store_true", help="report the jobs that are done, and train nothing")
    parser.add_argument("--fresh", action="store_true", help="compute everything anew")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    quick = os.environ.get("QUICK", "") not in ("", "0")
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    wanted: list[AnyJob] = []
    if options.part != "textures":
        wanted += style_jobs(options.seeds or (QUICK_SEEDS if quick else SEEDS), quick)
    if options.part != "styles":
        wanted += texture_jobs(QUICK_SEEDS if quick else TEXTURE_SEEDS, quick)
    if options.done:
        wanted = [one for one in wanted if (options.folder / f"{one.name}.json").exists()]
    started, results = time.perf_counter(), []
    for result in compute(wanted, options.folder, options.workers):
        results.append(result)
        print(f"[{len(results)}/{len(wanted)}, {time.perf_counter() - started:.0f} s] {_told(result)}", flush=True)
    if options.part == "textures":
        print("The textures alone write no report.")
        return
    found = collected(results, options.folder)
    if quick:
        print("A quick run writes no report.")
    else:
        report.write(found, options.report)
        print(f"{options.report} written.")
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes", file=sys.stderr)
    print(json.dumps(summary(found)))


if __name__ == "__main__":
    main()
