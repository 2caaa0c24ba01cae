"""What users read calls each thing by its word in the glossary: two words for one thing are two things to a reader."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from fluxduel.tests.comfy_host import ROOT
from fluxduel.training.evidence.glossary import CURVES, WORDS

# What must not be said -> what is. Names in code marks and options (diffusion_loss) are not words.
STRAY = {
    r"diffusion[- ]loss": "flow loss",
    r"(?:flow[- ]matching|denoising|reconstruction) objective": "flow loss",
    r"held-out loss|(?:validation|val|eval(?:uation)?|test) loss": "held-out flow loss",
    r"(?:GAN|generator|gen|G)[- ]loss": "adversarial loss",
    r"(?:critic|disc|D)[- ]loss": "discriminator loss",
    r"(?<!over-)sharpness|high[- ]frequency (?:energy|power|content)": "high frequencies",
    r"variety of (?:the )?(?:samples|pictures)": "diversity",
    r"pair-?wise accuracy": "pair accuracy",
    r"(?:training|train|optimi[sz]er|gradient|weight) (?:steps?|iterations?)|iterations?": "update",
    r"VRAM peak|peak VRAM|memory peak": "peak memory",
    r"generator": "LoRA",
}
# One spelling of each.
SPELLING = {r"optimizers?": "optimiser", r"regulariz\w+": "regularis...", r"hold-?out|heldout": "held-out"}
DOCUMENTS = [
    ROOT / "README.md",
    # Experiments measure pictures in ways of their own, with names of their own.
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "EXPERIMENTS.md"),
    *sorted((ROOT / "web" / "docs").glob("*.md")),
]


def texts() -> Iterator[tuple[str, str]]:
    """(where, text) of the documents, of the code's texts, and of what the page runs."""
    for path in DOCUMENTS:
        yield str(path.relative_to(ROOT)), without_code(path.read_text(encoding="utf-8"))
    for room in ("training", "discriminator", "nodes", "headless"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for text in spoken(ast.parse(path.read_text(encoding="utf-8"))):
                yield str(path.relative_to(ROOT)), text
    for path in sorted((ROOT / "web" / "js").rglob("*.js")):
        for line in without_comments(path.read_text(encoding="utf-8")).splitlines():
            yield str(path.relative_to(ROOT)), line


def spoken(tree: ast.AST) -> Iterator[str]:
    """Texts of more than a word, but documentation, and the synonyms by which nodes are searched."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.keyword) and node.arg == "search_aliases":
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
        yield from spoken(node)


def without_code(page: str) -> str:
    return re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", page, flags=re.DOTALL)


def without_comments(script: str) -> str:
    return re.sub(r"/\*.*?\*/|(?m:^\s*//[^\n]*$)", " ", script, flags=re.DOTALL)


def strays(text: str) -> list[str]:
    words = STRAY | SPELLING
    return [
        f"{found[0]} (say: {words[pattern]})"
        for pattern in words
        if (found := re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", " ".join(text.split()), re.IGNORECASE))
    ]


def test_what_users_read_keeps_to_the_glossary() -> None:
    found = list(texts())
    assert len(found) > 900
    assert {where for where, _ in found} >= {"README.md", "docs/TUNING.md", "training/config.py", "web/js/run_text.js"}
    assert [(where, stray) for where, text in found for stray in strays(text)] == []


def test_the_words_that_are_said_are_in_the_glossary() -> None:
    known = {*(term.label for term in CURVES.values()), *WORDS, "LoRA"}
    assert set(STRAY.values()) - known == set()


def test_a_stray_word_is_found() -> None:
    assert strays("The validation\nloss rises.") == ["validation loss (say: held-out flow loss)"]
    assert strays("The held-out flow loss, by ss_optimizer and the sampler's steps.") == []
    (spoken_,) = spoken(ast.parse('"""The diffusion loss."""\nSchema(search_aliases=["val loss"], d="A GAN loss.")'))
    assert strays(spoken_) == ["GAN loss (say: adversarial loss)"]
    assert isinstance(DOCUMENTS[0], Path)
