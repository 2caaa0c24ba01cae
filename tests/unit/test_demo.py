"""What the demo makes before and after the training: pictures, the queue's graph, the sheet, the numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from PIL import Image

from fluxduel.demo.pictures import unseen
from fluxduel.demo.results import table
from fluxduel.demo.run import STAGES, WORKFLOW, Progress, Run
from fluxduel.demo.sheet import GAP, HEADER, LABEL_WIDTH, SIDE, Arm, paired_distance, sharpness, sheet
from fluxduel.demo.workflow import WorkflowError, api_graph
from fluxduel.tests.comfy_host import ROOT
from fluxduel.training.data.demo_pictures import DEMO_FOLDER


def test_every_training_picture_has_its_caption() -> None:
    pictures = sorted(DEMO_FOLDER.glob("*.webp"))
    assert len(pictures) == 40
    captions = [picture.with_suffix(".txt").read_text().strip() for picture in pictures]
    assert captions == [f"3d {picture.stem.replace('-', ' ')}" for picture in pictures]


def test_what_is_compared_with_was_not_trained_on() -> None:
    contents = {Image.open(path).convert("RGB").tobytes() for path in DEMO_FOLDER.glob("*.webp")}
    captions = {path.read_text().strip() for path in DEMO_FOLDER.glob("*.txt")}
    assert len(contents) == 40 and len(unseen()) == 6
    assert not captions & unseen().keys()
    assert not contents & {picture.tobytes() for picture in unseen().values()}


def test_the_distance_is_each_pictures_own() -> None:
    truths = torch.stack([torch.full((3, 8, 8), value) for value in (0.25, 0.75)])
    pictures = torch.stack([truths[0] + torch.tensor([0.0, 0.5]).view(2, 1, 1, 1), truths[1].expand(2, -1, -1, -1)])
    assert paired_distance(pictures, truths) == pytest.approx(0.5 / 4)
    # What is finer than four pixels does not count.
    assert paired_distance(truths[:, None] + 0.1 * (-1) ** torch.arange(8), truths) == pytest.approx(0, abs=1e-6)


def test_sharpness_is_that_of_the_finest_detail() -> None:
    checks = ((-1.0) ** torch.arange(16)).expand(1, 3, 16, 16)
    assert sharpness((0.5 + 0.1 * checks)[:, None], 0.5 + 0.4 * checks) == pytest.approx(0.25, rel=1e-4)
    assert sharpness(0.1 * checks[:, None] + torch.rand(1, 2, 3, 1, 1), 0.1 * checks) == pytest.approx(1, rel=1e-4)


def test_the_sheet_puts_every_picture_in_its_cell() -> None:
    arms = []
    for number in range(3):
        pictures = torch.zeros(len(unseen()), 2, 3, SIDE, SIDE)
        pictures[:, 0, 0] = number / 255
        pictures[:, 0, 1] = (torch.arange(len(unseen())) + 1).view(-1, 1, 1) / 255
        arms.append(Arm(f"arm\n{number}", pictures, 0.5, 1.0))
    page, step = sheet(arms), SIDE + GAP
    for row, truth in enumerate(unseen().values()):
        y = HEADER + row * step
        cells = [page.crop((x, y, x + SIDE, y + SIDE)) for x in range(LABEL_WIDTH, page.width, step)]
        assert cells[0].tobytes() == truth.tobytes()
        assert [cell.getextrema() for cell in cells[1:]] == [((n, n), (row + 1, row + 1), (0, 0)) for n in range(3)]


def test_the_table_compares_the_ends_of_both_stages() -> None:
    stage_1 = [{"held_out_loss": 4.0}, {"diffusion_loss": 3.0}, {"held_out_loss": 2.0}]
    verdicts = [(0.1, 0.2), *[(0.5, 0.5)] * 8, (0.9, 0.8)]
    stage_2 = [{"real_accuracy": real, "fake_accuracy": fake} for real, fake in verdicts]
    stage_2 = [{"held_out_loss": 2.0}, *stage_2[:-1], stage_2[-1] | {"held_out_loss": 1.5}]
    text = table(stage_1, stage_2, {"diffusion": 12.4, "adversarial": 7.6})
    assert "stage 1 4.0000 to 2.0000   stage 2 2.0000 to 1.5000" in text
    assert "first fifth  30% of real,  35% of fake" in text
    assert "last fifth   70% of real,  65% of fake" in text
    assert "stage 1 12 s   stage 2 8 s" in text


def test_notes_are_printed_once_and_do_not_restart_the_clock(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message of a stage's state holds the notes that are new."""
    now = 100.0
    monkeypatch.setattr("fluxduel.demo.run.time.monotonic", lambda: now)
    run = Run({})
    progress = Progress(run)

    def state(stage: str, state: str, *notes: list[Any]) -> None:
        nonlocal now
        now += 10.0
        progress.show("fluxduel.state", {"stage": stage, "run": f"{stage}-1", "state": state, "notes": list(notes)})

    state("diffusion", "running")
    state("diffusion", "running", [3, "one", False])
    state("diffusion", "finished", [5, "two", True])
    state("adversarial", "running")
    state("adversarial", "finished", [2, "three", False])
    assert run.folders == {"diffusion": "diffusion-1", "adversarial": "adversarial-1"}
    assert run.seconds == {"diffusion": 20.0, "adversarial": 10.0}
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert printed == ["update 3: one", "update 5: two", "update 2: three"]


