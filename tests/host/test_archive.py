"""What the registry packs trains from folders of other names, with blanks and letters of other alphabets above them."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from fluxduel.tests.comfy_host import ROOT, ComfyHost
from fluxduel.tests.host.two_stage_graph import two_stage_graph
from fluxduel.training.data.demo_pictures import DEMO_LABEL

LARGEST_MB = 20
# Nobody who trains needs these; all of the rest is needed.
LEFT_OUT = {"tests", "benchmarks", "demo", "docs", ".github", ".ci", "Makefile", ".gitignore"}
NAMES = ["fluxduel", "ComfyUI-FluxDuel-main"]


def tracked(*arguments: str) -> set[str]:
    """Files that git knows, as ``git ls-files`` lists them."""
    listed = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


def packed() -> list[str]:
    """What ``comfy node pack`` takes: what is tracked, minus .comfyignore, which reads as a .gitignore."""
    return sorted(tracked() - tracked("--cached", "--ignored", "--exclude-from=.comfyignore"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "node.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in packed():
            file.write(ROOT / name, name)
    return path


def test_the_archive_holds_what_is_needed_and_no_more(archive: Path) -> None:
    names, everything = set(packed()), tracked()
    size = archive.stat().st_size / 1e6
    print(f"{len(names)} of {len(everything)} files, {size:.1f} MB packed")
    assert size < LARGEST_MB
    assert not [name for name in names if PurePosixPath(name).parts[0] in LEFT_OUT]
    code = ("training", "discriminator", "nodes", "headless")
    for needed in (*code, "web", "locales", "example_workflows", "subgraphs"):
        assert {name for name in everything if name.startswith(needed + "/")} <= names, needed
    for needed in ("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md"):
        assert needed in names
    maker = [name for name in names if name.startswith("assets/") and name.endswith(".py")]
    assert not maker and {name for name in everything if name.startswith("assets/demo_pictures/")} <= names


@pytest.fixture(scope="module", params=NAMES)
def elsewhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, archive: Path
) -> Iterator[tuple[ComfyHost, str]]:
    """A ComfyUI with the archive in its ``custom_nodes``, and the folder's name."""
    base = tmp_path_factory.mktemp("base") / "Meine Bilder – 画像" / "Comfy UI"
    folder = base / "custom_nodes" / request.param
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    with ComfyHost(base, pack=None) as host:
        yield host, request.param


def fetched(host: ComfyHost, path: str) -> bytes:
    with urllib.request.urlopen(host.url + urllib.parse.quote(path), timeout=60) as answer:
        return answer.read()


def test_its_page_files_are_served_and_find_each_other(elsewhere: tuple[ComfyHost, str]) -> None:
    host, name = elsewhere
    scripts = [path for path in host.get("/extensions") if path.startswith(f"/extensions/{name}/")]
    here = [path for path in packed() if path.startswith("web/") and path.endswith(".js")]
    assert {path.split("/", 3)[3] for path in scripts} == {path.removeprefix("web/") for path in here}
    imported = set()
    for script in scripts:
        text = fetched(host, script).decode()
        for target in re.findall(r'(?:from|import)\s*\(?\s*"(\.[^"]+)"', re.sub(r"/\*.*?\*/", "", text, flags=re.S)):
            imported.add(urllib.parse.urljoin(script, target))
    assert len(imported) > 10 and "/scripts/app.js" in imported
    for path in imported:
        assert fetched(host, path), path
    nodes = [node for node in host.object_info() if node.startswith("FluxDuel")]
    assert len(nodes) > 15
    for node in nodes:
        assert fetched(host, f"/extensions/{name}/docs/{node}.md")


def test_its_templates_and_words_are_there(elsewhere: tuple[ComfyHost, str]) -> None:
    host, name = elsewhere
    templates = host.get("/workflow_templates")[name]
    assert len(templates) >= 2
    for template in templates:
        assert json.loads(fetched(host, f"/api/workflow_templates/{name}/{template}.json"))["nodes"]
    languages = host.get("/i18n").items()
    assert {"zh", "ja"} <= {language for language, words in languages if "FluxDuel" in json.dumps(words)}


def test_it_trains(elsewhere: tuple[ComfyHost, str]) -> None:
    """Both stages on the pictures that come with it; the LoRA lies in the host's own folder."""
    host, name = elsewhere
    host.run(two_stage_graph(DEMO_LABEL, f"loras/{name}"), timeout=500)
    assert list((host.base / "output" / "loras").glob(f"{name}*.safetensors"))
    assert "Traceback" not in host.log
