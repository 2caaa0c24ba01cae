"""What the registry, ComfyUI-Manager and the layering rely on, read from the files."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxduel.demo.templates.__main__ import BLUEPRINT, templates
from fluxduel.headless.command_line import parsers
from fluxduel.tests.comfy_host import ROOT
from fluxduel.training.base.checkpoint_files import TINY_BASE_FOLDER
from fluxduel.training.data.demo_pictures import DEMO_FOLDER, DEMO_LABEL

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOST_MODULES = {
    "comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "nodes", "execution",
    "latent_preview", "node_helpers", "aiohttp",
}  # fmt: skip
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
ENGINE = [path for top in ("training", "discriminator", "headless") for path in sorted((ROOT / top).rglob("*.py"))]
NODE_FILES = sorted((ROOT / "nodes").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import in the file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            if node.module is None:
                yield from ((node.level, alias.name) for alias in node.names)


def imported_from_host(path: Path) -> set[str]:
    return {name.split(".")[0] for level, name in imports(path) if level == 0} & HOST_MODULES


def schema_ids() -> dict[str, Path]:
    """The ids that ComfyUI-Manager's scanner finds: literal, in a direct subclass of io.ComfyNode."""
    found = {}
    for path in NODE_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef) or [ast.unparse(base) for base in node.bases] != ["io.ComfyNode"]:
                continue
            (schema,) = [call for call in ast.walk(node) if isinstance(call, ast.Call) and is_schema(call)]
            (node_id,) = [keyword.value for keyword in schema.keywords if keyword.arg == "node_id"]
            assert isinstance(node_id, ast.Constant), f"{name_of(path)}: the node_id must be a literal"
            found[node_id.value] = path
    return found


