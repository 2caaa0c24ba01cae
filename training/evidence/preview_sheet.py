"""The previews of a run: a picture for each step, which says itself what it shows, and all of them as one sheet.

In the run's folder::

    previews/
        step-000100.png   the prompts' pictures side by side
        sheet.png         steps across, prompts down
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, PngImagePlugin

from ..atomic_file import write_whole
from .sheet import Group, draw_sheet

PREVIEWS = "previews"
SHEET = "sheet.png"
# Of a run with more previews that many stand on the sheet, evenly spread with the first and the last among them.
MOST_COLUMNS = 12

_KEY, _DELIVERED = "fluxduel previews", "fluxduel delivered"
_NAME = re.compile(r"step-(\d{6,})\.png")
# Of a picture on the sheet, which is written anew at each preview.
_SIDE = 256


class Row(NamedTuple):
    """One picture of each preview: its prompt, and how it is sampled, such as ``4 steps, euler, guidance 3.5``."""

    prompt: str
    how: str


class Column(NamedTuple):
    """The preview after ``step`` steps. ``version``: another number where the file has been written anew.

    ``delivered``: of the last one of a run that has ended, the step whose state is delivered and shown, which may be an
    earlier one; 0 is the start.
    """

    step: int
    path: Path
    version: int
    delivered: int | None = None

    @property
    def label(self) -> str:
        """What it shows, in words."""
        of = self.step if self.delivered is None else self.delivered
        state = f"update {of}" if of else "start"
        return state if self.delivered is None else f"delivered: {state}"


def save_preview(
    picture: Image.Image, rows: Sequence[Row], run_folder: Path, step: int, delivered: int | None = None
) -> Path:
    """Write the preview of a step, ``rows`` of equal width side by side, and the sheet anew. Returns the step's file.

    ``delivered``: as in ``Column``. Raises ``OSError``; the sheet then is the one before.
    """
    folder = run_folder / PREVIEWS
    path = folder / f"step-{step:06}.png"
    said = PngImagePlugin.PngInfo()
    said.add_itxt(_KEY, json.dumps([list(row) for row in rows]))
    if delivered is not None:
        said.add_itxt(_DELIVERED, str(delivered))
    write_whole(path, _png(picture, said))
    columns, rows = previews(run_folder, step)
    write_whole(folder / SHEET, _png(sheet(columns, rows)))
    return path


def previews(run_folder: Path, last: int | None = None) -> tuple[list[Column], tuple[Row, ...]]:
    """The columns, by step, and their rows; without any, nothing. Those after step ``last`` are of an earlier sitting.

    A run may go on with other prompts or another sampler: what shows the same as the newest file belongs together. What
    was delivered at an end from which it went on is none of its steps, unless it was that step's own state.
    """
    found: list[tuple[Column, tuple[Row, ...]]] = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((run_folder / PREVIEWS).iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is None or (last is not None and int(name[1]) > last):
                continue
            rows, delivered = _said(path)
            if rows:
                found.append((Column(int(name[1]), path, path.stat().st_mtime_ns, delivered), rows))
    if not found:
        return [], ()
    _, rows = max(found, key=lambda each: (each[0].version, each[0].step))
    *before, last = sorted((column for column, shown in found if shown == rows), key=lambda column: column.step)
    on_the_way = [column._replace(delivered=None) for column in before if column.delivered in (None, column.step)]
    return [*on_the_way, last], rows


def sheet(columns: Sequence[Column], rows: Sequence[Row]) -> Image.Image:
    """Steps across, in bands where they are many, and prompts down. Raises ``OSError`` for a damaged picture."""
    chosen = list(columns)
    if len(chosen) > MOST_COLUMNS:
        places = [round(place * (len(chosen) - 1) / (MOST_COLUMNS - 1)) for place in range(MOST_COLUMNS)]
        chosen = [chosen[place] for place in places]
    steps = [_cells(column.path, len(rows)) for column in chosen]
    group = Group(
        prompt="",
        columns=tuple(column.label for column in chosen),
        cells=tuple(zip(*steps, strict=True)),
    )
    # What all rows have in common is said once.
    ways = {row.how for row in rows}
    names = [row.prompt or "(no prompt)" for row in rows]
    if len(ways) > 1:
        names = [f"{name}\n{row.how}" for name, row in zip(names, rows, strict=True)]
    return draw_sheet(names, [group], ways.pop() if len(ways) == 1 else "").picture


def _cells(path: Path, count: int) -> list[Image.Image]:
    """The pictures of one step, no side longer than ``_SIDE``."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    width = whole.width // count
    cells = [whole.crop((place * width, 0, (place + 1) * width, whole.height)) for place in range(count)]
    scale = min(1.0, _SIDE / max(width, whole.height))
    size = max(1, round(width * scale)), max(1, round(whole.height * scale))
    return [cell.resize(size, Image.Resampling.LANCZOS) for cell in cells]


def _said(path: Path) -> tuple[tuple[Row, ...], int | None]:
    """What a preview says of itself, and of which state it is; nothing for a file that is damaged or not one of
    these."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            delivered = picture.info.get(_DELIVERED)
            rows = tuple(Row(*row) for row in json.loads(picture.info[_KEY]))
            return rows, None if delivered is None else int(delivered)
    except (OSError, KeyError, TypeError, ValueError, Image.DecompressionBombError):
        return (), None


def _png(picture: Image.Image, said: PngImagePlugin.PngInfo | None = None) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", pnginfo=said)
    return content.getvalue()
