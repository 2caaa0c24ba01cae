"""What a page asks of a run in a real ComfyUI: its end before the last step, a checkpoint, a preview, its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from safetensors.torch import load_file

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import (
    SAVE,
    STAGE_1,
    STAGE_2,
    node,
    training_graph,
    two_stage_graph,
    write_pictures,
)

LONG = 100_000


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    """Pictures to train on, in the host's input folder."""
    return write_pictures(comfy_host.base / "input" / "requests-test")


def until(host: ComfyHost, met: Callable[[], Any], seconds: float = 90) -> Any:
    """What ``met`` gives, once that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := met():
            return found
        time.sleep(0.05)
    raise AssertionError(host.log_tail())


def running(host: ComfyHost, stage: str = STAGE_1, step: int = 1) -> dict[str, str]:
    """The run of ``stage`` as the host lists it, once it is at ``step``."""

    def found() -> dict[str, str] | None:
        run = next((run for run in host.get("/fluxduel/runs")["runs"] if run["node"] == stage), None)
        history = host.get(f"/fluxduel/history?node={stage}") if run else {"records": []}
        return run if history["records"] and history["records"][-1]["step"] >= step else None

    return until(host, found)


def executed(host: ComfyHost, graph: dict[str, Any]) -> tuple[set[str], dict[str, Any]]:
    """The nodes that the host ran for ``graph``, and what it gave."""
    entry = host.wait(host.queue(graph))
    assert failure(entry) is None, failure(entry)
    cached = next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")
    return set(graph) - set(cached), entry["outputs"]


def history(host: ComfyHost, stage: str) -> dict[str, Any]:
    return host.get(f"/fluxduel/history?node={stage}")


def test_finish_now_and_go_on(comfy_host: ComfyHost, folder: Path) -> None:
    """Both stages end early, the graph goes on to its end; what is queued again goes by what is there."""
    graph = two_stage_graph(folder.name, prefix="loras/early")
    graph[STAGE_1]["inputs"] |= {"steps": LONG, "seed": 21, "validate_every": 0, "checkpoint_every": 0}
    graph[STAGE_2]["inputs"] |= {"steps": LONG, "seed": 21, "validate_every": 20, "checkpoint_every": 0}
    graph["20"] = node("PreviewAny", {"source": [STAGE_2, 2]})
    prompt = comfy_host.queue(graph)
    for stage in (STAGE_1, STAGE_2):
        run = running(comfy_host, stage, step=3)
        assert comfy_host.post("/fluxduel/run/finish", run)["message"].startswith("The stage ends after this update.")
    entry = comfy_host.wait(prompt)
    assert failure(entry) is None
    ends = {}
    for stage in (STAGE_1, STAGE_2):
        told = history(comfy_host, stage)
        ends[stage] = told["records"][-1]["step"]
        assert 3 <= ends[stage] < LONG and told["state"] == "finished"
        assert told["message"].startswith(f"Finished early, as asked, at update {ends[stage]} of ")
        assert sum("Finished early, as asked: the last update was" in text for _, text, _ in told["notes"]) == 1
    said = entry["outputs"]["20"]["text"][0]
    assert f"Stage 1 was finished early, after update {ends[STAGE_1]} of {LONG}." in said
    assert f"Stage 2 was finished early, after update {ends[STAGE_2]} of {LONG + 1}." in said
    assert said.split("\n")[-1] == history(comfy_host, STAGE_2)["notes"][-1][1]
    loras = comfy_host.base / "output" / "loras"
    first = load_file(loras / "early_00001_.safetensors")

    # The host has it, and runs nothing.
    assert executed(comfy_host, graph)[0] == set()
    # A host that remembers nothing runs both stages anew, which take what lies in their folders.
    comfy_host.post("/free", {"free_memory": True, "unload_models": True})
    until(comfy_host, lambda: comfy_host.get("/queue")["queue_running"] == [])
    time.sleep(1)
    began = time.monotonic()
    nodes, _ = executed(comfy_host, graph)
    assert {STAGE_1, STAGE_2, SAVE} <= nodes and time.monotonic() - began < 60
    message = history(comfy_host, STAGE_1)["message"]
    assert f"as asked, at update {ends[STAGE_1]} of {LONG}; its result is used. With any other" in message
    again = load_file(loras / "early_00002_.safetensors")
    assert all(tensor.equal(again[key]) for key, tensor in first.items())

    # So many steps as were made are that run; more go on from there, to the same as without the break.
    graph[STAGE_1]["inputs"]["steps"] = ends[STAGE_1]
    executed(comfy_host, graph)
    assert history(comfy_host, STAGE_1)["message"].startswith("The same run is finished in ")
    longer = training_graph(
        folder.name, "loras/longer", steps=ends[STAGE_1] + 2, seed=21, validate_every=0, checkpoint_every=0
    )
    executed(comfy_host, longer)
    told = history(comfy_host, STAGE_1)
    assert told["message"].startswith(f"Finished at update {ends[STAGE_1] + 2} of ")
    assert f"Extending {told['run']}: steps was {ends[STAGE_1]}, now {ends[STAGE_1] + 2}." in comfy_host.log


def test_what_was_finished_early_can_go_on(comfy_host: ComfyHost, folder: Path) -> None:
    """Also where the host still has the result, and would not run the node again."""
    stage = {"steps": 300, "seed": 24, "validate_every": 0, "checkpoint_every": 0}
    graph = training_graph(folder.name, "loras/on", **stage)
    prompt = comfy_host.queue(graph)
    run = running(comfy_host, step=3)
    comfy_host.post("/fluxduel/run/finish", run)
    assert failure(comfy_host.wait(prompt)) is None
    facts = history(comfy_host, STAGE_1)["facts"]
    assert 3 <= facts["early"] < 300 and "reused" not in facts
    assert executed(comfy_host, graph)[0] == set()
    # A host that remembers nothing takes the run's result, and says so.
    graph[SAVE]["inputs"]["prefix"] = "loras/on-again"
    comfy_host.post("/free", {"free_memory": True, "unload_models": True})
    time.sleep(1)
    executed(comfy_host, graph)
    assert history(comfy_host, STAGE_1)["facts"] == {**facts, "reused": 1}

    with pytest.raises(HTTPError, match="409"):
        comfy_host.post("/fluxduel/run/go_on", {"node": STAGE_1, "run": f"../{run['run']}"})
    assert "goes on from there" in comfy_host.post("/fluxduel/run/go_on", run)["message"]
    with pytest.raises(HTTPError, match="409"):
        comfy_host.post("/fluxduel/run/go_on", run)
    assert STAGE_1 in executed(comfy_host, graph)[0]
    told = history(comfy_host, STAGE_1)
    assert told["run"] == run["run"] and [record["step"] for record in told["records"]] == list(range(1, 301))
    assert told["message"].startswith("Finished at update 300 of 300") and "early" not in told["facts"]
    assert executed(comfy_host, graph)[0] == set()


def test_checkpoint_preview_and_folder(comfy_host: ComfyHost, folder: Path) -> None:
    stage = {"steps": LONG, "seed": 22, "validate_every": 0, "checkpoint_every": 0, "preview_every": 0}
    graph = training_graph(folder.name, "loras/asked", preview_steps=1, **stage)
    prompt = comfy_host.queue(graph)
    run = running(comfy_host)
    path = Path(comfy_host.post("/fluxduel/run/folder", run)["message"])
    assert path == comfy_host.base / "output" / "fluxduel" / run["run"] and path.is_dir()
    assert not (path / "checkpoints").exists() and not (path / "previews").exists()
    assert comfy_host.post("/fluxduel/run/checkpoint", run)["message"] == "A checkpoint is written after this update."
    (checkpoint,) = until(comfy_host, lambda: list(path.glob("checkpoints/step-*")))
    assert load_file(checkpoint / "lora.safetensors")
    assert comfy_host.post("/fluxduel/run/preview", run)["message"] == "A preview is sampled after this update."
    until(comfy_host, lambda: list(path.glob("previews/step-*.png")))
    step = int(checkpoint.name.removeprefix("step-"))
    noted = until(comfy_host, lambda: history(comfy_host, STAGE_1)["notes"])
    said = f"The checkpoint of update {step} is written. lora.safetensors in it is a LoRA to try."
    assert [step, said, False] in noted
    comfy_host.interrupt()
    assert failure(comfy_host.wait(prompt)) == f"interrupted in FluxDuelTrainDiffusionStage (node {STAGE_1})"
    assert comfy_host.get("/fluxduel/runs") == {"runs": []}
    # Its folder is still told, and nothing else.
    assert comfy_host.post("/fluxduel/run/folder", run)["message"] == str(path)
    for action, asked in (("preview", run), ("folder", run | {"node": SAVE}), ("folder", run | {"run": ".."})):
        with pytest.raises(HTTPError, match="409"):
            comfy_host.post(f"/fluxduel/run/{action}", asked)
    assert len(list(path.glob("previews/step-*.png"))) == 1


def test_what_cancel_left_among_the_loras_goes_when_the_run_is_finished(comfy_host: ComfyHost, folder: Path) -> None:
    loras = comfy_host.base / "output" / "loras"
    stage = {"steps": LONG, "seed": 23, "validate_every": 0, "checkpoint_every": 0}
    prompt = comfy_host.queue(training_graph(folder.name, "loras/later", **stage))
    run = running(comfy_host)
    comfy_host.interrupt()
    assert failure(comfy_host.wait(prompt)).startswith("interrupted")
    left = loras / f"fluxduel-interrupted-{run['run']}.safetensors"
    assert left.is_file() and history(comfy_host, STAGE_1)["state"] == "stopped"

    prompt = comfy_host.queue(training_graph(folder.name, "loras/later", **stage))
    assert running(comfy_host) == run and left.is_file()
    comfy_host.post("/fluxduel/run/finish", run)
    assert failure(comfy_host.wait(prompt)) is None
    assert not left.exists() and len(list(loras.glob("later_*.safetensors"))) == 1
