"""What the pack's scripts say: translated wherever the nodes are, and nothing translated that is not said."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

import pytest

from fluxduel.tests.comfy_host import ROOT
from fluxduel.tests.host.locales import LANGUAGES, TERMS

SCRIPTS = ROOT / "web" / "js"
_STRING = r'"(?:[^"\\]|\\.)*"'
_SAID = re.compile(rf"(?<![\w.#])(?:say|phrase)\(\s*({_STRING}(?:\s*\+\s*{_STRING})*)\s*[,)]")


def table() -> dict[str, dict[str, str]]:
    """English text -> language -> translation."""
    return braced("translations.js")


def braced(name: str) -> dict[str, dict[str, str]]:
    script = (SCRIPTS / name).read_text(encoding="utf-8")
    return json.loads(script[script.index("= {") + 2 : script.rindex(";")])


def said() -> Iterator[str]:
    """The texts in the scripts: those handed to ``say`` and ``phrase``, and the labels of curves."""
    for path in SCRIPTS.glob("*.js"):
        for found in _SAID.finditer(path.read_text(encoding="utf-8")):
            yield joined(found[1])
    for term in braced("glossary.js").values():
        yield term["label"]


def joined(strings: str) -> str:
    return "".join(map(ast.literal_eval, re.findall(_STRING, strings)))


def test_every_text_is_translated_and_no_translation_is_left_over() -> None:
    texts = set(said())
    assert sorted(texts - set(table())) == []
    assert sorted(set(table()) - texts) == []
    assert {text: sorted(words) for text, words in table().items() if set(words) != set(LANGUAGES)} == {}


def test_a_translation_has_the_same_places_for_values() -> None:
    def places(text: str) -> list[str]:
        return sorted(set(re.findall(r"\{(\w+)\}", text)))

    strayed = {text for text, words in table().items() if any(places(text) != places(each) for each in words.values())}
    assert strayed == set()


@pytest.mark.parametrize("place", range(len(LANGUAGES)), ids=LANGUAGES)
def test_one_word_for_one_thing(place: int) -> None:
    """The words of the nodes' own translations."""
    strayed = [
        (term, text, words[LANGUAGES[place]])
        for term, terms in TERMS.items()
        for text, words in table().items()
        if re.search(spelled := rf"(?<![\w-]){term}s?(?![\w-])", text, re.IGNORECASE)
        and not re.search(f"{terms[place]}|{spelled}", words[LANGUAGES[place]])
    ]
    assert strayed == []


def test_a_text_is_found_however_it_is_written() -> None:
    script = 'say("one"); say(\n  "two, " +\n    "three", { n }\n); phrase("four \\"4\\""); '
    script += 'essay("none"); this.#say("no"); say(name)'
    assert [joined(found[1]) for found in _SAID.finditer(script)] == ["one", "two, three", 'four "4"']
