"""What is known of picture files from earlier runs, so that they need not be decoded at every start."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from ..failure_words import reason
from .image_sources import FileState

logger = logging.getLogger(__name__)

FILE_NAME = "known_files_2.sqlite3"
# A killed process forgets at most so many.
_ROWS_AT_ONCE = 64
_SECONDS_FOR_OTHERS = 5.0

_TABLE = """CREATE TABLE IF NOT EXISTS files (
    path TEXT, reading TEXT, size INTEGER, mtime_ns INTEGER, identity TEXT, height INTEGER, width INTEGER,
    look BLOB, remarks TEXT,
    PRIMARY KEY (path, reading)) WITHOUT ROWID"""
_FIND = (
    "SELECT identity, height, width, look, remarks FROM files "
    "WHERE path = ? AND reading = ? AND size = ? AND mtime_ns = ?"
)
_KEEP = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Known(NamedTuple):
    """What was read from a file: the hash (hex) of its pixels, empty for none at all, and their height and width.

    ``look`` is what it looks like from afar (see ``alike``), ``remarks`` are lines that a report should say of it.
    """

    identity: str
    height: int
    width: int
    look: bytes = b""
    remarks: str = ""


class KnownFiles:
    """A small database in ``folder`` (``None``: nothing is remembered). A context: leaving it writes what is new.

    It only saves time: a damaged database is thrown away, with a logged warning, and one that cannot be opened or
    written is done without. Several processes may use it at once.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / FILE_NAME
        self._connection: sqlite3.Connection | None = None
        self._new: dict[tuple[str, str], tuple] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def find(self, state: FileState) -> Known | None:
        """What ``keep`` was told of the file in this very state."""
        row = self._new.get((state.path, state.reading))
        if row is not None and row[2:4] == (state.size, state.mtime_ns):
            return Known(*row[4:])
        if self._file is None or not (self._connection or self._file.exists()):
            # A database is made where there is something to keep: a dataset that is refused leaves no folder.
            return None
        key = (_text(state.path), state.reading, state.size, state.mtime_ns)
        rows = self._ask(lambda connection: connection.execute(_FIND, key).fetchall())
        return Known(*rows[0]) if rows else None

    def keep(self, state: FileState, known: Known) -> None:
        """Remember what was read from the file in ``state``."""
        self._new[state.path, state.reading] = (
            _text(state.path),
            state.reading,
            state.size,
            state.mtime_ns,
            *known,
        )
        if len(self._new) >= _ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        rows = list(self._new.values())
        self._new.clear()

        def insert(connection: sqlite3.Connection) -> list:
            # Short transactions: others wait for no more than one of them.
            with connection:
                connection.executemany(_KEEP, rows)
            return []

        if rows:
            self._ask(insert)

    def _ask(self, question: Callable[[sqlite3.Connection], list]) -> list:
        """The answer of the database to ``question``, empty where it has none to give."""
        if self._file is None:
            return []
        for attempt in (1, 2):
            try:
                if self._connection is None:
                    self._connection = _connect(self._file)
                return question(self._connection)
            except sqlite3.OperationalError as error:
                # Locked for long, not writable, a full disk, or a file system without locks.
                self._give_up(error)
                return []
            except (sqlite3.DatabaseError, OSError) as error:
                if attempt == 2 or isinstance(error, OSError):
                    self._give_up(error)
                    return []
                words = reason(error)
                logger.warning("%s is damaged (%s); it is made anew, and pictures are read again.", self._file, words)
                self._throw_away()
        return []

    def _throw_away(self) -> None:
        assert self._file is not None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        # The journal of a damaged database would be played back into the new one.
        for file in (self._file, self._file.with_name(f"{self._file.name}-journal")):
            file.unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        logger.warning("%s cannot be used (%s); picture files are read again instead.", self._file, reason(error))
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._file = None


def _connect(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=_SECONDS_FOR_OTHERS)
    try:
        # What the operating system has, a killed process does not lose; a power cut may damage it, which is noticed.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_TABLE)
        connection.commit()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _text(path: str) -> str:
    """``path`` as text that a database takes: file names need not be valid Unicode."""
    return path.encode("utf-8", "backslashreplace").decode()
