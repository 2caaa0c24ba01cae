"""JSON as people write it: read strictly, and where it is wrong, the line, the reason, and what to write instead."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from json.decoder import scanstring
from typing import Any, NoReturn

DEEPEST = 100
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[^\s,:{}\[\]\"]+")
_TEXT = re.compile(r'"(?:[^"\\\n\r]|\\[^\n\r])*"?')
_LITERALS = {"true": True, "false": False, "null": None}
_MEANT = {"True": "true", "False": "false", "None": "null", "yes": "true", "no": "false"}
_BRACKETS = {"{": "}", "[": "]"}
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_PATH = re.compile(r'"(?:[A-Za-z]:|[\w .-]+|\\)\\')


class JSONTextError(ValueError):
    """A text that is no JSON. The message begins with its line where it has one, and ends without a full stop."""


@dataclass(frozen=True)
class Place:
    """Where a value stands: its line, and for a text how it is written, with its quotes."""

    line: int
    written: str = ""


@dataclass(frozen=True)
class Document:
    """``places``: that of the value of each key, by the keys that lead there."""

    value: Any
    places: dict[tuple[str, ...], Place]


def decoded(content: bytes) -> str:
    """A file's content as text: UTF-8, UTF-16 and UTF-32, with a byte order mark or without.

    Raises ``JSONTextError`` that names the line.
    """
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-SIG")
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        raise JSONTextError(
            f"line {line}: what is in it is no text in {name}. Save the file again as UTF-8"
        ) from error


def parsed(text: str) -> Document:
    """What ``json.loads`` gives, for a text without any key given twice.

    Raises ``JSONTextError`` for that, for all that is no JSON (comments, NaN and commas at the end included), numbers
    too large for a float, halves of characters, and nesting deeper than ``DEEPEST``.
    """
    return _Reader(text).document()


def without_backslashes(written: str) -> str:
    """A text as it is written in JSON, its backslashes replaced by slashes: two where a machine's name begins."""
    start = '"//' if written.startswith('"\\\\') else '"/'
    return re.sub(r"\\+", "/", re.sub(r'^"\\+', start, written))


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._places: dict[tuple[str, ...], Place] = {}
        self._open: list[int] = []
        self._counted, self._lines = 0, 1

    def document(self) -> Document:
        self._skip()
        if self._at == len(self._text):
            raise JSONTextError("it is empty")
        value = self._value(())
        if self._at < len(self._text):
            self._fail(f"nothing may follow after the end, where {self._next()} stands")
        return Document(value, self._places)

    def _value(self, path: tuple[str, ...]) -> Any:
        """Read a value and the space after it."""
        start = self._peek()
        if start == "{":
            return self._inside(lambda: self._members(path))
        if start == "[":
            return self._inside(lambda: self._elements(path))
        value = self._string() if start == '"' else self._number_or_word()
        self._skip()
        return value

    def _inside(self, read: Callable[[], Any]) -> Any:
        self._open.append(self._at)
        if len(self._open) > DEEPEST:
            self._fail(f"brackets are nested more than {DEEPEST} deep")
        self._at += 1
        self._skip()
        found = read()
        self._open.pop()
        self._skip()
        return found

    def _members(self, path: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not self._closed():
            line = self._line()
            if self._peek() != '"':
                self._fail(f"{self._next()} stands where a name in double quotes is expected{self._hint()}")
            key = self._string()
            here = (*path, key)
            if key in found:
                self._twice(here, lines[key], line)
            self._skip()
            if self._peek() != ":":
                self._fail(f"a colon is missing after {json.dumps(key)}")
            self._at += 1
            self._skip()
            start = self._at
            lines[key] = line
            self._places[here] = Place(self._line())
            found[key] = self._value(here)
            if isinstance(found[key], str):
                self._places[here] = Place(self._places[here].line, _TEXT.match(self._text, start)[0])  # type: ignore[index]
            self._comma()
        return found

    def _elements(self, path: tuple[str, ...]) -> list[Any]:
        found = []
        while not self._closed():
            found.append(self._value((*path, str(len(found)))))
            self._comma()
        return found

    def _closed(self) -> bool:
        if self._peek() != _BRACKETS[self._text[self._open[-1]]]:
            return False
        self._at += 1
        return True

    def _comma(self) -> None:
        """Pass the comma after a member; before a closing bracket there is none."""
        closing = _BRACKETS[self._text[self._open[-1]]]
        if self._peek() == closing:
            return
        if self._peek() != ",":
            hint = self._comment_hint() or "; is a comma missing before it?"
            self._fail(f"{self._next()} stands where a comma or {closing} is expected{hint}")
        comma = self._at
        self._at += 1
        self._skip()
        if self._peek() == closing:
            self._at = comma
            self._fail(f"the comma before {closing} is one too many; take it out")

    def _string(self) -> str:
        start = self._at
        try:
            text, self._at = scanstring(self._text, start + 1, True)
        except json.JSONDecodeError as error:
            self._bad_string(start, error)
        if half := _HALF.search(text):
            self._at = start
            self._fail(f"\\u{ord(half[0]):04x} is half of a character; write the whole character")
        return text

    def _bad_string(self, start: int, error: json.JSONDecodeError) -> NoReturn:
        written = _TEXT.match(self._text, start)[0]  # type: ignore[index]
        self._at = start
        if error.msg.startswith("Invalid \\") and _PATH.match(written):
            self._fail(f"{_short(written)} has single backslashes. Write {_short(without_backslashes(written))}")
        if error.msg.startswith("Invalid \\"):
            at = self._text[error.pos : error.pos + 2]
            self._fail(f"{_short(written)} has a backslash that means nothing in JSON. Write it twice: \\{at}")
        if error.msg.startswith("Invalid control"):
            control = self._text[error.pos]
            if control not in "\n\r":
                self._fail(f"{_short(written)} holds a control character; write it as \\u{ord(control):04x}")
        self._fail(f'{_short(written)} is not closed by a " on its line')

    def _number_or_word(self) -> Any:
        word = _WORD.match(self._text, self._at)
        if word is None:
            self._fail(f"{self._next()} stands where a value is expected")
        if word[0] in _LITERALS:
            self._at = word.end()
            return _LITERALS[word[0]]
        number = _NUMBER.fullmatch(word[0])
        if number is None:
            self._fail(f"{self._next()} is no value of JSON{self._hint()}")
        try:
            value = int(number[1]) if not (number[2] or number[3]) else float(word[0])
        except ValueError:  # more digits than Python turns into a number
            value = math.inf
        if abs(value) > 1e308:
            self._fail(f"{_short(word[0])} is too large a number")
        self._at = word.end()
        return value

    def _hint(self) -> str:
        """What people who write this mean, as the end of a sentence."""
        rest = self._text[self._at :]
        word = _WORD.match(rest)
        if comment := self._comment_hint():
            return comment
        if rest.startswith(("'", "\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}")):
            return '; texts stand between straight double quotes: "..."'
        if word and word[0] in _MEANT:
            return f"; write {_MEANT[word[0]]}"
        if word and word[0].lstrip("+-").lower() in ("nan", "inf", "infinity"):
            return "; write a finite number"
        if word and (word[0][0].isdigit() or word[0][0] in "+-."):
            return "; numbers are written as 3, 0.5 or 1e-4"
        return "; texts stand between double quotes" if word and word[0][0].isalpha() else ""

    def _comment_hint(self) -> str:
        return "; JSON has no comments, take it out" if self._text.startswith(("//", "/*", "#"), self._at) else ""

    def _twice(self, path: tuple[str, ...], first: int, second: int) -> NoReturn:
        lines = f"lines {first} and {second}" if first != second else f"line {first}"
        raise JSONTextError(f"{lines}: {_short('.'.join(path))} is given twice. Put what belongs together into one")

    def _skip(self) -> None:
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]

    def _peek(self) -> str:
        """The next character. Raises ``JSONTextError`` at the end of the text."""
        if self._at < len(self._text):
            return self._text[self._at]
        if not self._open:
            raise JSONTextError("it ends too early; a part of it may be missing")
        bracket = self._text[self._open[-1]]
        raise JSONTextError(f"the {bracket} in line {self._line(self._open[-1])} is not closed; the end may be missing")

    def _next(self) -> str:
        """What stands here, in short."""
        word = _WORD.match(self._text, self._at) or _TEXT.match(self._text, self._at)
        return _short(word[0] if word else self._text[self._at])

    def _line(self, at: int | None = None) -> int:
        at = self._at if at is None else at
        if at < self._counted:
            return self._text.count("\n", 0, at) + 1
        self._lines += self._text.count("\n", self._counted, at)
        self._counted = at
        return self._lines

    def _fail(self, reason: str) -> NoReturn:
        raise JSONTextError(f"line {self._line()}: {reason}")


def _short(text: str) -> str:
    """``text`` in one line that is not too long, what cannot be printed written out."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return shown if len(shown) <= 80 else f"{shown[:60]}..."
