"""ComfyUI itself is cancelled, stopped and killed in the midst of a graph, and the graph is queued again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.comfy_host import ComfyHost, HostError, failure, host_folder
from fluxduel.tests.host.two_stage_graph import STAGE_1, STAGE_2, Graph, two_stage_graph, write_pictures

STEPS = {STAGE_1: 60, STAGE_2: 30}


@pytest.fixture(scope="module", autouse=True)
def host_is_there() -> None:
    try:
        host_folder()
    except HostError as error:
        pytest.skip(str(error))


def graph_for(base: Path) -> Graph:
    """Both stages, long enough to be interrupted, on pictures in this host's input folder."""
    folder = base / "input" / "restart-test"
    if not folder.exists():
        write_pictures(folder)
    graph = two_stage_graph(folder.name, prefix="loras/restart")
    graph[STAGE_1]["inputs"] |= {"steps": STEPS[STAGE_1], "validate_every": 20, "checkpoint_every": 10}
    graph[STAGE_2]["inputs"] |= {"steps": STEPS[STAGE_2], "validate_every": 15, "checkpoint_every": 10}
    return graph


def record_of(host: ComfyHost, node: str) -> dict[str, Any]:
    try:
        return host.get(f"/fluxduel/history?node={node}")
    except ValueError:  # no content: the node has not run in this process
        return {"state": "none", "records": []}


def wait_for_step(host: ComfyHost, node: str, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        records = record_of(host, node)["records"]
        if records and records[-1]["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"Node {node} did not reach step {step}.\n{host.log_tail()}")


def finish(host: ComfyHost, graph: Graph) -> None:
    entry = host.wait(host.queue(graph))
    assert failure(entry) is None, failure(entry)


def cancel_at(node: str, step: int) -> Callable[[ComfyHost, Graph], None]:
    def work(host: ComfyHost, graph: Graph) -> None:
        prompt = host.queue(graph)
        wait_for_step(host, node, step)
        host.interrupt()
        assert "interrupted in FluxDuelTrain" in (failure(host.wait(prompt)) or "")
        assert "Queue again to go on from step" in record_of(host, node)["message"]

    return work


def kill_at(node: str, step: int) -> Callable[[ComfyHost, Graph], None]:
    def work(host: ComfyHost, graph: Graph) -> None:
        host.queue(graph)
        wait_for_step(host, node, step)
        host._process.kill()
        host.join()

    return work


def results(base: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, bytes]]:
    """The saved LoRA, the discriminator, and the statistics of both stages."""
    runs = {stage: list((base / "output" / "fluxduel").glob(f"{stage}-*")) for stage in ("diffusion", "adversarial")}
    assert all(len(found) == 1 for found in runs.values()), runs
    (adversarial,) = runs["adversarial"]
    stats = {stage: (found[0] / "stats.jsonl").read_bytes() for stage, found in runs.items()}
    files = sorted((base / "output" / "loras").glob("restart_*.safetensors"))
    return load_file(files[-1]), load_file(adversarial / "discriminator.safetensors"), stats


def assert_same(one: Path, other: Path) -> None:
    (lora, judge, stats), (lora_2, judge_2, stats_2) = results(one), results(other)
    assert stats == stats_2
    for expected, found in ((lora, lora_2), (judge, judge_2)):
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base folder of a host in which the graph ran without a pause."""
    base = tmp_path_factory.mktemp("whole")
    with ComfyHost(base) as host:
        finish(host, graph_for(base))
    return base


@pytest.mark.parametrize(
    "interruptions",
    [
        pytest.param([cancel_at(STAGE_1, 13), cancel_at(STAGE_1, 37), cancel_at(STAGE_2, 12)], id="cancelled"),
        pytest.param([kill_at(STAGE_1, 27), kill_at(STAGE_2, 17)], id="killed"),
    ],
)
def test_a_restarted_host_ends_with_the_same_lora(
    whole: Path, tmp_path: Path, interruptions: list[Callable[[ComfyHost, Graph], None]]
) -> None:
    graph = graph_for(tmp_path)
    for interrupt in interruptions:
        with ComfyHost(tmp_path) as host:
            interrupt(host, graph)
    with ComfyHost(tmp_path) as host:
        finish(host, graph)
        # This process has done the rest of stage 2 alone, and knows the whole of both stages.
        assert "finished in diffusion-" in record_of(host, STAGE_1)["message"]
        for node, steps in STEPS.items():
            records = record_of(host, node)["records"]
            assert records[-1]["step"] == steps + (node == STAGE_2)
            assert len(records) == steps + (node == STAGE_2) + 1
    assert_same(whole, tmp_path)


def test_a_restarted_host_trains_nothing_twice(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "output" / "fluxduel").rglob("*.safetensors")}
    with ComfyHost(whole) as host:
        finish(host, graph_for(whole))
        for node in STEPS:
            record = record_of(host, node)
            assert record["state"] == "finished" and "its result is used" in record["message"]
        assert "s/it" not in host.log
    after = {path: path.stat().st_mtime_ns for path in (whole / "output" / "fluxduel").rglob("*.safetensors")}
    assert after == before
    files = sorted((whole / "output" / "loras").glob("restart_*.safetensors"))
    one, two = load_file(files[0]), load_file(files[-1])
    assert len(files) > 1 and all(torch.equal(one[key], two[key]) for key in one)
