"""On Run the whole graph is checked at once, each problem told at its node; what is refused would have failed."""

from __future__ import annotations

import json
import threading
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import (
    DISCRIMINATOR,
    LATENTS,
    LORA,
    SAVE,
    STAGE_1,
    STAGE_2,
    Graph,
    node,
    save_node,
    two_stage_graph,
    write_pictures,
)
from fluxduel.tests.unit.graph.machine import changed

FAULTY = {
    LORA: ({"targets": "regex", "target_regex": "("}, "no valid expression"),
    DISCRIMINATOR: ({"taps": "d99"}, "no block of this base"),
    STAGE_2: ({"target": "two_samplers"}, "few_step_phrase"),
}


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> str:
    write_pictures(comfy_host.base / "input" / "check-test", count=2)
    return "check-test"


def own_graph(folder: str) -> Graph:
    """A graph of these tests alone: of a run that another file's tests have finished in this host no memory is
    asked."""
    return changed(two_stage_graph(folder), LORA, rank=3)


def refusal(host: ComfyHost, graph: Graph, **body: Any) -> dict[str, Any]:
    """The host's answer to a graph that it refuses as a whole."""
    with pytest.raises(urllib.error.HTTPError) as error:
        host.post("/prompt", {"prompt": graph} | body)
    assert error.value.code == 400
    return json.loads(error.value.read())


def told(answer: dict[str, Any]) -> dict[str, str]:
    """Node -> all that is said of it."""
    return {
        key: "\n".join(each["details"] for each in report["errors"]) for key, report in answer["node_errors"].items()
    }


def waiting(host: ComfyHost) -> int:
    return host.get("/prompt")["exec_info"]["queue_remaining"]


def test_all_problems_at_once_each_at_its_node(comfy_host: ComfyHost, folder: str) -> None:
    graph = own_graph(folder)
    for key, (inputs, _) in FAULTY.items():
        graph = changed(graph, key, **inputs)
    texts = told(refusal(comfy_host, graph))
    assert set(texts) == set(FAULTY)
    for key, (_, words) in FAULTY.items():
        assert words in texts[key], texts
    assert waiting(comfy_host) == 0


@pytest.mark.parametrize(
    ("key", "inputs", "without", "shown_at"),
    [
        (LATENTS, {}, ["captions"], ["captions"]),
        (LATENTS, {}, ["clip"], ["clip"]),
        (LATENTS, {"bucket_step": 128, "resolution": 64}, ["captions"], ["captions", "resolution"]),
        (LORA, {"targets": "regex", "target_regex": "("}, [], ["target_regex"]),
        (STAGE_2, {"target": "two_samplers"}, [], ["target"]),
        (DISCRIMINATOR, {"taps": "d99"}, [], ["taps"]),
    ],
    ids=["captions", "clip", "two", "regex", "target", "taps"],
)
def test_each_problem_is_told_at_the_input_that_it_is_about(
    comfy_host: ComfyHost, folder: str, key: str, inputs: dict[str, Any], without: list[str], shown_at: list[str]
) -> None:
    graph = changed(own_graph(folder), key, **inputs)
    for name in without:
        del graph[key]["inputs"][name]
    for path in ("/prompt", "/api/prompt"):
        with pytest.raises(urllib.error.HTTPError) as error:
            comfy_host.post(path, {"prompt": graph})
        errors = json.loads(error.value.read())["node_errors"][key]["errors"]
        assert [each["extra_info"]["input_name"] for each in errors] == shown_at, errors
        assert all(each["details"].startswith(f"{name} - ") for each, name in zip(errors, shown_at, strict=True))


def test_nothing_trains_for_an_output_that_has_no_problem_of_its_own(comfy_host: ComfyHost, folder: str) -> None:
    graph = changed(own_graph(folder), DISCRIMINATOR, taps="d99")
    graph["30"] = save_node([STAGE_1, 0], "loras/check-stage1")
    assert set(told(refusal(comfy_host, graph))) == {DISCRIMINATOR}
    assert waiting(comfy_host) == 0


