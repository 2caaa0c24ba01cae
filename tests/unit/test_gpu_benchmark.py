"""The benchmark of FLUX.1's full size, as far as no GPU is needed: the order of its rows, and what ends one."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path

import pytest
import torch

from fluxduel.benchmarks.gpu import report, run, subject
from fluxduel.benchmarks.gpu.caps import Caps
from fluxduel.benchmarks.gpu.streamed import streamed
from fluxduel.benchmarks.gpu.summary import summary
from fluxduel.training.base import base_shelf, compiling
from fluxduel.training.base.base_model import BaseReference, FluxBase


def test_rows_that_would_not_fit_are_named_and_cost_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["run", "--tiny", "--seconds", "0.01", "--out", str(out), "--only", "px"])
    run.main()
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == told
    wanted = [name for name, *_ in run.all_rows((64, 128), run.CAPS["tiny"]) if "px" in name]
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
            "seconds": 0.2, "tflop": 80.0, "steps": {"seconds": 1.0, "peak": 26.0}, "preview": {"peak": 25.5},
            "at_first": {"grad_norm": 2.0},
        },
        "streamed bf16 0.5, 512 px": {"at_first": {"grad_norm": 2.1}},
        "plain bf16, 512 px": {"seconds": 0.3},
        "stage 2, 512 px": {"oom": True, "message": "CUDA out of memory."},
        "card of 8 GiB, 512 px": {
            "stage 1": {"runs": True, "predicted": 6.9, "peak": 7.5},
            "stage 2": {"runs": False, "predicted": 7.0, "out_of_memory": "..."},
        },
    }  # fmt: skip
    assert summary(found, (512, 1024)) == {
        "plain bf16 over stage 1, 512 px": 1.5,
        "share of the large product, 512 px": 0.5,
        "measurements beyond a step, stage 1, 512 px": {"preview": -0.5},
        "norm of the first gradient, streamed bf16 0.5, 512 px": 1.05,
        "predicted over measured peak, card of 8 GiB, 512 px, stage 1": 0.92,
    }


@pytest.fixture
def measured(tmp_path: Path) -> subject.Subject:
    return subject.Subject(subject.TINY, torch.device("cpu"), tmp_path)


def test_both_stages_take_a_step_on_the_subject(measured: subject.Subject) -> None:
    """They get the subject's random weights where they would read a file, in the precision that they ask for."""
    weights = dict(subject.random_weights(measured.transformer(), torch.device("cpu")))
    for make in (measured.stage_1, measured.stage_2, functools.partial(measured.stage_1, precision="int8")):
        stage = make(64)
        assert stage.base.transformer.x_embedder.weight.equal(weights["x_embedder.weight"])
        assert stage.step(0)["diffusion_loss"] > 0
    assert stage.base.blocks[0].ff.net[2].weight.dtype == torch.int8


def test_a_card_that_is_too_small_is_refused_by_the_plan(measured: subject.Subject) -> None:
    found = Caps().measure(measured, 64, 0.003)
    for outcome in found.values():
        assert outcome["runs"] is False and "can be used" in outcome["refused"]


def test_blocks_that_all_fit_into_the_ring_are_never_copied(tmp_path: Path) -> None:
    two = dataclasses.replace(subject.TINY, doubles=1, singles=1)
    found = streamed(subject.Subject(two, torch.device("cpu"), tmp_path), 64, "bf16", 1.0)
    assert (found["blocks"], found["copies"], found["copy"]) == (2, 0, 0)


def test_a_stage_that_fails_under_a_cap_leaves_the_other_its_row(measured: subject.Subject) -> None:
    """Stage 1 for want of memory, by the cheaper plan as well; stage 2 for want of a file."""
    plans = []

    def load(
        reference: BaseReference, device: torch.device | str, home: torch.device | str | None = None
    ) -> FluxBase:
        plans.append(reference)
        if len(plans) <= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        raise OSError("no file")

    measured.shelf = base_shelf.BaseShelf(load)
    found = Caps().measure(measured, 64, 0.03)
    assert found["stage 1"]["runs"] is False and "CUDA out of memory" in found["stage 1"]["out_of_memory"]
    assert found["stage 2"]["runs"] is False and found["stage 2"]["error"] == "OSError: no file"


