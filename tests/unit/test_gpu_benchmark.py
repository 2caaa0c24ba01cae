"""The benchmark of FLUX.1's full size, as far as no GPU is needed: the order of its rows, and what ends one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from fluxduel.benchmarks.gpu import rows, run, subject


def test_rows_that_would_not_fit_are_named_and_cost_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["run", "--tiny", "--seconds", "0.01", "--out", str(out), "--only", "px"])
    run.main()
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == told
    wanted = [name for name, *_ in run.all_rows((64, 128)) if "px" in name]
    assert [row["row"] for row in told] == ["machine", *wanted, "ratios"]
    assert all("skipped" in row for row in told[1:-1])


@pytest.mark.parametrize(
    ("failure", "result"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), {"oom": True, "message": "CUDA out of memory."}),
        (ValueError("no such shape"), {"error": "ValueError: no such shape"}),
    ],
)
def test_what_ends_a_row_is_its_result(failure: Exception, result: dict[str, object]) -> None:
    def fails(subject: object) -> dict[str, object]:
        raise failure

    assert run.attempt(fails, None) == result


def test_the_ratios_are_those_of_the_rows_that_there_are() -> None:
    found = {
        "ceilings": {"bf16_tflops": 800.0},
        "stage 1, 512 px": {
            "seconds": 0.2, "tflops": 400.0, "steps": {"seconds": 1.0, "peak": 26.0}, "preview": {"peak": 25.5},
        },
        "plain bf16, 512 px": {"seconds": 0.3},
        "stage 2, 512 px": {"oom": True, "message": "CUDA out of memory."},
    }  # fmt: skip
    assert rows.summary(found, (512, 1024)) == {
        "plain bf16 over stage 1, 512 px": 1.5,
        "share of the large product, 512 px": 0.5,
        "measurements beyond a step, stage 1, 512 px": {"preview": -0.5},
    }


def test_both_stages_take_a_step_on_the_subject(tmp_path: Path) -> None:
    """They get the subject's base where they would read a file."""
    measured = subject.Subject(subject.TINY, torch.device("cpu"), tmp_path)
    for stage in (measured.stage_1(64), measured.stage_2(64)):
        assert stage.base.transformer.x_embedder.weight.equal(measured.weights["x_embedder.weight"])
        assert stage.step(0)["diffusion_loss"] > 0
