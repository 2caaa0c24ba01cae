"""The nodes are found by the words that people search, and told apart by the first letters of their names."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import Any

import pytest

from fluxduel.headless.options_document import NODES
from fluxduel.headless.workflow_graph import NAMES
from fluxduel.tests.comfy_host import ROOT, ComfyHost

# Hosts that ignore search aliases look at names alone.
IN_A_NAME = ("train", "LoRA", "GAN", "dataset", "FLUX")
IN_A_TEXT = (*IN_A_NAME, "fine-tune", "dreambooth", "kohya", "adversarial", "discriminator")
# Letters of a name that a narrow sidebar shows.
SHOWN = 8
# What nodes were called once, in pieces, so that this file does not hold it.
ONCE = (
    "Train Diffusion" + " Stage", "Train Adversarial" + " Stage",
    "Load Training" + " Images", "Load Training" + " Dataset",
)  # fmt: skip


@pytest.fixture(scope="module")
def nodes(comfy_host: ComfyHost) -> dict[str, Any]:
    return {name: node for name, node in comfy_host.object_info().items() if name.startswith("FluxDuel")}


@pytest.mark.parametrize("word", IN_A_NAME)
def test_a_node_s_name_has_the_word(nodes: dict[str, Any], word: str) -> None:
    assert [name for name, node in nodes.items() if has(node["display_name"], word)]


@pytest.mark.parametrize("word", IN_A_TEXT)
def test_a_node_s_name_or_description_has_the_word(nodes: dict[str, Any], word: str) -> None:
    assert [name for name, node in nodes.items() if has(f"{node['display_name']} {node['description']}", word)]


@pytest.mark.parametrize("word", [*IN_A_TEXT, "finetune", "captions"])
def test_search_finds_the_word_on_a_host_that_knows_aliases(nodes: dict[str, Any], word: str) -> None:
    """From the sources: the host of the tests may be one that drops them. No host searches descriptions."""
    known = [node["display_name"] for node in nodes.values()]
    for path in (ROOT / "nodes").rglob("*.py"):
        for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(found, ast.keyword) and found.arg == "search_aliases":
                known += ast.literal_eval(found.value)
    assert any(has(text, word) for text in known)


def has(text: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", text, re.IGNORECASE) is not None


def test_names_differ_where_they_are_cut_off(nodes: dict[str, Any]) -> None:
    beginnings = Counter(node["display_name"][:SHOWN] for node in nodes.values())
    assert [beginning for beginning, count in beginnings.items() if count > 1] == []


def test_no_other_node_of_the_host_has_such_a_name(comfy_host: ComfyHost, nodes: dict[str, Any]) -> None:
    names = [node["display_name"] for node in nodes.values()]
    others = {node["display_name"] for name, node in comfy_host.object_info().items() if name not in nodes}
    assert len(set(names)) == len(names)
    assert set(names) & others == set()


def test_the_command_line_calls_nodes_by_their_names(nodes: dict[str, Any]) -> None:
    names = {name: node["display_name"] for name, node in nodes.items()}
    assert {name: names[name] for name in NAMES} == NAMES
    assert set(NODES.values()) <= {*names.values(), "headless only"}


def test_nothing_calls_a_node_by_a_former_name() -> None:
    files = [path for kind in ("py", "md", "js", "json") for path in ROOT.rglob(f"*.{kind}") if is_ours(path)]
    texts = {str(path.relative_to(ROOT)): joined(path.read_text(encoding="utf-8")) for path in files}
    assert len(texts) > 200
    assert [(file, name) for file, text in texts.items() for name in ONCE if name in text] == []


def joined(text: str) -> str:
    """On one line, and without the quotation marks where a literal goes on."""
    return " ".join(re.sub(r'"\s*\n\s*f?"', "", text).split())


def is_ours(path: Any) -> bool:
    return not path.relative_to(ROOT).parts[0].startswith(".")
