"""What may be asked of a run that is going on, and of which."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxduel.training.runs.running import ACTIONS, ANSWERS, NotRunning, RunningRuns

FOLDER = Path("/output/fluxduel/diffusion-1")


def test_only_a_run_that_is_going_on_can_be_asked_and_only_in_its_node() -> None:
    running = RunningRuns()
    with running.open("2:1", "diffusion", FOLDER, "a-graph") as requests:
        assert running.listed() == [
            {"node": "2:1", "workflow": "a-graph", "stage": "diffusion", "run": "diffusion-1"}
        ]
        for node, run in (("1", "diffusion-1"), ("2:1", "diffusion-2"), ("", ""), ("2:1", str(FOLDER))):
            with pytest.raises(NotRunning):
                running.ask("finish", node, run)
        assert not requests.asked("finish")
        assert running.ask("finish", "2:1", "diffusion-1") == ANSWERS["finish"] and requests.asked("finish")
        assert running.ask("folder", "2:1", "diffusion-1") == str(FOLDER)
    assert running.listed() == []
    with pytest.raises(NotRunning, match="any more"):
        running.ask("finish", "2:1", "diffusion-1")


def test_each_request_is_answered_once_and_finish_stays() -> None:
    with RunningRuns().open("1", "diffusion", FOLDER) as requests:
        assert not any(requests.take(request) for request in ANSWERS)
        requests.ask("preview")
        requests.ask("preview")
        assert requests.take("preview") and not requests.take("preview") and not requests.take("checkpoint")
        requests.ask("finish")
        assert requests.asked("finish") and requests.asked("finish")


def test_a_run_that_fails_is_over_too() -> None:
    running = RunningRuns()
    with pytest.raises(RuntimeError), running.open("1", "diffusion", FOLDER):
        raise RuntimeError
    assert running.listed() == [] and set(ACTIONS) == {*ANSWERS, "folder"}
