"""Previews of a real run in a real ComfyUI: the files, the routes, and requests that are none of the page's."""

from __future__ import annotations

import io
import json
import random
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import LATENTS, STAGE_1, STAGE_2, two_stage_graph, write_pictures

PROMPTS = "a cat\na 猫 in the rain\na boat"


@pytest.fixture(scope="module")
def trained(comfy_host: ComfyHost) -> ComfyHost:
    """A host in which both stages have shown their pictures."""
    folder = write_pictures(comfy_host.base / "input" / "previews-test")
    graph = two_stage_graph(folder.name, prefix="loras/previews")
    graph[LATENTS]["inputs"]["preview_prompts"] = PROMPTS
    graph[STAGE_1]["inputs"] |= {"preview_every": 2, "preview_steps": 2}
    graph[STAGE_2]["inputs"] |= {"preview_every": 100, "target_steps": 1}
    comfy_host.run(graph)
    return comfy_host


def get(host: ComfyHost, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, str]:
    """Status, body and type of the answer to ``GET path``, whatever it is."""
    try:
        with urllib.request.urlopen(urllib.request.Request(host.url + path, headers=headers or {}), timeout=30) as a:
            return a.status, a.read(), a.headers.get_content_type()
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers.get_content_type()


def listed(host: ComfyHost, node: str) -> dict[str, Any]:
    return host.get(f"/fluxduel/previews?node={node}")


@pytest.mark.parametrize(
    ("node", "steps", "how"),
    [(STAGE_1, [0, 2, 3], "2 steps, euler, seed 0"), (STAGE_2, [0, 3], "1 step, euler, seed 0")],
)
def test_the_page_is_told_of_each_step_and_gets_its_pictures(
    trained: ComfyHost, node: str, steps: list[int], how: str
) -> None:
    found = listed(trained, node)
    assert [each["step"] for each in found["steps"]] == steps
    # The last one is of what is delivered, which in stage 2 is the best state.
    best = trained.get(f"/fluxduel/history?node={node}")["facts"].get("best_step", steps[-1])
    assert [each["delivered"] for each in found["steps"]] == [None] * (len(steps) - 1) + [best]
    guided = how.replace("euler", "euler, guidance 3.5")
    assert found["rows"] == [{"prompt": prompt, "how": guided} for prompt in PROMPTS.split("\n")]
    for each in found["steps"]:
        status, body, kind = get(trained, f"/fluxduel/preview?{urllib.parse.urlencode({'node': node, **each})}")
        assert (status, kind) == (200, "image/jpeg") and Image.open(io.BytesIO(body)).size == (3 * 64, 64)
    status, body, kind = get(trained, f"/fluxduel/preview_sheet?node={node}")
    assert (status, kind) == (200, "image/png") and Image.open(io.BytesIO(body)).format == "PNG"
    folder = trained.base / "output" / "fluxduel" / found["run"] / "previews"
    names = {"sheet.png", *(f"step-{step:06}.png" for step in steps)}
    assert {path.name for path in folder.iterdir()} == names and body == (folder / "sheet.png").read_bytes()


def test_other_prompts_train_nothing_anew(trained: ComfyHost) -> None:
    before = listed(trained, STAGE_1)
    graph = two_stage_graph("previews-test", prefix="loras/previews")
    graph[LATENTS]["inputs"]["preview_prompts"] = "a house"
    graph[STAGE_1]["inputs"] |= {"preview_every": 2, "preview_steps": 2}
    graph[STAGE_2]["inputs"] |= {"preview_every": 100, "target_steps": 1}
    trained.run(graph)
    after = listed(trained, STAGE_1)
    # The node has run again, and its run has not.
    assert after.pop("sitting") > before.pop("sitting") and after == before
    assert "finished" in trained.get(f"/fluxduel/history?node={STAGE_1}")["message"]


def test_a_node_without_previews_has_none(trained: ComfyHost) -> None:
    for node in ("no-such-node", "", "1"):
        assert get(trained, f"/fluxduel/previews?node={node}")[:2] == (204, b"")
        assert get(trained, f"/fluxduel/preview_sheet?node={node}")[0] == 404


def test_pages_of_other_sites_are_refused(trained: ComfyHost) -> None:
    for path in ("previews", "preview", "preview_sheet"):
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://example.com"}):
            status, _, _ = get(trained, f"/fluxduel/{path}?node={STAGE_1}", headers)
            assert status == 403, (path, headers)


ODD = (
    "", "0", "-1", "5", "7", "1e3", "0x0", "٣", " 0", "0 ", "999999999999999999999999", "nan", "None", "../../run.json",
    "/etc/passwd", "..%2f..%2fetc%2fpasswd", "C:\\windows\\win.ini", "sheet.png", "step-000000.png", "%00", "\x00",
    "a" * 5000, "<script>", "5:1", "\N{SNOWMAN}", "*", "true", "[0]", "{}", "0\n0",
)  # fmt: skip
NAMES = ("node", "step", "version", "run", "path", "folder", "sheet", "filename")


def test_odd_requests_get_no_file_but_the_previews(trained: ComfyHost) -> None:
    """300 of them, from a seed: an answer below 500 always, and never anything but a preview of that node."""
    chosen = random.Random(12)
    answers = {"200": 0, "204": 0, "4xx": 0}
    good = listed(trained, STAGE_1)["steps"]
    for _ in range(300):
        path = chosen.choice(("previews", "preview", "preview_sheet"))
        query = {name: chosen.choice(ODD) for name in chosen.sample(NAMES, chosen.randint(0, 4))}
        if chosen.random() < 0.3:
            query |= {"node": STAGE_1, **chosen.choice(good)} | {chosen.choice(NAMES): chosen.choice(ODD)}
        status, body, kind = get(trained, f"/fluxduel/{path}?{urllib.parse.urlencode(query)}")
        assert status in (200, 204) or 400 <= status < 500, (path, query, status)
        answers["4xx" if status >= 400 else str(status)] += 1
        if status == 200:
            assert query["node"] in (STAGE_1, STAGE_2) and kind in ("image/jpeg", "image/png", "application/json")
        elif status >= 400 and kind == "application/json":
            assert json.loads(body)["error"]
    print(answers)
    assert all(answers.values())


def test_a_preview_that_is_gone_is_not_found(trained: ComfyHost) -> None:
    run = listed(trained, STAGE_2)
    path: Path = trained.base / "output" / "fluxduel" / run["run"] / "previews" / "step-000000.png"
    content = path.read_bytes()
    path.unlink()
    try:
        assert [each["step"] for each in listed(trained, STAGE_2)["steps"]] == [3]
        query = urllib.parse.urlencode({"node": STAGE_2, **run["steps"][0]})
        status, body, _ = get(trained, f"/fluxduel/preview?{query}")
        assert status == 404 and "Reload the page" in json.loads(body)["error"]
        # Cut off in the midst of its pixels, as by a copy that failed.
        path.write_bytes(content[: len(content) * 2 // 3])
        (cut,) = [each for each in listed(trained, STAGE_2)["steps"] if each["step"] == 0]
        status, body, _ = get(trained, f"/fluxduel/preview?{urllib.parse.urlencode({'node': STAGE_2, **cut})}")
        assert status == 404 and "cannot be read" in json.loads(body)["error"]
    finally:
        path.write_bytes(content)
