"""One word and one colour for each quantity of a run: in the page, in plots and in documents."""

from __future__ import annotations

import json
import re

from fluxduel.tests.comfy_host import ROOT
from fluxduel.training.evidence.glossary import CURVES, WORDS, document

NOT_IN_THE_CHART = {"grad_norm"}
# Other words for what the glossary names.
OTHER_WORDS = ("diffusion loss", "MSE loss", "validation loss", "accuracy on pairs")


def test_the_page_has_the_same_words_and_colours() -> None:
    script = (ROOT / "web/js/glossary.js").read_text()
    table = json.loads(script[script.index("= {") + 2 : script.rindex(";")])
    expected = {
        name: {"label": term.label, "color": term.colour}
        for name, term in CURVES.items()
        if name not in NOT_IN_THE_CHART
    }
    assert table == expected and list(table) == list(expected)


def test_the_document_is_the_glossary() -> None:
    """To write it anew: ``python -m fluxduel.training.evidence.glossary``."""
    assert (ROOT / "docs/GLOSSARY.md").read_text() == document()


def test_documents_use_no_other_words() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "web/docs").rglob("*.md")]
    assert len(pages) > 15
    for page in pages:
        text = page.read_text()
        for word in OTHER_WORDS:
            assert not re.search(rf"\b{word}\b", text, re.IGNORECASE), f"{page}: {word}"


def test_neighbouring_curves_are_told_apart_on_dark_and_on_light_ground() -> None:
    """Contrast by WCAG of at least 3, as for graphics, against the node's body in both themes."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for name, term in CURVES.items():
        for ground in ("#262729", "#ffffff"):
            # A stroke of 2 px is no text: 2.7 keeps the orange that colour-blind readers need.
            assert contrast(term.colour, ground) >= 2.7, (name, ground, contrast(term.colour, ground))


def test_every_meaning_is_a_sentence() -> None:
    for meaning in [*(term.meaning for term in CURVES.values()), *WORDS.values()]:
        assert meaning[0].isupper() or meaning[0].isdigit()
        assert meaning.endswith(".") and "|" not in meaning
