"""The translations of the nodes: complete, none stale, one word for one thing, and served."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fluxduel.tests.comfy_host import ROOT, ComfyHost
from fluxduel.tests.host.locales import LANGUAGES, TERMS, ours, said, served, table, translated, written

AGAIN = "write it into tests/host/translations, then run python -m fluxduel.tests.host.locales"


@pytest.fixture(scope="module")
def nodes(comfy_host: ComfyHost) -> dict[str, Any]:
    return ours(comfy_host)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_translation_is_left_over(nodes: dict[str, Any], language: str) -> None:
    """A text that was changed is another text: it fails here until its translation has been looked at."""
    texts, words = {text for _, text in said(nodes)}, table(language)
    assert sorted(texts - set(words)) == [], AGAIN
    assert sorted(set(words) - texts) == [], AGAIN


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_file_is_made_from_the_table(nodes: dict[str, Any], language: str) -> None:
    assert served(language).read_text(encoding="utf-8") == written(translated(nodes, table(language))), AGAIN


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_serves_it(comfy_host: ComfyHost, nodes: dict[str, Any], language: str) -> None:
    given = comfy_host.get("/i18n")[language]["nodeDefs"]
    assert {name: given[name] for name in nodes} == translated(nodes, table(language))


def test_no_language_replaces_the_nodes_own_words(comfy_host: ComfyHost) -> None:
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == sorted(LANGUAGES)
    assert not set(comfy_host.get("/i18n").get("en", {}).get("nodeDefs", {})) & set(ours(comfy_host))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_keeps_names_and_numbers(language: str) -> None:
    """What a user types or looks for in a file: options, choices with an underscore, numbers, files."""
    lost = {
        text: sorted(gone)
        for text, translation in table(language).items()
        if (gone := names(text) - names(translation))
    }
    assert lost == {}


def names(text: str) -> set[str]:
    return set(re.findall(r"[a-zA-Z0-9]+_[a-zA-Z0-9_]+|\b(?:LoRA|FLUX|VAE|CLIP|AdamW|GAN|MODEL)\b", text)) | {
        number for number in re.findall(r"\d+(?:\.\d+)?", text) if float(number) > 1
    }


@pytest.mark.parametrize("place", range(len(LANGUAGES)), ids=LANGUAGES)
def test_one_word_for_one_thing(place: int) -> None:
    words = table(LANGUAGES[place])
    strayed = [
        (term, text, words[text])
        for term, terms in TERMS.items()
        for text in words
        if re.search(spelled := rf"(?<![\w-]){term}s?(?![\w-])", text, re.IGNORECASE)
        # As it is where it names a socket or a choice.
        and not re.search(f"{terms[place]}|{spelled}", words[text])
    ]
    assert strayed == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_letter_means_something_to_the_page_s_templates(language: str) -> None:
    """In the frontend's messages braces, bars and at signs are commands."""
    assert [text for text in table(language).values() if re.search(r"[{}|@]", text)] == []
