"""Several processes train what one does on the same global batch, decide alike, and hand over to any other number."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from fluxduel.tests.engine.runs.test_resume import HEADS, JUDGE, STAGE_1, STAGE_2
from fluxduel.tests.engine.small import each_family
from fluxduel.training.lora import adapter as lora
from fluxduel.training.stages.ranks import Ranks

KINDS = {"diffusion": (STAGE_1, None), "adversarial": (STAGE_2, JUDGE), "heads": (STAGE_2, HEADS)}


class Runs:
    """Runs of one kind in one folder, each of its own number of ranks."""

    def __init__(self, start, folder: Path, kind: str, **changes) -> None:
        self.folder, self.count = folder, 0
        config, judge = KINDS[kind]
        config = dataclasses.replace(config, **changes)
        file = lora.save(start, folder / "start.safetensors")
        self.job = {
            "folder": str(folder), "lora": str(file), "base": start.base.path, "config": dataclasses.asdict(config),
        }  # fmt: skip
        if judge is not None:
            self.job["discriminator"] = dataclasses.asdict(judge)

    def train(self, run: str, ranks: int, batch_size: int, accumulation: int, **more) -> None:
        self.count += 1
        config = self.job["config"] | {"batch_size": batch_size, "gradient_accumulation": accumulation}
        job = json.dumps(self.job | {"run": run, "config": config, "meeting": f"meeting{self.count}"} | more)
        command = [sys.executable, "-m", "fluxduel.tests.engine.rank_process", job]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen([*command, str(rank), str(ranks)], env=environment, stderr=subprocess.PIPE, text=True)
            for rank in range(ranks)
        ]
        for process in processes:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said

    def tensors(self, run: str, rank: int = 0) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{run}-rank{rank}.safetensors")

    def records(self, run: str, rank: int = 0) -> list[dict[str, float]]:
        return json.loads((self.folder / f"{run}-rank{rank}.json").read_text())


def assert_close(one, other, start, tolerance=2e-3) -> None:
    """Up to rounding, which each update's division by a root can enlarge: far below what training has moved."""
    moved = max((one[key] - start[key]).abs().max().item() for key in one)
    apart = max((one[key] - other[key]).abs().max().item() for key in one)
    assert moved > 1e-3 and apart < tolerance * moved, (moved, apart)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_what_one_does(start, tmp_path, kind):
    runs = Runs(start, tmp_path, kind)
    runs.train("one", ranks=1, batch_size=2, accumulation=2)
    runs.train("two", ranks=2, batch_size=2, accumulation=1)
    first = load_file(tmp_path / "start.safetensors")
    assert_close(runs.tensors("one"), runs.tensors("two"), first)
    # Among themselves they do not differ at all.
    for key, tensor in runs.tensors("two").items():
        assert torch.equal(tensor, runs.tensors("two", rank=1)[key])
    one, two = runs.records("one"), runs.records("two")
    assert [record.keys() for record in one] == [record.keys() for record in two]
    for expected, found in zip(one, two, strict=True):
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=0.02, abs=2e-3), (name, expected["step"])
    # The same samples, draws and counts, not only the same size.
    assert [r.get("sigma_mean") for r in two] == pytest.approx([r.get("sigma_mean") for r in one], abs=1e-6)
    assert [r.get("images_seen") for r in two] == [r.get("images_seen") for r in one]


@each_family
@pytest.mark.parametrize(("kind", "checkpointing"), [("diffusion", True), ("heads", False), ("heads", True)])
def test_a_base_in_parts_trains_as_a_whole_one(start, tmp_path, kind, checkpointing):
    """The weights are the same numbers wherever they lie between two uses; gathered, they lie otherwise in memory."""
    runs = Runs(start, tmp_path, kind, gradient_checkpointing=checkpointing, steps=3)
    runs.train("whole", ranks=2, batch_size=2, accumulation=1)
    runs.train("parts", ranks=2, batch_size=2, accumulation=1, shard=True)
    assert_close(runs.tensors("whole"), runs.tensors("parts"), load_file(tmp_path / "start.safetensors"), 1e-4)
    for expected, found in zip(runs.records("whole"), runs.records("parts"), strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", ["diffusion", "heads"])
def test_another_number_of_ranks_goes_on(start, tmp_path, kind):
    runs = Runs(start, tmp_path, kind)
    runs.train("whole", ranks=1, batch_size=4, accumulation=1)
    runs.train("run", ranks=2, batch_size=1, accumulation=2, stop_at=3)
    done = [record["step"] for record in runs.records("run")]
    assert done[-1] == 3
    runs.train("run", ranks=1, batch_size=4, accumulation=1)
    assert [r["step"] for r in runs.records("run")] == [r["step"] for r in runs.records("whole")]
    assert_close(runs.tensors("whole"), runs.tensors("run"), load_file(tmp_path / "start.safetensors"))


def exchange(rank: int, folder: str) -> None:
    """What each of three ranks finds after it has exchanged with the others."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    ranks = Ranks.current(torch.device("cpu"))
    parameters = [torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(3)]
    parameters[0].grad = torch.full((2, 2), float(rank))
    if rank == 1:
        parameters[1].grad = torch.full((2, 2), 6.0)
    ranks.mean_gradients(parameters)
    found = {
        "gradients": [None if p.grad is None else p.grad.flatten().tolist() for p in parameters],
        "gathered": ranks.gather(torch.tensor([rank, rank + 0.5])).tolist(),
        "objects": ranks.gather_objects("abc"[rank] * (rank + 1)),
        "any": [ranks.any(rank == 2), ranks.any(False)],
        "from_first": ranks.from_first({"rank": rank}),
        "agreed": ranks.agreed(1 / 3 + rank),
        "first": ranks.first,
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def test_what_ranks_exchange(tmp_path):
    multiprocessing.spawn(exchange, (str(tmp_path),), nprocs=3)
    for rank in range(3):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {
            # (0 + 1 + 2) / 3; one rank's 6 is a mean of 2; what nobody has is not made up.
            "gradients": [[1.0] * 4, [2.0] * 4, None],
            "gathered": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5],
            "objects": ["a", "bb", "ccc"],
            "any": [True, False],
            "from_first": {"rank": 0},
            "agreed": 1 / 3,
            "first": rank == 0,
        }
