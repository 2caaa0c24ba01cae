"""The base that stays loaded between nodes and queues, in a real host: when it is used again, and when it goes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import (
    LATENTS,
    SAMPLE,
    STAGE_1,
    STAGE_2,
    Graph,
    node,
    two_stage_graph,
    write_pictures,
)
from fluxduel.tests.inside_host import host_or_skip, run_inside

EVALUATE = "20"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = tmp_path_factory.mktemp("kept-base")
    told = run_inside("host_kept_base.py", base, base / "report.json")
    # What the host says of a model that is neither here nor gone.
    return {"memory_leak": "memory leak" in told, **json.loads((base / "report.json").read_text())}


def test_the_host_knows_what_is_kept(report: dict[str, Any]) -> None:
    assert report["listed"] == report["listed_once"] == 1
    assert report["size"] == [report["bytes"]] * 2 and report["bytes"] > 1e6
    assert not report["memory_leak"]


def test_the_next_use_has_the_same_base_and_the_hosts_models_have_gone(report: dict[str, Any]) -> None:
    assert report["same"] and report["same_after_failure"] and not report["others_left"]


def test_the_host_takes_the_memory_back_where_it_needs_it(report: dict[str, Any]) -> None:
    assert report["kept_where_there_is_room"] and report["both"]
    assert report["gone_where_there_is_none"] and report["whole"]
    assert report["unload_all_models"] and report["cleanup"] and report["loaded_anew"]


def test_hosts_that_keep_nothing_on_the_card_keep_no_base(report: dict[str, Any]) -> None:
    assert report["smart_memory_off"] and report["novram"] and report["lowvram"]
    assert report["room"] == [True, True, False]


def whole_graph(folder: str, seed: int = 0) -> Graph:
    """Both stages, samples and an evaluation of the tiny base."""
    graph = two_stage_graph(folder, prefix=f"loras/kept{seed}")
    for stage in (STAGE_1, STAGE_2):
        graph[stage]["inputs"]["seed"] = 100 + seed
    evaluation = {
        "flux_lora": [STAGE_2, 0], "real_latents": [LATENTS, 0], "flux_lora_2": [STAGE_1, 0], "step_counts": "1",
        "count": 4, "seed": 0, "guidance": 1.0, "pictures": 1, "sampler": "euler", "neighbours": "off",
    }  # fmt: skip
    graph[EVALUATE] = node("FluxDuelEvaluateFluxLoRA", evaluation)
    graph["21"] = node("PreviewAny", {"source": [EVALUATE, 2]})
    assert graph[SAMPLE]["class_type"] == "FluxDuelSampleFluxLoRA"
    return graph


def loads(host: ComfyHost) -> tuple[int, int]:
    """How often so far a base was loaded, and how often it was there still."""
    return host.log.count("Loading fluxduel-tiny-base"), host.log.count("fluxduel-tiny-base (fp32) is still loaded")


def wait_for(words: str, host: ComfyHost) -> None:
    deadline = time.monotonic() + 30
    while words not in host.log:
        assert time.monotonic() < deadline, host.log_tail()
        time.sleep(0.1)


@pytest.mark.parametrize(("arguments", "expected"), [((), (1, 3)), (("--disable-smart-memory",), (4, 0))])
def test_a_graph_loads_its_base_once(
    tmp_path_factory: pytest.TempPathFactory, arguments: tuple[str, ...], expected: tuple[int, int]
) -> None:
    """Stage 1, stage 2, samples, evaluation; the next queue goes on with it, and the page's button unloads it."""
    host_or_skip()
    with ComfyHost(tmp_path_factory.mktemp("kept-in-host"), arguments=arguments) as host:
        write_pictures(host.base / "input" / "kept")
        host.run(whole_graph("kept"))
        assert loads(host) == expected
        host.run(whole_graph("kept", seed=1))
        loaded, used = loads(host)
        assert (loaded, used) == ((1, 7) if not arguments else (8, 0))
        assert "base is unloaded" not in host.log
        host.post("/free", {"unload_models": True})
        if not arguments:
            # The host does it between two graphs, and not before one that is waiting already.
            wait_for("base is unloaded", host)
        host.run(whole_graph("kept", seed=2))
        assert loads(host) == ((2, 10) if not arguments else (12, 0))