def test_a_problem_of_what_does_not_run_stops_nothing(comfy_host: ComfyHost, folder: str) -> None:
    graph = changed(own_graph(folder), DISCRIMINATOR, taps="d99")
    graph |= {"30": save_node([LORA, 0], "loras/check-untrained")}
    answer = comfy_host.post("/prompt", {"prompt": graph, "partial_execution_targets": ["30"]})
    assert answer["node_errors"] == {}
    assert list(comfy_host.wait(answer["prompt_id"])["outputs"]) == ["30"]


def test_on_option_nodes(comfy_host: ComfyHost, folder: str) -> None:
    graph = own_graph(folder)
    for name in ("gradient_checkpointing", "streamed_share", "memory_limit_gb", "compile_blocks"):
        del graph[STAGE_1]["inputs"][name]
    graph["30"] = node("FluxDuelMemoryOptions", {"gradient_checkpointing": False, "streamed_share": 0.5})
    assert set(told(refusal(comfy_host, changed(graph, STAGE_1, options=["30", 0])))) == {"30"}
    # Options at a training node, as version 0.1 had them, come to an option node that no page shows.
    old = changed(own_graph(folder), STAGE_1, gradient_checkpointing=False, streamed_share=0.5)
    (text,) = told(refusal(comfy_host, old)).values()
    assert "Turn gradient_checkpointing on" in text


def test_an_input_that_may_be_left_out_is_told_of(comfy_host: ComfyHost, folder: str) -> None:
    graph = changed(own_graph(folder), DISCRIMINATOR, taps="d99")
    del graph[DISCRIMINATOR]["inputs"]["continue_from"]
    assert set(told(refusal(comfy_host, graph))) == {DISCRIMINATOR}


def test_the_hosts_own_checks_are_left(comfy_host: ComfyHost, folder: str) -> None:
    texts = told(refusal(comfy_host, changed(own_graph(folder), LORA, rank=-1, targets="regex")))
    assert "rank" in texts[LORA] and "target_regex is empty" in texts[LORA]
    graph = changed(own_graph(folder), STAGE_2, target_steps=0)
    assert "target_steps" in told(refusal(comfy_host, graph))[STAGE_2]
    del graph[LATENTS]["inputs"]["vae"]
    assert "vae" in told(refusal(comfy_host, graph))[LATENTS]


def test_requests_at_one_time_do_not_mix(comfy_host: ComfyHost, folder: str) -> None:
    """Each of many graphs is told its own fault, though all name the same nodes."""
    graphs = {
        words: changed(own_graph(folder), key, **inputs) for key, (inputs, words) in FAULTY.items()
    }
    answers: list[tuple[str, str]] = []

    def ask(words: str) -> None:
        answers.append((words, "\n".join(told(refusal(comfy_host, graphs[words])).values())))

    threads = [threading.Thread(target=ask, args=(words,)) for _ in range(4) for words in graphs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(threads)
    for words, text in answers:
        assert [each for each in graphs if each in text] == [words]


def test_a_card_that_is_too_small(comfy_host: ComfyHost, folder: str) -> None:
    texts = told(refusal(comfy_host, changed(own_graph(folder), STAGE_2, memory_limit_gb=0.001)))
    assert "Stage 2 does not fit" in "".join(texts.values())


def test_a_folder_that_cannot_be_written_to(comfy_host: ComfyHost, folder: str) -> None:
    blocked = comfy_host.base / "output" / "blocked"
    blocked.write_text("a file where a folder is meant")
    try:
        texts = told(refusal(comfy_host, two_stage_graph(folder, prefix="blocked/lora")))
        assert set(texts) == {SAVE} and str(blocked) in texts[SAVE]
    finally:
        Path(blocked).unlink()
