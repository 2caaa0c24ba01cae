"""Hundreds of malformed and foreign requests to the pack's routes: none is obeyed, none breaks the host."""

from __future__ import annotations

import gzip
import http.client
import json
import random
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.test_run_requests import LONG, history, running
from fluxduel.tests.host.two_stage_graph import STAGE_1, training_graph, write_pictures

SEED, CASES = 9, 600
ACTIONS = ("finish", "checkpoint", "preview", "folder", "go_on")
STRANGE = (
    "", "0", "5", "-1", "null", "../..", "..%2f..", "%00", "\u202e", "é" * 40, "a" * 5000, "5:5", "__proto__",
    "<script>", "' or 1=1", "diffusion-1", "C:\\", "/etc/passwd", "%s%n", "😀",
)  # fmt: skip


@dataclass
class Case:
    """One request. ``good``: it is one that the page itself may send."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    good: bool = False


@dataclass
class Answer:
    status: int
    kind: str
    body: bytes


def send(host: ComfyHost, case: Case) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=30)
    try:
        connection.request(case.method, case.path, body=case.body, headers=case.headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers.get("Content-Type", ""), answer.read())
    finally:
        connection.close()


def of_our_page(host: ComfyHost, run: dict[str, str], action: str) -> Case:
    body = json.dumps({"node": run["node"], "run": run["run"]}).encode()
    headers = {"Content-Type": "application/json", "Origin": host.url, "Sec-Fetch-Site": "same-origin"}
    return Case("POST", f"/fluxduel/run/{action}", body, headers, good=True)


def spoilt(print_: random.Random, host: ComfyHost, run: dict[str, str]) -> Case:
    """A request of our page with one thing about it that must not be."""
    case = of_our_page(host, run, print_.choice(ACTIONS))
    case.good = False
    kind = print_.choice(["method", "action", "site", "origin", "type", "json", "text", "value", "size", "coding"])
    if kind == "method":
        case.method = print_.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD"])
    elif kind == "action":
        case.path = f"/fluxduel/run/{urllib.parse.quote(print_.choice(STRANGE) or 'x', safe='%')}"
    elif kind == "site":
        case.headers["Sec-Fetch-Site"] = print_.choice(["cross-site", "same-site", "", "elsewhere", "same-origin, x"])
    elif kind == "origin":
        # As from a page that is not on https: its browser does not say whose page it is. An Origin that is no address
        # at all is left out: with such a one the host itself fails, before it asks for a route.
        del case.headers["Sec-Fetch-Site"]
        case.headers["Origin"] = print_.choice(
            ["null", "http://evil.example", f"http://127.0.0.1:{host.port + 1}",
             f"http://127.0.0.1.evil.example:{host.port}",
             f"http://127.0.0.1:{host.port}@evil.example", "file://"]
        )  # fmt: skip
    elif kind == "type":
        case.headers["Content-Type"] = print_.choice(
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx", "a/b/c"]
        )
    elif kind == "json":
        case.body = print_.choice(
            [b"", b"{", b"[" * 3000, b'{"a":' * 600, b"\xff\xfe{}", b"nul", b'{"node": "5", "run"', b"\x00" * 50,
             case.body[:-1], case.body + b"}", print_.randbytes(200)]
        )  # fmt: skip
    elif kind == "text":
        odd: Any = print_.choice([None, 5, 5.0, True, [], {}, ["5"], {"node": "5"}, *STRANGE])
        name = print_.choice(["node", "run"])
        case.body = json.dumps({**json.loads(case.body), name: odd if odd != run[name] else "6"}).encode()
    elif kind == "value":
        values: list[Any] = [None, 1, "text", [], [run], [["node", "5"]], {}, {"run": run["run"]}]
        case.body = json.dumps(print_.choice(values)).encode()
    elif kind == "size":
        more = "x" * print_.choice([4096, 100_000, 2_000_000])
        case.body = json.dumps({**json.loads(case.body), "more": more}).encode()
    else:
        coded = print_.choice([case.body, b"\x1f\x8b garbage", gzip.compress(b"x" * 5_000_000)])
        case.body, case.headers["Content-Encoding"] = coded, print_.choice(["gzip", "deflate"])
    return case


def questions(print_: random.Random) -> Iterator[Case]:
    """About histories and runs, which any program may ask for; by other methods, nobody."""
    for _ in range(CASES // 4):
        odd = print_.choice(STRANGE)
        query = print_.choice([f"node={urllib.parse.quote(odd)}", f"node={urllib.parse.quote(odd, safe='%')}",
                               f"node=5&node={urllib.parse.quote(odd)}", f"columns={urllib.parse.quote(odd)}&node=5",
                               f"node=5&workflow={urllib.parse.quote(odd)}",
                               urllib.parse.quote(odd), "&&&=", "node", "node[]=5", "%zz=%%"])  # fmt: skip
        path = print_.choice(["/fluxduel/history", "/fluxduel/runs", "/api/fluxduel/history", "/fluxduel/previews"])
        method = print_.choice(["GET", "GET", "GET", "POST", "PUT", "DELETE"])
        yield Case(method, f"{path}?{query}".replace("\u202e", "x"), good=method == "GET")


FOLDER = "fuzz-test"
# Of the pack's other routes, what their pages hand over.
PARTS = {
    "/fluxduel/preview": {"node": STAGE_1, "step": "0", "version": "1", "workflow": ""},
    "/fluxduel/preview_sheet": {"node": STAGE_1, "version": "1", "workflow": ""},
    "/fluxduel/dataset": {"folder": FOLDER, "start": "0", "count": "5", "caption_rule": "text file"},
    "/fluxduel/dataset/thumbnail": {"folder": FOLDER, "name": "picture0.png", "mask_rule": "none"},
    "/fluxduel/dataset/caption": {"folder": FOLDER, "name": "picture0.png", "caption": "a picture"},
    "/fluxduel/dataset/upload": {"folder": FOLDER, "name": "picture9.png", "replace": "1"},
    "/fluxduel/dataset/folder": {"name": "fuzz-test-2"},
}


def odd_parts(print_: random.Random) -> Iterator[Case]:
    """Some of what a page hands over is left out or strange, in the query and in the body."""
    for _ in range(CASES // 2):
        path, good = print_.choice(list(PARTS.items()))
        values = {name: print_.choice(STRANGE) if print_.random() < 0.3 else value for name, value in good.items()}
        for name in [name for name in values if print_.random() < 0.2]:
            del values[name]
        body = print_.choice([b"", json.dumps(values).encode(), print_.randbytes(100), b"{", b"[[]]"])
        kind = print_.choice(["application/json", "multipart/form-data; boundary=x", "image/png", ""])
        query = urllib.parse.urlencode(values, safe=print_.choice(["", "%"])).replace("%E2%80%AE", "x")
        yield Case(print_.choice(["GET", "GET", "POST", "PUT"]), f"{path}?{query}", body, {"Content-Type": kind})


@pytest.fixture(scope="module")
def run(comfy_host: ComfyHost) -> Iterator[dict[str, str]]:
    """A run that goes on all the time."""
    folder = write_pictures(comfy_host.base / "input" / FOLDER)
    stage = {"steps": LONG, "validate_every": 0, "checkpoint_every": 0, "preview_every": 0}
    graph = training_graph(folder.name, "loras/fuzz", seed=31, **stage)
    prompt = comfy_host.queue(graph)
    yield running(comfy_host)
    comfy_host.interrupt()
    assert failure(comfy_host.wait(prompt)) == f"interrupted in FluxDuelTrainDiffusionStage (node {STAGE_1})"


def test_nothing_but_our_page_is_obeyed(comfy_host: ComfyHost, run: dict[str, str]) -> None:
    print_, found = random.Random(SEED), Counter()
    errors = comfy_host.log.count("Error handling request")
    for number in range(CASES):
        case = spoilt(print_, comfy_host, run)
        answer = send(comfy_host, case)
        told = f"case {number}: {case} -> {answer}"
        assert 400 <= answer.status < 500, told
        # What the host itself refuses, for its origin or its path, is not ours to word.
        ours = answer.status != 404 and answer.body and answer.kind.startswith("application/json")
        if ours:
            assert json.loads(answer.body)["error"], told
        found[answer.status, bool(ours)] += 1
    print(dict(found))
    assert {status for status, _ in found} >= {400, 403, 404, 405, 409, 413, 415}
    told = history(comfy_host, STAGE_1)
    assert told["state"] == "running" and told["notes"] == []
    folder = Path(json.loads(send(comfy_host, of_our_page(comfy_host, run, "folder")).body)["message"])
    assert not (folder / "checkpoints").exists() and not (folder / "previews").exists()
    assert comfy_host.log.count("Error handling request") == errors


def test_nothing_breaks_what_is_asked_for(comfy_host: ComfyHost, run: dict[str, str]) -> None:
    errors = comfy_host.log.count("Error handling request")
    for number, case in enumerate(questions(random.Random(SEED))):
        answer = send(comfy_host, case)
        told = f"case {number}: {case} -> {answer}"
        assert answer.status in ((200, 204) if case.good else (404, 405)), told
        if answer.status == 200:
            assert isinstance(json.loads(answer.body), dict), told
    assert comfy_host.log.count("Error handling request") == errors


def test_nothing_odd_breaks_the_other_routes(comfy_host: ComfyHost, run: dict[str, str]) -> None:
    """Nor does it write, but captions of the pictures and folders that were named well."""
    errors, found = comfy_host.log.count("Error handling request"), Counter()
    outside = {path for path in comfy_host.base.rglob("*") if comfy_host.base / "input" not in path.parents}
    for number, case in enumerate(odd_parts(random.Random(SEED))):
        answer = send(comfy_host, case)
        assert answer.status < 500, f"case {number}: {case} -> {answer}"
        found[answer.status] += 1
    print(dict(found))
    assert {200, 400, 404, 405} <= set(found)
    assert comfy_host.log.count("Error handling request") == errors
    new = {path for path in comfy_host.base.rglob("*") if comfy_host.base / "input" not in path.parents} - outside
    assert not [path for path in new if "fluxduel" not in path.parts and "temp" not in path.parts]


@pytest.mark.parametrize("headers", [{}, {"Origin": "own"}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://proxy"}])
def test_our_page_is_answered(comfy_host: ComfyHost, run: dict[str, str], headers: dict[str, str]) -> None:
    """Also a program that is no browser, and a page that a proxy serves under another name than it asks the host by."""
    case = of_our_page(comfy_host, run, "folder")
    case.headers = {"Content-Type": "application/json", **headers, "Host": "comfy.example"}
    if headers.get("Origin") == "own":
        case.headers |= {"Origin": comfy_host.url, "Host": comfy_host.url.removeprefix("http://")}
    answer = send(comfy_host, case)
    assert answer.status == 200 and json.loads(answer.body)["message"].endswith(run["run"])


@pytest.mark.parametrize("path", ["/fluxduel/history?node=1", "/fluxduel/runs"])
@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://elsewhere.example"}], ids=str)
def test_another_sites_page_is_told_nothing(
    comfy_host: ComfyHost, run: dict[str, str], path: str, headers: dict[str, str]
) -> None:
    request = urllib.request.Request(comfy_host.url + path, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request)
    assert refusal.value.code == 403
