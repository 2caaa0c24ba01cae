"""Does stage 2 ever deliver a collapsed LoRA? Twenty seeds as by default, twenty with a discriminator that runs away.

    make bench-robust

All runs start from one stage-1 LoRA on one domain of ``benchmarks.quality.textures``, and take a third of its steps
with half of its batch, which is the harder case. The second twenty have ten times the discriminator's learning rate. A
delivered LoRA counts as collapsed when, against photographs that no one trained on, it is worse than the stage-1 LoRA
that it started from: in Frechet distance at the target's steps, by more than a tenth in flow loss, or with less than
0.7 of its diversity. Prints what the watch saw and did, and one JSON line last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from fluxduel.benchmarks.quality.textures import domains, job
from fluxduel.benchmarks.quality.textures.arms import ARMS, DISCRIMINATOR_RATE
from fluxduel.training.runs.train_stages import train_adversarial_stage
from fluxduel.training.stages.stage import StageFailure

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 256
STEPS, BATCH_SIZE, VALIDATE_EVERY = 100, 32, 25
RATES = {"default": 1.0, "discriminator x10": 10.0}
WORST_FLOW, LEAST_DIVERSITY = 1.1, 0.7


def run(domain: str, rate: float, seed: int, folder: Path) -> dict[str, Any]:
    """One stage 2 from the shared stage-1 LoRA; what it delivered, measured, and what it noted."""
    torch.set_num_threads(1)
    data = domains.dataset(domains.DOMAINS[domain], IMAGES, 0, job.HELD_OUT_SHARE)
    reporter = job.Quiet()
    start = job.stage_1(job.Job(domain, 0, IMAGES, "stage1"), data, folder, reporter)
    arm = ARMS["target4"]
    judge = dataclasses.replace(arm.judge_config(seed), learning_rate=rate * DISCRIMINATOR_RATE)
    config = dataclasses.replace(
        arm.stage_config(seed), steps=STEPS, batch_size=BATCH_SIZE, validate_every=VALIDATE_EVERY
    )
    try:
        delivered = train_adversarial_stage(start, data, judge, config, device="cpu", reporter=reporter).lora
        failure = ""
    except StageFailure as error:
        delivered, failure = error.result.lora, str(error)
    numbers, _ = job.measure(delivered, data, job.Job(domain, 0, IMAGES, "target4"), step_counts=(4,))
    return {"seed": seed, "rate": rate, **numbers, "notes": reporter.notes, "failure": failure}


def collapsed(result: dict[str, Any], start: dict[str, Any]) -> list[str]:
    """In which respects the delivered LoRA is a collapsed one."""
    now, before = result["4"], start["4"]
    found = {
        "distance": now["frechet"] > 1.05 * before["frechet"],
        "flow loss": result["flow"] > WORST_FLOW * start["flow"],
        "diversity": now["diversity"] < LEAST_DIVERSITY * before["diversity"],
    }
    return [name for name, is_so in found.items() if is_so]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench" / "quality", help="shared with bench-quality")
    parser.add_argument("--domain", choices=tuple(domains.DOMAINS), default="gravel")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    start = job.run(job.Job(options.domain, 0, IMAGES, "stage1"), options.folder)
    summary: dict[str, Any] = {"domain": options.domain, "stage1_fd4": round(start["4"]["frechet"], 3)}
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {
            name: [pool.submit(run, options.domain, rate, seed, options.folder) for seed in range(options.seeds)]
            for name, rate in RATES.items()
        }
        for name, runs in waiting.items():
            results = []
            for future in runs:
                result = future.result()
                results.append(result)
                wrong = collapsed(result, start)
                print(
                    f"{name}, seed {result['seed']}: FD at 4 {result['4']['frechet']:.2f}, diversity "
                    f"{result['4']['diversity']:.2f}, flow loss {result['flow'] / start['flow']:.3f}x"
                    + (f" COLLAPSED ({', '.join(wrong)})" if wrong else ""),
                    flush=True,
                )
                for note in [*result["notes"], *([result["failure"]] if result["failure"] else [])]:
                    print(f"    {note}", flush=True)
            distances = [result["4"]["frechet"] for result in results]
            summary[name] = {
                "runs": len(results),
                "collapsed": sum(bool(collapsed(result, start)) for result in results),
                "reported_trouble": sum(_troubled(result) for result in results),
                "fd4_median": round(statistics.median(distances), 3),
                "fd4_worst": round(max(distances), 3),
            }
    print(json.dumps(summary))


def _troubled(result: dict[str, Any]) -> bool:
    """Whether there was more to say than what every run tells: its warm-up, what measuring costs, the states kept."""
    usual = ("the discriminator learns alone", "Measurements take", "is kept", "is delivered: score")
    return bool(result["failure"]) or any(not any(mark in note for mark in usual) for note in result["notes"])


if __name__ == "__main__":
    main()
