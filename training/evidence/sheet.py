"""One labelled sheet of pictures: a row for each LoRA, a column for each way to sample, the prompt beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from . import labels

# Beyond that a group is broken into bands, one below the other: with more, labels would be too small to read.
MOST_COLUMNS = 6
# Of a sheet: a float IMAGE of it takes 12 bytes each.
MOST_PIXELS = 16_000_000
SMALLEST_SIDE, LARGEST_SIDE = 192, 768
# A label is so large that it can be read where the host shows the sheet 500 pixels wide.
SHEET_WIDTH_IN_LABELS, SMALLEST_LABEL = 42, 14
# The rows' names may take so much of the pictures' width.
NAMES_SHARE = 0.22
MOST_NAME_LINES, MOST_HEAD_LINES, MOST_PROMPT_LINES, MOST_TITLE_LINES = 3, 4, 3, 3
GAP_SHARE, GROUP_GAP_SHARE = 0.02, 0.08
NOTE = (
    "Characters that no font of this machine has are written as their codes on the sheet, as in \\u732b; here they are "
    "as they were given. Install a font that has them, such as Noto Sans CJK."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The pictures of one prompt. ``cells``: for each row one picture, or none, for each of ``columns``."""

    prompt: str
    columns: tuple[str, ...]
    cells: tuple[tuple[Image.Image | None, ...], ...]


@dataclass(frozen=True, eq=False)
class Sheet:
    """The picture, and what there is to say of it; empty where there is nothing."""

    picture: Image.Image
    note: str = ""


def draw_sheet(rows: Sequence[str], groups: Sequence[Group], title: str = "") -> Sheet:
    """A sheet of ``groups`` beside each other and in bands below each other, each with the same ``rows``.

    Each picture is shown whole in a cell of the first one's proportions. The sheet has at most about ``MOST_PIXELS``:
    cells are made as small as that takes. Raises ``ValueError`` where there is no picture, or a group has other rows or
    columns than cells.
    """
    sizes = [picture.size for group in groups for row in group.cells for picture in row if picture is not None]
    if not sizes:
        raise ValueError("There is no picture to show.")
    for group in groups:
        if len(group.cells) != len(rows) or any(len(row) != len(group.columns) for row in group.cells):
            raise ValueError(
                f"{group.prompt!r}: a group needs one row of cells for each of {len(rows)} names and one cell for "
                f"each of {len(group.columns)} columns."
            )
    bands = _bands(groups)
    layout = _Layout(rows, bands, title, sizes[0])
    texts = [title, *rows, *(text for group in groups for text in (group.prompt, *group.columns))]
    return Sheet(layout.drawn(), NOTE if any(map(labels.has_codes, texts)) else "")


