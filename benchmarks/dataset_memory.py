"""Memory of training on a data set that does not fit: 100,000 pictures in the cache against 20.

    python -m fluxduel.benchmarks.dataset_memory [--entries 100000] [--steps 300]

Synthetic latents (16 x 16 x 16) with 1,000 captions, written through the real cache by cheap encoders. Each size is
measured in a process of its own that finds everything in the cache, as a second start does, and then draws the batches
of ``--steps`` steps; the baseline is 20 entries. The JSON line that is printed last has ``growth_mb``, the difference
of both processes' peaks, ``mb_per_1000`` of it, the seconds of encoding and of the second start, and the time of a step
as a ratio to the baseline's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fluxduel.training.data.batches import micro_batches
from fluxduel.training.data.encode import encode
from fluxduel.training.data.image_sources import FileSequence, FileState
from fluxduel.training.data.real_latents import RealLatents

BASELINE = 20
CAPTIONS = 1000
SIDE = 128


class SyntheticPictures(FileSequence[Tensor]):
    """Pictures of one colour each that exist only while they are looked at, as files that do not change would."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
        colour = torch.rand(3, generator=torch.Generator().manual_seed(index))
        return colour.expand(SIDE, SIDE, 3).clone(), ()

    def state(self, index: int) -> FileState:
        return FileState(f"/synthetic/{index}.png", SIDE, 0, "pixels")


def encode_image(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The picture's colour as (1, 16, 16, 16), and a deviation."""
    mean = pixels[0, 0, 0].repeat(6)[:16].view(1, 16, 1, 1).expand(1, 16, SIDE // 8, SIDE // 8)
    return mean, torch.full_like(mean, 0.1)


def encode_prompt(caption: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(int(caption.split()[-1]) if caption else CAPTIONS)
    return torch.randn(16, 128, generator=generator), torch.randn(64, generator=generator)


def dataset(cache: Path, entries: int) -> RealLatents:
    """All of it left in the cache."""
    captions: Sequence[str] = [f"caption {i % CAPTIONS}" for i in range(entries)]
    data, _ = encode(
        SyntheticPictures(entries), captions, names=[f"folder/picture_{i:06}.png" for i in range(entries)], masks=None,
        encode_image=encode_image, encode_prompt=encode_prompt, vae_key="synthetic", text_key="synthetic",
        resolution=SIDE, bucket_step=64, flip=False, held_out_share=0.1, seed=0, cache_folder=cache, most_in_memory=0,
    )  # fmt: skip
    return data


def peak_mb() -> float:
    """Most memory that this process has held. Not ``getrusage``, which begins with what the parent held at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def measure(cache: Path, entries: int, steps: int) -> dict[str, float]:
    """What a start and ``steps`` steps take in this process."""
    started = time.perf_counter()
    data = dataset(cache, entries)
    opened = time.perf_counter()
    for step in range(steps):
        micro_batches(data, seed=0, step=step, batch_size=4, gradient_accumulation=1)
    return {
        "peak_mb": peak_mb(),
        "start_seconds": opened - started,
        "step_seconds": (time.perf_counter() - opened) / steps,
    }


def in_own_process(cache: Path, entries: int, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "fluxduel.benchmarks.dataset_memory", "--measure", str(cache)]
    command += ["--entries", str(entries), "--steps", str(steps)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.entries, options.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        started = time.perf_counter()
        dataset(cache, options.entries)
        encoding = time.perf_counter() - started
        few, many = (in_own_process(cache, entries, options.steps) for entries in (BASELINE, options.entries))
    for name, figures in ((f"{BASELINE} entries", few), (f"{options.entries} entries", many)):
        print(f"{name:16}" + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    growth = many["peak_mb"] - few["peak_mb"]
    print(
        json.dumps(
            {
                "growth_mb": round(growth, 1),
                "mb_per_1000": round(1000 * growth / options.entries, 3),
                "encoding_seconds": round(encoding, 1),
                "second_start_seconds": round(many["start_seconds"], 1),
                "step_over_baseline": round(many["step_seconds"] / few["step_seconds"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