def is_schema(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "io.Schema"


def bounds(requirements: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", requirement).groups() for requirement in requirements)


def test_the_hosts_requirements_are_the_projects_dependencies_and_one_cap() -> None:
    """Every newer diffusers wants another huggingface-hub or safetensors than some host has, and pip would move them.

    So a host gets one that takes what is there (``test_install.py``). An environment of one's own may have any.
    """
    lines = (ROOT / "requirements.txt").read_text().split()
    wanted = bounds(PROJECT["dependencies"])
    assert bounds(lines) == wanted | {"diffusers": wanted["diffusers"] + ",<0.36"}


def test_nothing_that_comes_with_the_host_is_required_or_capped() -> None:
    for name, bound in bounds(PROJECT["dependencies"]).items():
        assert name.lower() not in {"torch", "torchvision", "torchaudio", "numpy", "transformers", "pillow"}
        assert re.fullmatch(r">=[0-9.]+", bound), f"{name}{bound}: only lower bounds, for the user's other packs"


def test_setuptools_knows_every_package_folder() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (*ENGINE, *NODE_FILES) if path.name == "__init__.py"}
    expected = {"fluxduel", *("fluxduel." + name_of(folder).replace("/", ".") for folder in folders)}
    assert set(setuptools["packages"]) == expected


def test_no_file_is_a_link() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert [name for name in tracked.stdout.split("\0") if (ROOT / name).is_symlink()] == []


def test_the_registry_gets_what_the_tiny_graph_needs() -> None:
    """What ``comfy node pack`` leaves out: the lines of .comfyignore, each a folder or a pattern of one folder.

    They begin with a slash: ``docs/`` alone would leave out ``web/docs``, the nodes' help pages, too.
    """
    lines = (ROOT / ".comfyignore").read_text().split()
    assert all(line.startswith("/") for line in lines)
    left_out = [line[1:] for line in lines]
    needed = [*DEMO_FOLDER.iterdir(), *(path for path in TINY_BASE_FOLDER.rglob("*") if path.is_file())]
    assert len(needed) > 80
    for path in [name_of(path) for path in needed]:
        assert not [line for line in left_out if path.startswith(line) or fnmatch.fnmatch(path, line)], path
    (load,) = [
        node
        for node in json.loads((ROOT / "example_workflows" / "A first run on the tiny base.json").read_text())["nodes"]
        if node["type"] == "FluxDuelLoadTrainingImages"
    ]
    assert load["widgets_values"][0] == DEMO_LABEL


def test_the_registrys_icon_is_a_square_of_this_repository() -> None:
    comfy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["comfy"]
    repository = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    address = f"https://raw.githubusercontent.com/{repository}/main/"
    assert comfy["Icon"].startswith(address)
    picture = (ROOT / comfy["Icon"].removeprefix(address)).read_text()
    width, height = map(int, re.findall(r'<svg[^>]* width="(\d+)" height="(\d+)"', picture)[0])
    assert width == height <= 400


def test_engine_and_command_line_do_not_import_the_host() -> None:
    for path in ENGINE:
        assert imported_from_host(path) == set(), name_of(path)


def test_only_one_folder_of_the_nodes_talks_to_the_host() -> None:
    for path in NODE_FILES:
        allowed = HOST_MODULES if path.parent.name == "host" else {"comfy_api"}
        assert imported_from_host(path) <= allowed, name_of(path)


def test_imports_inside_the_pack_are_relative() -> None:
    # The host loads the folder by path, under a name of its own.
    for path in [*ENGINE, *NODE_FILES, ROOT / "__init__.py"]:
        assert not [name for level, name in imports(path) if level == 0 and name.startswith("fluxduel")], name_of(path)


def test_the_engine_loads_without_a_host() -> None:
    script = """
import importlib, sys
from fluxduel.tests.launch_comfy import TorchvisionSchemas
sys.meta_path.insert(0, TorchvisionSchemas())
for name in sys.argv[1:]:
    importlib.import_module(name)
assert "folder_paths" not in sys.modules and "comfy" not in sys.modules
"""
    names = ["fluxduel", "fluxduel.training.runs.train_stages", "fluxduel.headless.command_line"]
    done = subprocess.run([sys.executable, "-c", script, *names], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_node_can_be_found_by_the_managers_scanner() -> None:
    classes = [
        node.name
        for path in NODE_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "define_schema"
    ]
    ids = schema_ids()
    assert len(ids) == len(classes) > 0
    assert all(node_id.startswith("FluxDuel") for node_id in ids)


def test_every_node_has_a_help_page() -> None:
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}
    assert pages == set(schema_ids())
    for page in (ROOT / "web" / "docs").glob("*.md"):
        assert len(page.read_text().split()) > 30, f"{page.name} says nothing"


def test_the_workflows_are_shipped() -> None:
    names = [path.stem for path in WORKFLOWS]
    assert names == sorted(template.name for template in templates())
    assert [path.stem for path in sorted(WORKFLOWS[0].parent.glob("*.jpg"))] == names
    assert all(path.with_suffix(".jpg").stat().st_size < 60_000 for path in WORKFLOWS)


def nodes_of(path: Path) -> list[dict[str, Any]]:
    """The nodes of a workflow and of its subgraphs."""
    workflow = json.loads(path.read_text())
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    return [node for graph in graphs for node in graph["nodes"]]


def test_the_blueprint_is_a_node_of_three_nodes_and_their_options() -> None:
    assert BLUEPRINTS == [BLUEPRINT]
    shown, *inside = nodes_of(BLUEPRINT)
    (subgraph,) = json.loads(BLUEPRINT.read_text())["definitions"]["subgraphs"]
    assert shown["type"] == subgraph["id"] and shown["title"] == subgraph["name"] == BLUEPRINT.stem
    assert shown["properties"]["cnr_id"] == PROJECT["name"] and shown["properties"]["ver"] == PROJECT["version"]
    assert {node["type"] for node in inside} == {
        "FluxDuelTrainDiffusionStage", "FluxDuelTrainAdversarialStage", "FluxDuelLatentDiscriminator",
        "FluxDuelOptimiserOptions",
    }  # fmt: skip
    sockets = {"inputs": ["flux_lora", "real_latents"], "outputs": ["flux_lora", "stage_1_flux_lora", "how_to_sample"]}
    for side, names in sockets.items():
        for graph in (shown, subgraph):
            assert [slot["name"] for slot in graph[side]] == names
    extra = json.loads(BLUEPRINT.read_text())["extra"]
    assert extra["BlueprintDescription"] and "LoRA training" in extra["BlueprintSearchAliases"]


def test_every_node_of_a_workflow_names_its_pack() -> None:
    # What the editor offers to install when a node is missing.
    ours = schema_ids()
    subgraphs = {nodes_of(path)[0]["type"] for path in BLUEPRINTS}
    everything = [node for path in (*WORKFLOWS, *BLUEPRINTS) for node in nodes_of(path)]
    for node in [node for node in everything if node["type"] not in subgraphs]:
        properties = node["properties"]
        if node["type"] in ours:
            assert properties["cnr_id"] == PROJECT["name"]
            assert properties["ver"] == PROJECT["version"]
        else:
            assert not node["type"].startswith("FluxDuel"), f"{node['type']} is no node of this pack"
            assert properties["cnr_id"] == "comfy-core"


def test_no_workflow_holds_a_path_of_the_machine_it_was_made_on() -> None:
    for path in (*WORKFLOWS, *BLUEPRINTS):
        assert re.search(r'"(/[a-z]|[A-Z]:\\)', path.read_text()) is None, name_of(path)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/quickstart/FLUX.md", "docs/quickstart/KLEIN.md", "docs/OPTIONS.md"]
)
def test_the_commands_in_the_documents_are_understood(page: str) -> None:
    """Each ``python -m fluxduel ...``, also under ``accelerate launch``: its command, its flags, their values."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    commands = re.findall(r"-m fluxduel (.+)", blocks)
    assert commands
    for command in commands:
        parser, _ = parsers()
        _, unknown = parser.parse_known_args(shlex.split(command, comments=True))
        assert not unknown, command


def test_the_documents_link_to_what_is_there() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
