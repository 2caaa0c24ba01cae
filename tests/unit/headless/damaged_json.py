"""Ways in which a JSON file gets damaged, or written by somebody who does not know JSON well."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Damage = Callable[[random.Random, bytes], bytes]


def flip(chosen: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chosen.choice([1, 1, 2, 10])):
        changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def cut(chosen: random.Random, content: bytes) -> bytes:
    start = chosen.randrange(len(content))
    return content[:start] + content[start + chosen.choice([1, 2, 20, len(content)]) :]


def insert(chosen: random.Random, content: bytes) -> bytes:
    at = chosen.randrange(len(content))
    odd = [b",", b"{", b"}", b"[", b'"', b"\\", b"\x00", b"\xff", b"// x", b"NaN", b"\xe2\x80\x9c", b"\n", b"'", b":"]
    return content[:at] + chosen.choice(odd) + content[at:]


def double(chosen: random.Random, content: bytes) -> bytes:
    """A line, or a section, stands there twice."""
    lines = content.splitlines(keepends=True)
    start = chosen.randrange(1, len(lines) - 1)
    part = lines[start : start + chosen.choice([1, 1, 5])]
    at = chosen.choice([start, chosen.randrange(1, len(lines))])
    return b"".join([*lines[:at], *part, *lines[at:]])


def rename(chosen: random.Random, content: bytes) -> bytes:
    name = chosen.choice(re.findall(rb'"(\w+)":', content))
    odd = [name.upper(), name[:-1], b"", b"\\u0000", name + b"\\n", "é".encode(), b"x" * 5000, b".", b"a.b"]
    other = chosen.choice(odd)
    return content.replace(b'"' + name + b'":', b'"' + other + b'":', 1)


def retype(chosen: random.Random, content: bytes) -> bytes:
    values = list(re.finditer(rb': ("[^"\n]*"|[-\d.e]+|true|false)', content))
    match = chosen.choice(values)
    odd = [
        b"null", b"true", b"[]", b"{}", b"[[1]]", b'"x"', b'""', b"-1", b"1e308", b"1e999", b"1" + b"0" * 310, b"0.1",
        b"9" * 5000, b"-0", b'"\\ud800"', b'"\\u0000"', b'"C:\\new"', b'"C:\\Users"', b'{"a": {"b": 1}}', b"NaN",
        b"[" * 2000, b'"' + b"x" * 100_000 + b'"',
    ]  # fmt: skip
    return content[: match.start(1)] + chosen.choice(odd) + content[match.end(1) :]


def nest(chosen: random.Random, content: bytes) -> bytes:
    return chosen.choice([b"[%s]", b'{"lora": %s}', b'{"lora": {"rank": %s}}', b"%s%s", b"%s,"]).replace(b"%s", content)


def reencode(chosen: random.Random, content: bytes) -> bytes:
    text = content.decode().replace("tiny", "tiny-ü")
    to = chosen.choice(["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32", "cp037", "utf-16-be"])
    return flip(chosen, text.encode(to)) if chosen.random() < 0.5 else text.encode(to)


DAMAGES: list[Damage] = [flip, cut, insert, double, rename, retype, nest, reencode]
