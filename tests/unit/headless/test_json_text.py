"""JSON is read as Python reads it, and refused with line and reason where people have written something else."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from fluxduel.headless.json_text import DEEPEST, JSONTextError, decoded, parsed

LETTERS = 'ab"\\/\n\t\x7f é日🎈'


def some_value(chosen: random.Random, depth: int) -> Any:
    kinds = ["text", "int", "float", "literal", *(["object", "array"] * 2 if depth else [])]
    match chosen.choice(kinds):
        case "text":
            return some_text(chosen)
        case "int":
            return chosen.randint(-(10**20), 10**20)
        case "float":
            return chosen.uniform(-1, 1) * 10.0 ** chosen.randint(-300, 300)
        case "literal":
            return chosen.choice([True, False, None])
        case "object":
            return {some_text(chosen): some_value(chosen, depth - 1) for _ in range(chosen.randint(0, 4))}
        case _:
            return [some_value(chosen, depth - 1) for _ in range(chosen.randint(0, 4))]


def some_text(chosen: random.Random) -> str:
    return "".join(chosen.choice(LETTERS) for _ in range(chosen.randint(0, 6)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_what_is_json_is_read_as_python_reads_it_in_every_encoding(encoding: str) -> None:
    chosen = random.Random(encoding)
    for _ in range(200):
        value = {some_text(chosen): some_value(chosen, 3) for _ in range(4)}
        text = json.dumps(value, indent=chosen.choice([None, 1]), ensure_ascii=chosen.choice([True, False]))
        found = parsed(decoded(text.encode(encoding))).value
        assert found == json.loads(text) and json.dumps(found) == json.dumps(json.loads(text))


def test_places_of_values_are_their_lines() -> None:
    document = parsed('{\n "a": {"b": "x\\ty",\n\n  "c": [1,\n 2]},\n "d": 5\n}')
    lines = {".".join(keys): place.line for keys, place in document.places.items()}
    assert lines == {"a": 2, "a.b": 2, "a.c": 4, "d": 6}
    assert document.places["a", "b"].written == '"x\\ty"'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (" \n ", "it is empty"),
        ('{\n"lora": {},\n"base": {},\n"lora": {}\n}', "lines 2 and 4: lora is given twice"),
        ('{"a": {"b": 1, "b": 1}}', "line 1: a.b is given twice"),
        ('{\n"a": 1,\n}', "line 2: the comma before } is one too many"),
        ("[1, 2,]", "line 1: the comma before ] is one too many"),
        ("{\n// mine\n}", "line 2: // stands where a name in double quotes is expected; JSON has no comments"),
        ('{"a": 1 # mine\n}', "line 1: # stands where a comma or } is expected; JSON has no comments"),
        ('{\n"a": /* mine */ 1}', "line 2: /* is no value of JSON; JSON has no comments"),
        ('{\n"a": 1\n"b": 2}', 'line 3: "b" stands where a comma or } is expected; is a comma missing'),
        ('{"a": NaN}', "line 1: NaN is no value of JSON; write a finite number"),
        ('{"a": -Infinity}', "-Infinity is no value of JSON; write a finite number"),
        ('{"a": 1e999}', "line 1: 1e999 is too large a number"),
        ('{"a": 1' + "0" * 5000 + "}", "... is too large a number"),
        ('{"a": 1' + "0" * 400 + "}", "... is too large a number"),
        ('{"a": True}', "line 1: True is no value of JSON; write true"),
        ('{"a": None}', "None is no value of JSON; write null"),
        ('{"a": .5}', "numbers are written as 3, 0.5 or 1e-4"),
        ('{"a": 007}', "numbers are written as 3, 0.5 or 1e-4"),
        ('{"a": tiny}', "tiny is no value of JSON; texts stand between double quotes"),
        ("{'a': 1}", "'a' stands where a name in double quotes is expected; texts stand between straight"),
        ('{"a": \N{LEFT DOUBLE QUOTATION MARK}x\N{RIGHT DOUBLE QUOTATION MARK}}', "straight double quotes"),
        ("{a: 1}", "line 1: a stands where a name in double quotes is expected"),
        ('{"a" 1}', 'line 1: a colon is missing after "a"'),
        ('{"a": "x\ny"}', 'line 1: "x is not closed by a " on its line'),
        ('{"a": "x\ty"}', "line 1: .* holds a control character; write it as \\u0009"),
        ('{\n"a": {"b": 1', "the { in line 2 is not closed; the end may be missing"),
        ('{"a":', "the { in line 1 is not closed"),
        ("{}\n{}", "line 2: nothing may follow after the end"),
        ('{"a": "\\ud800"}', "line 1: \\ud800 is half of a character"),
        (r'{"a": "C:\Users\new"}', r'line 1: "C:\Users\new" has single backslashes. Write "C:/Users/new"'),
        (r'{"a": "\\nas\share"}', r'line 1: "\\nas\share" has single backslashes. Write "//nas/share"'),
        (r'{"a": "my pictures\cats"}', 'Write "my pictures/cats"'),
        (r'{"a": "\d+"}', r"has a backslash that means nothing in JSON. Write it twice: \\d"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"brackets are nested more than {DEEPEST} deep"),
        ("[" * 100_000, f"brackets are nested more than {DEEPEST} deep"),
    ],
)
def test_what_is_no_json_is_told_with_its_line_and_what_to_write(text: str, reason: str) -> None:
    with pytest.raises(JSONTextError) as caught:
        parsed(text)
    told = str(caught.value)
    assert all(part in told for part in reason.split(".*")), told
    assert "\n" not in told and not told.endswith(".") and len(told) < 250


def test_nesting_is_allowed_as_deep_as_said() -> None:
    assert parsed("[" * DEEPEST + "]" * DEEPEST).value == json.loads("[" * DEEPEST + "]" * DEEPEST)


def test_a_text_in_another_encoding_is_told_with_its_line() -> None:
    with pytest.raises(JSONTextError, match="line 2: .*UTF-8. Save"):
        decoded('{"a": 1,\n"b": "Büro"}'.encode("latin-1"))
    with pytest.raises(JSONTextError, match="UTF-16"):
        decoded('{"a": 1}'.encode("utf-16")[:-1])
