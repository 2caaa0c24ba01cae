"""Names of files as text that every file format and every tokenizer takes."""

from __future__ import annotations


def readable(name: str) -> str:
    """``name`` without the stand-ins that Python has for bytes of a name that its locale cannot read.

    Where the bytes are UTF-8, as in a process without a locale, they become the text they are; others become U+FFFD.
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # half of a character, as names on Windows may have
        return name.encode("utf-8", "replace").decode("utf-8")
