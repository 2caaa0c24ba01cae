"""The routes of the training folders on a real host: what they show and change, and that they reach nothing else."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from PIL import Image

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import training_graph, write_pictures
from fluxduel.training.data.demo_pictures import DEMO_FOLDER, DEMO_LABEL

SECRET = b"not for pages"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    host: ComfyHost, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Whatever the host answers; ``path`` is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=60)
    try:
        headers = headers or {}
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def get(host: ComfyHost, route: str = "", **query: Any) -> Answer:
    return ask(host, "GET", f"/fluxduel/dataset{route}?{urlencode(query)}")


def post_json(host: ComfyHost, route: str, **body: Any) -> Answer:
    return ask(
        host, "POST", f"/fluxduel/dataset/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )


def upload(host: ComfyHost, content: bytes, **query: Any) -> Answer:
    path = f"/fluxduel/dataset/upload?{urlencode(query)}"
    return ask(host, "POST", path, content, {"Content-Type": "application/octet-stream"})


def png(colour: tuple[int, int, int] = (9, 99, 199), size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def entries(host: ComfyHost, folder: str, **query: Any) -> dict[str, dict[str, Any]]:
    found = get(host, folder=folder, **query).json
    return {entry["name"]: entry for entry in found["entries"]}


@pytest.fixture
def folder(comfy_host: ComfyHost, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Six pictures with captions in a folder of the host's input that no other test uses."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    yield write_pictures(comfy_host.base / "input" / f"set {name}")


def test_a_folder_is_shown_in_parts(comfy_host: ComfyHost, folder: Path) -> None:
    (folder / "picture3.txt").unlink()
    found = get(comfy_host, folder=folder.name, start=2, count=2, trigger_word="ohwx").json
    assert (found["pictures"], found["trained"], found["without_caption"], found["own"]) == (6, 6, 1, True)
    second, third = found["entries"]
    assert (second["name"], second["text"], second["caption"]) == ("picture2.png", "picture number 2",
                                                                   "ohwx, picture number 2")  # fmt: skip
    assert third["problems"] == ["No caption file beside it"] and third["editable"]
    assert second["bucket"] is None and not second["held_out"]


def test_the_demo_pictures_are_shown_and_cannot_be_changed(comfy_host: ComfyHost) -> None:
    found = get(comfy_host, folder=DEMO_LABEL, count=100).json
    assert found["pictures"] == 40 and not found["own"]
    assert not any(entry["editable"] for entry in found["entries"])
    before = {path.name: path.read_bytes() for path in DEMO_FOLDER.iterdir()}
    first = found["entries"][0]
    assert get(comfy_host, "/thumbnail", folder=DEMO_LABEL, name=first["name"]).status == 200
    for answer in (
        post_json(comfy_host, "caption", folder=DEMO_LABEL, name=first["name"], text="x", seen=first["text"]),
        upload(comfy_host, png(), folder=DEMO_LABEL, name="new.png"),
        upload(comfy_host, b"x", folder=DEMO_LABEL, name=first["name"].replace(".webp", ".txt"), replace=1),
    ):
        assert answer.status == 403 and "a part of the pack" in answer.json["error"]
    assert {path.name: path.read_bytes() for path in DEMO_FOLDER.iterdir()} == before


def test_thumbnails_say_what_they_are_of(comfy_host: ComfyHost, folder: Path) -> None:
    Image.effect_noise((900, 600), 99).save(folder / "large.jpg")
    answer = get(comfy_host, "/thumbnail", folder=folder.name, name="large.jpg")
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert picture.size == (192, 128)
    about = json.loads(answer.headers["X-FluxDuel-Picture"])
    assert about == {"width": 900, "height": 600, "masked": False, "remarks": []}
    # A picture that was changed is read anew.
    Image.effect_noise((300, 600), 99).save(folder / "large.jpg")
    answer = get(comfy_host, "/thumbnail", folder=folder.name, name="large.jpg")
    assert json.loads(answer.headers["X-FluxDuel-Picture"])["width"] == 300
    (folder / "large.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    answer = get(comfy_host, "/thumbnail", folder=folder.name, name="large.jpg")
    assert answer.status == 422 and "'large.jpg'" in answer.json["error"]


def test_a_caption_is_written_and_the_node_runs_again(comfy_host: ComfyHost, folder: Path) -> None:
    graph = {
        "3": {
            "class_type": "FluxDuelLoadTrainingImages",
            "inputs": {"folder": folder.name, "caption_rule": "text file", "trigger_word": "", "mask_rule": "none"},
        },
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 1]}},
    }
    assert "picture number 1" in str(comfy_host.run(graph)["4"])
    answer = post_json(
        comfy_host, "caption", folder=folder.name, name="picture1.png", text="Käse,\nein Bild", seen="picture number 1"
    )
    assert answer.status == 200 and answer.json == {"file": "picture1.txt"}
    assert (folder / "picture1.txt").read_bytes() == "Käse,\nein Bild".encode()
    shown = str(comfy_host.run(graph)["4"])
    assert "Käse, ein Bild" in shown and "picture number 1" not in shown


def test_a_caption_that_was_changed_meanwhile_is_not_written_over(comfy_host: ComfyHost, folder: Path) -> None:
    def save(seen: str | None, name: str = "picture1.png") -> Answer:
        return post_json(comfy_host, "caption", folder=folder.name, name=name, text="mine", seen=seen)

    (folder / "picture1.txt").write_text("theirs")
    answer = save("picture number 1")
    assert answer.status == 409 and answer.json["now"] == "theirs"
    assert (folder / "picture1.txt").read_text() == "theirs"
    assert save(None).status == 409
    assert save("theirs").status == 200
    (folder / "picture2.txt").unlink()
    assert save("picture number 2", "picture2.png").status == 409
    assert save(None, "picture2.png").status == 200 and (folder / "picture2.txt").read_text() == "mine"
    # Where the picture's caption is under another name, that file is the one.
    (folder / "picture3.txt").rename(folder / "picture3.png.caption")
    assert save("picture number 3", "picture3.png").json == {"file": "picture3.png.caption"}
    assert not (folder / "picture3.txt").exists()


def test_files_are_added_and_never_replaced_silently(comfy_host: ComfyHost, folder: Path) -> None:
    def send(content: bytes, name: str, **more: Any) -> Answer:
        return upload(comfy_host, content, folder=folder.name, name=name, **more)

    first, second = png(), png((1, 2, 3))
    assert send(first, "new.png").json == {"state": "written", "name": "new.png"}
    assert send(first, "new.png").json["state"] == "same"
    answer = send(second, "new.png")
    assert answer.status == 409 and answer.json["exists"] and (folder / "new.png").read_bytes() == first
    assert send(second, "new.png", replace=1).status == 200 and (folder / "new.png").read_bytes() == second
    assert send(first, "10_cats/masks/new.png").status == 200 and (folder / "10_cats" / "masks" / "new.png").is_file()
    assert send("Käse".encode(), "new.txt").status == 200
    assert entries(comfy_host, folder.name)["new.png"]["caption"] == "Käse"
    for content, name, status in (
        (b"<html>", "page.png", 422),
        (b"pass", "code.py", 422),
        (first, "../new.png", 422),
        (first, "picture1.png/new.png", 422),
        (b"a" * 70_000, "long.txt", 413),
        (b"caf\xe9", "latin.txt", 422),
    ):
        answer = send(content, name)
        assert (answer.status, bool(answer.json["error"])) == (status, True), (name, answer)
    too_large = send(bytes(101 << 20), "large.png")
    assert too_large.status == 413 and "larger than" in too_large.json["error"]
    added = {path.name for path in folder.iterdir() if "picture" not in path.name}
    assert added == {"10_cats", "new.png", "new.txt"}


def test_a_new_folder_is_listed_at_once(comfy_host: ComfyHost) -> None:
    assert post_json(comfy_host, "folder", name="my new set").json == {"folder": "my new set"}
    assert upload(comfy_host, png(), folder="my new set", name="a.png").status == 200
    choices = comfy_host.object_info("FluxDuelLoadTrainingImages")["input"]["required"]["folder"]
    assert "my new set" in str(choices)
    assert get(comfy_host, folder="my new set").json["pictures"] == 1
    for name in ("../out", "/abs", "", ".hidden", "a\\b", "con"):
        assert post_json(comfy_host, "folder", name=name).status == 422, name
    empty = post_json(comfy_host, "folder", name="still empty").json["folder"]
    found = get(comfy_host, folder=empty).json
    assert found["pictures"] == 0 and "holds no picture" in found["problems"][0]


def test_bucket_and_held_out_are_shown_once_they_are_known(comfy_host: ComfyHost, folder: Path) -> None:
    graph = training_graph(folder.name)
    latents = next(key for key, node in graph.items() if node["class_type"] == "FluxDuelEncodeRealLatents")
    images = next(key for key, node in graph.items() if node["class_type"] == "FluxDuelLoadTrainingImages")
    graph[latents]["inputs"]["names"] = [images, 4]
    graph = {key: node for key, node in graph.items() if "Stage" not in node["class_type"]}
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": [latents, 1]}}
    comfy_host.run(graph)
    found = entries(comfy_host, folder.name)
    assert {tuple(entry["bucket"]) for entry in found.values()} == {(64, 64)}
    held_out = [name for name, entry in found.items() if entry["held_out"]]
    assert 0 < len(held_out) < 6


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "ftp://127.0.0.1"}, False),
    ],
)
def test_pages_of_other_origins_are_refused(
    comfy_host: ComfyHost, folder: Path, headers: dict[str, str], allowed: bool
) -> None:
    asked = quote(folder.name)
    for method, path, body, kind in (
        ("GET", f"?folder={asked}", None, {}),
        ("GET", f"/thumbnail?folder={asked}&name=picture1.png", None, {}),
        ("POST", f"/upload?folder={asked}&name=x.png", png(), {"Content-Type": "application/octet-stream"}),
        ("POST", "/folder", b'{"name": "made by others"}', {"Content-Type": "application/json"}),
        (
            "POST",
            "/caption",
            json.dumps({"folder": folder.name, "name": "picture1.png", "text": "x", "seen": "x"}).encode(),
            {"Content-Type": "application/json"},
        ),
    ):
        (folder / "picture1.txt").write_text("x")
        answer = ask(comfy_host, method, f"/fluxduel/dataset{path}", body, {**kind, **headers})
        assert answer.status == (200 if allowed else 403), (path, answer)
    assert (folder / "x.png").exists() == allowed


def test_a_form_of_another_page_cannot_be_sent(comfy_host: ComfyHost, folder: Path) -> None:
    for route in ("caption", "folder", f"upload?folder={quote(folder.name)}&name=x.png"):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            headers = {"Content-Type": kind} if kind else {}
            answer = ask(comfy_host, "POST", f"/fluxduel/dataset/{route}", b"{}", headers)
            # A body without a type counts as bytes, and bytes are no picture.
            assert answer.status == (422 if not kind and "upload" in route else 415), (route, kind)
    assert not (folder / "x.png").exists()


def tree(base: Path, without: Path) -> dict[str, str]:
    """Every file below ``base`` with a hash of it, those below ``without`` and the host's own log and users apart."""
    found = {}
    for path in sorted(base.rglob("*")):
        own = path.is_relative_to(base / "custom_nodes") or path.is_relative_to(base / "user")
        if path.is_file() and not own and not path.is_relative_to(without) and path.name != "comfyui.log":
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


