"""The pictures of a comparison as files for the page, each with its place."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from PIL import Image

from ...training.evidence.sheet import Group

# Below the host's temporary folder, which it empties when it starts.
FOLDER = "fluxduel"
KEY = "fluxduel_comparison"


def show_comparison(rows: Sequence[str], groups: Sequence[Group], sheet: Image.Image) -> dict[str, Any]:
    """What the node gives to the page under ``KEY``: each picture with its place, and the sheet of all.

    The sheet is no picture of the node's own, which the host would show below and the node would grow for.

    The pictures are written as PNG files into the host's temporary folder. The host keeps what it is told here with
    the prompt in its history, where a page that opens later finds it. Raises ``OSError``.
    """
    mark = secrets.token_hex(8)
    folder = Path(folder_paths.get_temp_directory()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def kept(picture: Image.Image | None) -> dict[str, str] | None:
        nonlocal count
        if picture is None:
            return None
        name = f"compare-{mark}-{count:03}.png"
        count += 1
        # Hardly smaller with more, and ten times as slow.
        picture.save(folder / name, compress_level=1)
        return {"filename": name, "subfolder": FOLDER, "type": "temp"}

    comparison = {
        "rows": list(rows),
        "groups": [
            {
                "prompt": group.prompt,
                "columns": [head.replace("\n", ", ") for head in group.columns],
                "cells": [[kept(picture) for picture in row] for row in group.cells],
            }
            for group in groups
        ],
        "sheet": kept(sheet),
    }
    return {KEY: [comparison]}
