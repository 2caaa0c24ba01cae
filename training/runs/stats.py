"""The statistics of a run, one JSON line a step and one for each note: in memory, and on the disk as it allows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic_file import write_whole
from ..failure_words import reason

log = logging.getLogger(__name__)


def parsed(text: str) -> tuple[list[dict[str, float]], list[tuple[int, str]]]:
    """Records and notes of ``stats.jsonl``. Raises ``ValueError`` for a line that is none of ours."""
    records, notes = [], []
    for line in text.splitlines():
        entry = json.loads(line)
        if "note" in entry:
            notes.append((int(entry["step"]), str(entry["note"])))
        else:
            records.append(entry)
    return records, notes


class Stats:
    """``path`` is ``stats.jsonl``, or ``None`` for memory alone. ``text``: what earlier sittings have written.

    A disk that is full or gone costs no step: the lines are kept, and written as soon as that is possible again.
    """

    def __init__(self, path: Path | None, text: str = "") -> None:
        self.path = path
        self.records, self.notes = parsed(text)
        self._lines = text.splitlines(keepends=True)
        self._complete = False
        self._write_all()

    @property
    def text(self) -> str:
        """The whole file."""
        return "".join(self._lines)

    def record(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """The numbers of a step."""
        self.records.append({"step": step, "total": total, **values})
        self._add(self.records[-1])

    def note(self, step: int, text: str) -> None:
        """What the stage noticed."""
        self.notes.append((step, text))
        self._add({"step": step, "note": text})

    def complete(self) -> None:
        """Make sure that the file has every line. Raises ``OSError`` where it cannot be written."""
        if self.path is not None and not (self.path.exists() and self.path.read_bytes() == self.text.encode()):
            write_whole(self.path, self.text.encode())

    def _add(self, entry: dict[str, Any]) -> None:
        self._lines.append(json.dumps(entry) + "\n")
        if self.path is None:
            return
        if not self._complete:
            self._write_all()
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(self._lines[-1])
        except OSError as error:
            self._fails(error)

    def _write_all(self) -> None:
        if self.path is None:
            return
        try:
            write_whole(self.path, self.text.encode())
            self._complete = True
        except OSError as error:
            self._fails(error)

    def _fails(self, error: OSError) -> None:
        words = reason(error)
        log.warning("%s cannot be written (%s). The lines are kept in memory and written later.", self.path, words)
        self._complete = False