CASES = 900


def test_made_up_requests_reach_nothing_outside(comfy_host: ComfyHost, folder: Path) -> None:
    """Seeded requests to all five routes: odd names, links, methods, types, origins, bodies, numbers."""
    base = comfy_host.base
    secrets = base / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "secret.txt").write_bytes(SECRET)
    secret = png((77, 66, 55), (40, 40))
    (secrets / "secret.png").write_bytes(secret)
    (base / "input" / "top.png").write_bytes(secret)
    for name in ("secret.png", "secret.txt"):
        link = folder / f"link_{name}"
        if not link.is_symlink():
            link.symlink_to(secrets / name)
    (folder / "link_folder").symlink_to(secrets)
    (folder / "picture4.txt").unlink()
    (folder / "picture4.txt").symlink_to(secrets / "secret.txt")

    rng = random.Random(20261128)
    names = [
        "picture1.png", "picture1.txt", "link_secret.png", "link_folder/secret.png", "link_folder/new.png",
        "../top.png", "../../secrets/secret.png", "..\\top.png", "....//top.png", "a/../../top.png",
        str(secrets / "secret.png"),
        "/etc/passwd", "file:///etc/passwd", "C:\\x.png", "//server/x.png", ".", "..", "", " ", "con.png", "a\0.png",
        "a%00.png", "%2e%2e%2ftop.png", "picture1.png/", "picture1.png/x.png", ".hidden.png", "~/x.png",
        "x" * 400 + ".png",
        "\u202epng.exe", "é.png", "猫/猫.png", "masks/picture1.png", "x.svg", "x.py", "x.safetensors", "picture4.txt",
        "new.png", "sub/new.png", "a/b/c/d/e/f.png", "$(touch x).png", "`id`.png", "'; drop.png", "<b>.png",
        "\ufffe.png",
    ]  # fmt: skip
    names += names[:2] * 8 + ["new.png"] * 4
    places = [folder.name] * 20 + [
        "", ".", "..", "../secrets", str(secrets), DEMO_LABEL, "no such folder", f"{folder.name}/../..", "/", "~",
        f"{folder.name}/link_folder", "link_folder", "input", "%2e%2e", "\0", "x" * 5000,
    ]  # fmt: skip
    bodies = [
        b"", b"{}", b"[]", b"null", b'{"a":', b"\xff\xfe", png(), png(), b"words", b"[" * 5000, b"<html>",
        b"0" * 70_000,
    ]  # fmt: skip
    kinds = ["application/json", "application/octet-stream", "text/plain", "multipart/form-data", "image/png"]
    origins: list[dict[str, str]] = [{}] * 8 + [
        {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"},
        {"Host": "evil.example", "Origin": "http://127.0.0.1"},
    ]  # fmt: skip
    numbers = ["0", "5", "2", "3", "4", "6", "50", "-1", "1e9", "", "99999999999999999999", "٣", "NaN", "100", "101"]

    before = tree(base, folder)
    statuses: Counter[int] = Counter()
    for number in range(CASES):
        route = rng.choice(["", "/thumbnail", "/caption", "/upload", "/folder", "/nothing", "/thumbnail/../upload"])
        usual = "POST" if route in ("/caption", "/upload", "/folder") else "GET"
        methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]
        method = usual if rng.random() < 0.8 else rng.choice(methods)
        query = {
            "folder": rng.choice(places), "name": rng.choice(names), "mask": rng.choice(["", *names]),
            "mask_rule": rng.choice(["none", "alpha", "mask files", "x"]), "start": rng.choice(numbers),
            "caption_rule": rng.choice(["text file", "text file", "file name", "folder name", "x"]),
            "count": rng.choice(numbers), "replace": rng.choice(["0", "1", "true"]), "trigger_word": rng.choice(names),
        }  # fmt: skip
        query = {key: value for key, value in query.items() if rng.random() < 0.9}
        encoded = urlencode(query) if rng.random() < 0.9 else quote("&".join(query.values()), safe="&=%/")
        if rng.random() < 0.1:
            encoded += rng.choice(["&name=%FF%FE.png", "&name=%ED%A0%80.png", "&folder=%00", "&&&==", "&name=a&name=b"])
        body = rng.choice(bodies)
        if rng.random() < 0.6:
            made = {
                "folder": rng.choice(places), "name": rng.choice(names),
                "text": rng.choice(["words", "\ud800", "x" * 70_000]),
                "seen": rng.choice([None, "picture number 1", SECRET.decode(), 3]),
            }  # fmt: skip
            body = json.dumps({key: value for key, value in made.items() if rng.random() < 0.95}).encode()
        if route == "/folder" and rng.random() < 0.7:
            body = json.dumps({"name": rng.choice([name for name in names if "/" in name or "\\" in name])}).encode()
        usual = kinds[0] if route in ("/caption", "/folder") else kinds[1]
        kind = usual if rng.random() < 0.8 else rng.choice(kinds)
        headers = {"Content-Type": kind, **rng.choice(origins)}
        path = f"/fluxduel/dataset{route}?{encoded}"
        answer = ask(comfy_host, method, path, body if method != "GET" else None, headers)
        case = f"case {number}: {method} {route} {query} {body[:80]!r} {headers}: {answer.status} {answer.body[:300]!r}"
        statuses[answer.status] += 1
        assert answer.status < 500, case
        assert SECRET not in answer.body, case
        if answer.status == 200 and route == "/thumbnail" and answer.body:
            with Image.open(io.BytesIO(answer.body)) as picture:
                assert picture.size != (40, 40), case
    # Folders that were made in the input folder on purpose hold nothing yet; nothing else has moved.
    print(f"{CASES} requests: {dict(sorted(statuses.items()))}")
    assert tree(base, folder) == before
    assert (secrets / "secret.txt").read_bytes() == SECRET and (secrets / "secret.png").read_bytes() == secret
    assert not [path for path in secrets.iterdir() if path.name not in ("secret.txt", "secret.png")]
    assert statuses[200] > 50 and statuses[403] > 50 and statuses[422] > 50