def _bands(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups of each band, as many beside each other as there is room for; a wide group in parts."""
    parts: list[Group] = []
    for group in groups:
        count = math.ceil(len(group.columns) / MOST_COLUMNS)
        width = math.ceil(len(group.columns) / count)
        for start in range(0, len(group.columns), width):
            chosen = slice(start, start + width)
            cells = tuple(row[chosen] for row in group.cells)
            parts.append(Group(prompt=group.prompt, columns=group.columns[chosen], cells=cells))
    widest = max(len(part.columns) for part in parts)
    beside = max(1, MOST_COLUMNS // widest)
    beside = math.ceil(len(parts) / math.ceil(len(parts) / beside))
    return [parts[start : start + beside] for start in range(0, len(parts), beside)]


class _Layout:
    """Where everything goes. All in pixels."""

    def __init__(
        self, rows: Sequence[str], bands: list[list[Group]], title: str, picture_size: tuple[int, int]
    ) -> None:
        self.rows, self.bands, self.title, self.picture_size = rows, bands, title, picture_size
        columns = max(sum(len(group.columns) for group in band) for band in self.bands)
        self.cell = _cell(self.picture_size, columns * len(self.rows) * len(self.bands))
        self.gap = max(2, round(GAP_SHARE * self.cell[0]))
        self.group_gap = max(6, round(GROUP_GAP_SHARE * self.cell[0]))
        self.width = max(map(self._band_width, self.bands))
        self.label = max(SMALLEST_LABEL, round(self.width / SHEET_WIDTH_IN_LABELS))
        names = [line for name in self.rows for line in labels.drawable(name).split("\n")]
        longest = max(labels.length(line, self.label) for line in names)
        # A single narrow column leaves little; a name of a few letters is to stay in one piece.
        most = max(NAMES_SHARE * self.width, 7 * self.label)
        self.left = math.ceil(min(longest, most)) + self.label
        self.names = [self._lines(name, self.left - self.label, MOST_NAME_LINES) for name in self.rows]

    def _group_width(self, group: Group) -> int:
        return len(group.columns) * (self.cell[0] + self.gap) - self.gap

    def _band_width(self, band: list[Group]) -> int:
        return sum(map(self._group_width, band)) + self.group_gap * (len(band) - 1)

    def drawn(self) -> Image.Image:
        margin = self.label // 2
        width = self.left + self.width + margin
        title = self._lines(self.title, width - 2 * margin, MOST_TITLE_LINES)
        top = labels.height(len(title), self.label) + 2 * margin if self.title else margin
        heights = [self._band_height(band) for band in self.bands]
        sheet = Image.new("RGB", (width, top + sum(heights)), "white")
        pen = ImageDraw.Draw(sheet)
        if self.title:
            labels.draw_lines(pen, (margin, margin), title, self.label)
        for band, height in zip(self.bands, heights, strict=True):
            self._draw_band(sheet, pen, band, top)
            top += height
        return sheet

    def _heads(self, band: list[Group]) -> list[list[list[str]]]:
        """Lines of each column's head, by group."""
        return [
            [self._lines(head, self.cell[0], MOST_HEAD_LINES) for head in group.columns]
            if any(group.columns)
            else [[] for _ in group.columns]
            for group in band
        ]

    def _prompts(self, band: list[Group]) -> list[list[str]]:
        return [
            self._lines(group.prompt, self._group_width(group), MOST_PROMPT_LINES) if group.prompt else []
            for group in band
        ]

    def _lines(self, text: str, width: int, most: int) -> list[str]:
        return labels.lines(labels.drawable(text), self.label, width, most)

    def _head_height(self, band: list[Group]) -> int:
        return labels.height(max(len(head) for heads in self._heads(band) for head in heads), self.label)

    def _band_height(self, band: list[Group]) -> int:
        prompts = labels.height(max(map(len, self._prompts(band))), self.label)
        cells = len(self.rows) * (self.cell[1] + self.gap)
        return self._head_height(band) + self.gap + cells + prompts + self.label

    def _draw_band(self, sheet: Image.Image, pen: ImageDraw.ImageDraw, band: list[Group], top: int) -> None:
        head_height = self._head_height(band)
        first = top + head_height + self.gap
        for number, name in enumerate(self.names):
            middle = first + number * (self.cell[1] + self.gap) + self.cell[1] / 2
            labels.draw_lines(
                pen, (self.label / 2, middle - labels.height(len(name), self.label) / 2), name, self.label
            )
        left = self.left
        for group, heads, prompt in zip(band, self._heads(band), self._prompts(band), strict=True):
            for column, head in enumerate(heads):
                x = left + column * (self.cell[0] + self.gap)
                # Heads of fewer lines than others stand right above their pictures.
                y = top + head_height - labels.height(len(head), self.label)
                labels.draw_lines(pen, (x, y), head, self.label)
                for row, cells in enumerate(group.cells):
                    self._paste(sheet, cells[column], x, first + row * (self.cell[1] + self.gap))
            below = first + len(self.rows) * (self.cell[1] + self.gap)
            labels.draw_lines(pen, (left, below), prompt, self.label, "#444444")
            left += self._group_width(group) + self.group_gap

    def _paste(self, sheet: Image.Image, picture: Image.Image | None, x: int, y: int) -> None:
        if picture is None:
            return
        shown = _fitted(picture, self.cell)
        sheet.paste(shown, (x + (self.cell[0] - shown.width) // 2, y + (self.cell[1] - shown.height) // 2))


def _cell(size: tuple[int, int], count: int) -> tuple[int, int]:
    """The size of ``count`` cells for pictures of ``size``, with its proportions."""
    longest = max(size)
    # Small pictures grow by whole numbers, so that each of their pixels stays a square.
    side = longest * math.ceil(SMALLEST_SIDE / longest) if longest < SMALLEST_SIDE else min(longest, LARGEST_SIDE)
    pixels = size[0] * size[1] * (side / longest) ** 2 * count
    scale = side / longest * min(1.0, math.sqrt(MOST_PIXELS / pixels))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fitted(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """``picture`` as large as it can be within ``cell``."""
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    if size == picture.size:
        return picture
    way = Image.Resampling.NEAREST if scale >= 2 and scale == int(scale) else Image.Resampling.LANCZOS
    return picture.resize(size, way)