def test_every_row_runs_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At one size of pictures, as a rehearsal. Nothing is published of it."""
    out, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    given = ["run", "--tiny", "--pixels", "64", "--seconds", "1e6", "--out", str(out), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", given)
    backends = dict(compiling.BACKENDS)
    run.main()
    capsys.readouterr()
    found = {row["row"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert list(found) == [
        "machine", *(name for name, *_ in run.all_rows((64,), run.CAPS["tiny"])), "ratios"
    ]  # fmt: skip
    failed = {name: row for name, row in found.items() if {"error", "oom", "skipped", "left_out"} & set(row)}
    assert not failed
    cards = [found[f"card of {cap:g} GiB, 64 px"] for cap in run.CAPS["tiny"]]
    for outcome in (card[stage] for card in cards for stage in ("stage 1", "stage 2")):
        assert outcome["runs"] and outcome["predicted"] <= outcome["usable"] and outcome["step_seconds"] > 0
    assert "streamed" in cards[0]["stage 2"]["plan"]
    assert cards[-1]["stage 2"]["plan"] == "bf16, nothing computed anew"
    for name in ("stage 1 compiled", "stage 1 int8_convrot compiled", "stage 2 compiled"):
        assert found[f"{name}, 64 px"]["graphs"] > 0, name
    assert found["streamed int8_convrot 1, 64 px"]["blocks"] == 7
    for name in ("streamed bf16 0.5", "stage 1 compiled", "stage 1 int8"):
        gained = found["ratios"][f"norm of the first gradient, {name}, 64 px"]
        assert gained == pytest.approx(1, abs=0.1 if "int8" in name else 1e-6), name
    assert compiling.BACKENDS == backends
    assert page.read_text() == f"{report.BEGIN}\n{report.END}\n"


MACHINE = {
    "row": "machine", "device": "Some GPU", "torch": "2.11", "diffusers": "0.35", "peft": "0.21", "comfy_kitchen": "",
    "sides": [512, 1024], "whole": True,
}  # fmt: skip
CAPPED = {
    "row": "card of 12 GiB, 1024 px",
    "stage 1": {
        "runs": True, "plan": "int8_convrot, every block computed anew", "predicted": 10.04, "peak": 10.26,
        "step_seconds": 1.5,
    },
    "stage 2": {"runs": False, "plan": "int8_convrot, 35% of the blocks streamed", "predicted": 10.2, "error": "it"},
}  # fmt: skip
ROWS = [
    MACHINE,
    {
        "row": "ceilings", "large": 8192, "bf16_tflops": 680.0, "int8_tflops": 600.0, "best_kernel": "torch",
        "products_tflops": {"1536 x 3072 -> 3072": {"bf16": 500.0, "int8": 400.0, "layer": {"torch": 300.0}}},
        "copies_gb_per_s": {"pageable": 6.0, "pinned": 54.0},
    },
    CAPPED,
    {"row": "stage 1, 512 px", "seconds": 0.68, "steps": {"peak": 23.97}},
    {"row": "stage 1, 1024 px", "oom": True, "message": "CUDA out of memory."},
    {
        "row": "streamed int8_convrot 1, 512 px", "seconds": 0.7, "compute": 0.65, "copy": 0.4, "over_bound": 1.08,
        "copies": 110, "copied_gib": 21.0, "gb_per_s": 54.0,
    },
    {"row": "plain fp32, 512 px", "skipped": "about 9 s, and 3 are left"},
    {"row": "ratios", "stage 2 over stage 1, 512 px": 1.7},
]  # fmt: skip


def test_a_whole_run_on_a_gpu_writes_its_part_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(ROWS, page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nSome GPU, torch 2.11") and text.endswith("\nafter\n")
    assert "old" not in text
    for line in (
        "| card of 12 GiB, 1024 px | stage 1 | int8_convrot, every block computed anew | 10.0 | 10.3 | 1.50 |",
        "| card of 12 GiB, 1024 px | stage 2 | int8_convrot, 35% of the blocks streamed | 10.2 | it | |",
        "| stage 1, bf16 | 0.680, 24.0 |  |",
        "| streamed int8_convrot 1, 512 px | 0.700 | 0.650 | 0.400 | 1.08 | 21.0 | 54.0 |",
        "| 1536 x 3072 -> 3072 | 500 | 400 | 300 |",
        "Ratios: stage 2 over stage 1, 512 px 1.7.",
        "Without a figure: stage 1, 1024 px (out of memory); plain fp32, 512 px (no time was left).",
    ):
        assert line in text.splitlines(), line
    report.write(ROWS, page)
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("change", "words"), [({"device": "CPU"}, "of a CPU"), ({"whole": False}, "of a smaller model")]
)
def test_other_runs_are_not_published(change: dict[str, object], words: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{report.BEGIN}\n{report.END}\n")
    before = page.read_text()
    with pytest.raises(ValueError, match=words):
        report.write([MACHINE | change, *ROWS[1:]], page)
    assert page.read_text() == before


def test_the_page_has_the_place_for_it() -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    assert text.index(report.BEGIN) < text.index(report.END)
