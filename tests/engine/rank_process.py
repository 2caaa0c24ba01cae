"""One rank of a run on several: ``python -m fluxduel.tests.engine.rank_process`` with a job in JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed

from fluxduel.tests.engine.conftest import Recorder, make_data, with_phrase
from fluxduel.tests.engine.small import small_of
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import AdversarialStageConfig, DiffusionStageConfig, DiscriminatorConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.runs.train_stages import train_adversarial_stage, train_diffusion_stage
from fluxduel.training.stages.ranks import Ranks


class StopAt(Recorder):
    """Asks to stop once this step is reported; ``None``: never."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self._step = step

    def should_stop(self) -> bool:
        return self._step is not None and any(record["step"] >= self._step for record in self.records)


def main() -> None:
    """Train as the job says, and write what this rank ended with."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    folder, rank, count = Path(job["folder"]), int(sys.argv[2]), int(sys.argv[3])
    if count > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder / job['meeting']}", rank=rank, world_size=count
        )
    start = lora.load_file(Path(job["lora"]), BaseReference(job["base"], "fp32"))
    data = with_phrase(make_data(count=12, held_out=3, side=8, small=small_of(start)))
    recorder = StopAt(job.get("stop_at"))
    common = {
        "device": "cpu",
        "reporter": recorder,
        "run_folder": folder / job["run"],
        "ranks": Ranks.current(torch.device("cpu"), job.get("shard", False)),
    }
    if "discriminator" in job:
        judge, config = DiscriminatorConfig(**job["discriminator"]), AdversarialStageConfig(**job["config"])
        result = train_adversarial_stage(start, data, judge, config, **common)
    else:
        result = train_diffusion_stage(start, data, DiffusionStageConfig(**job["config"]), **common)
    lora.save(result.lora, folder / f"{job['run']}-rank{rank}.safetensors")
    (folder / f"{job['run']}-rank{rank}.json").write_text(json.dumps(result.log.records))
    if count > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