INFO: dict[str, Any] = {
    "Sampler": {
        "display_name": "Sampler",
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "name": [["a", "b"]],
                "text": ["STRING", {"forceInput": True}],
            },
            "optional": {"scale": ["FLOAT", {}]},
        },
    },
    "Loader": {"display_name": "Load it", "input": {"required": {}}},
}


def workflow(values: list[Any]) -> dict[str, Any]:
    sampler = {
        "id": 3, "type": "Sampler", "widgets_values": values,
        "inputs": [{"name": "model", "link": 7}, {"name": "text", "link": None}, {"name": "scale", "link": 8}],
    }  # fmt: skip
    loader = {"id": 1, "type": "Loader", "title": "Mine", "inputs": []}
    note = {"id": 2, "type": "MarkdownNote", "inputs": [], "widgets_values": ["words"]}
    return {"nodes": [loader, note, sampler], "links": [[7, 1, 0, 3, 0, "MODEL"], [8, 1, 1, 3, 2, "FLOAT"]]}


def test_the_queues_graph_holds_values_by_name_and_wires() -> None:
    assert api_graph(workflow([5, "fixed", "b", 1.5]), INFO) == {
        "1": {"class_type": "Loader", "inputs": {}, "_meta": {"title": "Mine"}},
        "3": {
            "class_type": "Sampler",
            "inputs": {"seed": 5, "name": "b", "scale": ["1", 1], "model": ["1", 0]},
            "_meta": {"title": "Sampler"},
        },
    }


def test_a_workflow_that_does_not_fit_the_host_is_refused() -> None:
    with pytest.raises(WorkflowError, match="Sampler .* has 3 saved values for 4 widgets: seed, control"):
        api_graph(workflow([5, "b", 1.5]), INFO)
    with pytest.raises(WorkflowError, match="no node Loader"):
        api_graph(workflow([5, "fixed", "b", 1.5]), {"Sampler": INFO["Sampler"]})


def test_the_template_has_what_the_demo_looks_for() -> None:
    """One node that saves, under its own name, and a stage of each kind, whose run holds the stage's LoRA."""
    nodes = json.loads((ROOT / "example_workflows" / WORKFLOW).read_text(encoding="utf-8"))["nodes"]
    kinds = [node["type"] for node in nodes]
    assert kinds.count("FluxDuelTrainDiffusionStage") == kinds.count("FluxDuelTrainAdversarialStage") == 1
    (save,) = (node for node in nodes if node["type"] == "FluxDuelSaveLoRA")
    assert "title" not in save and set(STAGES) == {"diffusion", "adversarial"}
