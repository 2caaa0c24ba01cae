"""Cancel at any moment, in previews, measurements and encodings too: it is never told as a failure."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.test_run_requests import LONG, running
from fluxduel.tests.host.two_stage_graph import LATENTS, STAGE_1, STAGE_2, two_stage_graph, write_pictures

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
    """Both stages preview each step, so that much of their time is the host's own VAE."""
    print_ = random.Random(SEED)
    ended: Counter[str] = Counter()
    before = len(comfy_host.log)
    for moment in range(MOMENTS):
        # In turn while pictures are encoded and models loaded, in stage 1 and in stage 2.
        within = (None, STAGE_1, STAGE_2)[moment % 3]
        graph = two_stage_graph(folder.name, prefix="loras/cancel")
        graph[LATENTS]["inputs"]["resolution"] = 64 if within else 96 + 16 * moment
        often = {"preview_every": 1, "preview_steps": 1, "validate_every": 1, "watch_pictures": 4}
        graph[STAGE_2]["inputs"] |= {"steps": LONG, "seed": 100 + moment, **often}
        del often["watch_pictures"]
        if within == STAGE_2:
            often = {"preview_every": 0, "validate_every": 0}
        graph[STAGE_1]["inputs"] |= {"steps": 1 if within == STAGE_2 else LONG, "seed": 100 + moment, **often}
        prompt = comfy_host.queue(graph)
        if within:
            running(comfy_host, within, step=0)
        time.sleep(print_.uniform(0.0, 2.5))
        comfy_host.interrupt()
        # Where nothing runs yet the host forgets the press: then there is another. A stage has to see the first.
        deadline = time.monotonic() + 90
        while prompt not in comfy_host.get(f"/history/{prompt}"):
            assert time.monotonic() < deadline, f"moment {moment}: {comfy_host.log_tail()}"
            time.sleep(print_.uniform(0.5, 3.0))
            if within is None:
                comfy_host.interrupt()
        end = failure(comfy_host.wait(prompt)) or "went to its end"
        assert end.startswith("interrupted in "), f"moment {moment}: {end}"
        ended[end] += 1
        for stage in (STAGE_1, STAGE_2):
            told = state(comfy_host, stage)
            assert told["state"] in ("none", "finished", "stopped"), f"moment {moment}: {told}"
    print(dict(ended))
    assert "Exception during processing" not in comfy_host.log[before:]
