"""Graphs that were saved with the last version mean the same with this one."""

from __future__ import annotations

import copy
import json

import pytest

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.contract import FILE, broken, contract

PROMISED = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def now(comfy_host: ComfyHost) -> dict:
    return contract(comfy_host)


@pytest.mark.parametrize("node", PROMISED)
def test_a_node_keeps_what_it_promised(now: dict, node: str) -> None:
    assert node in now
    assert broken(PROMISED[node], now[node]) == []


def test_a_breach_is_noticed(now: dict) -> None:
    """Each kind of change that would give a saved graph another meaning."""
    node = "FluxDuelTrainAdversarialStage"
    breaches = []
    for breach in range(7):
        changed = copy.deepcopy(now[node])
        widgets = changed["widgets"]
        if breach == 0:
            widgets.insert(0, {"name": "new", "type": "INT", "default": 0})
        elif breach == 1:
            widgets.pop()
        elif breach == 2:
            widgets[2]["default"] += 1
        elif breach == 3:
            widgets[0]["choices"].remove("jump")
        elif breach == 4:
            changed["outputs"].reverse()
        elif breach == 5:
            del changed["sockets"]["options"]
        else:
            changed["required"].append("new")
        breaches.append(len(broken(now[node], changed)))
    assert all(breaches), breaches
    assert broken(now[node], now[node]) == []
