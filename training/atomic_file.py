"""A file that appears complete or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: beside it first, flushed to the disk, then renamed.

    On any failure a file that was there before is untouched, and nothing else is left behind. Raises ``OSError``.
    """
    # Short enough for any file system, and hidden from the host's listings.
    partial = path.with_name(f".{path.stem[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):  # where the folder cannot be reached, the first error says more
            partial.unlink()
