"""Cancel at any moment, in previews, measurements and encodings too: it is never told as a failure."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import STAGE_1, STAGE_2, two_stage_graph, write_pictures

MOMENTS = 20
SEED = 12


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    """Pictures to train on, in the host's input folder."""
    return write_pictures(comfy_host.base / "input" / "cancel-test")


def state(host: ComfyHost, stage: str) -> dict[str, str]:
    try:
        return host.get(f"/fluxduel/history?node={stage}")
    except ValueError:  # no content: it has not begun
        return {"state": "none", "message": ""}


def test_no_cancel_is_a_failure(comfy_host: ComfyHost, folder: Path) -> None:
    """Where both stages preview each step, a half of their time is the host's own VAE."""
    print_ = random.Random(SEED)
    ended: dict[str, int] = {}
    for moment in range(MOMENTS):
        graph = two_stage_graph(folder.name, prefix="loras/cancel")
        often = {"preview_every": 1, "preview_steps": 1, "validate_every": 1}
        stage_1 = 100_000 if moment % 2 else 2
        graph[STAGE_1]["inputs"] |= {"steps": stage_1, "seed": 100 + moment, **often}
        graph[STAGE_2]["inputs"] |= {"steps": 100_000, "watch_pictures": 4, "seed": 100 + moment, **often}
        prompt = comfy_host.queue(graph)
        time.sleep(print_.uniform(0.0, 4.0))
        comfy_host.interrupt()
        # Where nothing ran yet the host forgets the press: then there is another.
        deadline = time.monotonic() + 120
        while prompt not in comfy_host.get(f"/history/{prompt}"):
            assert time.monotonic() < deadline, comfy_host.log_tail()
            time.sleep(print_.uniform(0.5, 3.0))
            comfy_host.interrupt()
        end = failure(comfy_host.wait(prompt)) or "went to its end"
        assert end.startswith("interrupted in "), f"moment {moment}: {end}"
        ended[end] = ended.get(end, 0) + 1
        for stage in (STAGE_1, STAGE_2):
            told = state(comfy_host, stage)
            assert told["state"] in ("none", "finished", "stopped"), f"moment {moment}: {told}"
    print(ended)
    assert sum(ended.values()) == MOMENTS and "failed" not in comfy_host.log.lower()
