"""ComfyUI itself is cancelled, stopped and killed in the midst of a graph, and the graph is queued again."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import STAGE_1, STAGE_2, Graph, two_stage_graph, write_pictures
from fluxduel.tests.inside_host import host_or_skip

STEPS = {STAGE_1: 60, STAGE_2: 30}
STAGE_NAMES = {STAGE_1: "diffusion", STAGE_2: "adversarial"}
CHECKPOINT_EVERY = 10


@pytest.fixture(scope="module", autouse=True)
def host_is_there() -> None:
    host_or_skip()


def graph_for(base: Path) -> Graph:
    """Both stages, long enough to be interrupted, on pictures in this host's input folder."""
    folder = base / "input" / "restart-test"
    if not folder.exists():
        write_pictures(folder)
    graph = two_stage_graph(folder.name, prefix="loras/restart")
    graph[STAGE_1]["inputs"] |= {"steps": STEPS[STAGE_1], "validate_every": 20, "checkpoint_every": CHECKPOINT_EVERY}
    graph[STAGE_2]["inputs"] |= {"steps": STEPS[STAGE_2], "validate_every": 15, "checkpoint_every": CHECKPOINT_EVERY}
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


def finish(host: ComfyHost, graph: Graph) -> float:
    """Run the graph to its end. Returns the seconds that it took."""
    began = time.monotonic()
    entry = host.wait(host.queue(graph))
    assert failure(entry) is None, failure(entry)
    return time.monotonic() - began


class Interruption(NamedTuple):
    """The Cancel button, or SIGKILL, once a node has trained ``step`` steps."""

    how: str
    node: str
    step: int

    def happen(self, host: ComfyHost, graph: Graph) -> None:
        prompt = host.queue(graph)
        wait_for_step(host, self.node, self.step)
        if self.how == "kill":
            host._process.kill()
            host.join()
            return
        host.interrupt()
        assert "interrupted in FluxDuelTrain" in (failure(host.wait(prompt)) or "")
        assert "Queue again to go on from update" in record_of(host, self.node)["message"]

    def assert_gone_on(self, log: str) -> None:
        """The process after it did not begin anew: Cancel loses no step, SIGKILL those since the last checkpoint."""
        stage = STAGE_NAMES[self.node]
        (step,) = re.findall(rf"{stage} stage: Going on with {stage}-\S+ from update (\d+)", log)
        lost = CHECKPOINT_EVERY if self.how == "kill" else 0
        assert int(step) >= self.step - lost, f"{self} went on from step {step}"
        print(f"{self.how} at step {self.step} or after in {stage}: gone on from step {step}")


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


class Whole(NamedTuple):
    """The base folder of a host in which the graph ran without a pause, and the seconds that it took."""

    base: Path
    seconds: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    base = tmp_path_factory.mktemp("whole")
    with ComfyHost(base) as host:
        return Whole(base, finish(host, graph_for(base)))


@pytest.mark.parametrize(
    "interruptions",
    [
        pytest.param([("cancel", STAGE_1, 13), ("cancel", STAGE_1, 37), ("cancel", STAGE_2, 12)], id="cancelled"),
        pytest.param([("kill", STAGE_1, 27), ("kill", STAGE_2, 17)], id="killed"),
    ],
)
def test_a_restarted_host_ends_with_the_same_lora(
    whole: Whole, tmp_path: Path, interruptions: list[tuple[str, str, int]]
) -> None:
    graph = graph_for(tmp_path)
    before = None
    for interruption in itertools.starmap(Interruption, interruptions):
        with ComfyHost(tmp_path) as host:
            interruption.happen(host, graph)
            if before is not None:
                before.assert_gone_on(host.log)
        before = interruption
    with ComfyHost(tmp_path) as host:
        finish(host, graph)
        assert before is not None
        before.assert_gone_on(host.log)
        # This process has done the rest of stage 2 alone, and knows the whole of both stages.
        assert "finished in diffusion-" in record_of(host, STAGE_1)["message"]
        for node, steps in STEPS.items():
            records = record_of(host, node)["records"]
            assert records[-1]["step"] == steps + (node == STAGE_2)
            assert len(records) == steps + (node == STAGE_2) + 1
    assert_same(whole.base, tmp_path)


def test_a_restarted_host_trains_nothing_twice(whole: Whole) -> None:
    runs = whole.base / "output" / "fluxduel"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    with ComfyHost(whole.base) as host:
        seconds = finish(host, graph_for(whole.base))
        for node in STEPS:
            record = record_of(host, node)
            assert record["state"] == "finished" and "its result is used" in record["message"]
        assert "s/it" not in host.log
    print(f"the graph took {whole.seconds:.1f} s, and {seconds:.1f} s when both stages were finished already")
    assert seconds < whole.seconds / 2
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    files = sorted((whole.base / "output" / "loras").glob("restart_*.safetensors"))
    one, two = load_file(files[0]), load_file(files[-1])
    assert len(files) > 1 and all(torch.equal(one[key], two[key]) for key in one)
