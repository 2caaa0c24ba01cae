"""What the demo shows at the end: a grid of pictures and the numbers of both stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image, ImageDraw, ImageFont

from .pictures import tiles

CELL = 128
GAP = 4
LABEL_WIDTH = 110
HEADER = 30
COLUMN_GAP = 16


def read_records(stats: Path) -> list[dict[str, float]]:
    """One record a step, as a stage wrote them."""
    return [json.loads(line) for line in stats.read_text().splitlines()]


def grid(rows: dict[str, Sequence[Path]], steps: Sequence[int], count: int) -> Image.Image:
    """Labelled pictures: a row for each of ``rows`` and one of real tiles, a group of columns for each step count.

    Each row holds ``len(steps) * count`` pictures, ordered by step count and then by seed: one column, one noise.
    """
    pictures = {label: [Image.open(path).convert("RGB") for path in paths] for label, paths in rows.items()}
    real, wanted = list(tiles()), len(steps) * count
    pictures["real"] = [real[index * len(real) // wanted] for index in range(wanted)]
    for label, row in pictures.items():
        if len(row) != wanted:
            raise ValueError(f"The row {label!r} has {len(row)} pictures, expected {wanted}.")
    width = LABEL_WIDTH + len(steps) * (count * (CELL + GAP) + COLUMN_GAP)
    sheet = Image.new("RGB", (width, HEADER + len(pictures) * (CELL + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for y, (label, row) in enumerate(pictures.items()):
        top = HEADER + y * (CELL + GAP)
        draw.text((8, top + CELL // 2 - 8), label, "black", font)
        for x, picture in enumerate(row):
            left = _left(x, count)
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))
    for group, number in enumerate(steps):
        draw.text((_left(group * count, count), 6), f"{number} step{'s' if number > 1 else ''}", "black", font)
    return sheet


def _left(column: int, count: int) -> int:
    return LABEL_WIDTH + column * (CELL + GAP) + column // count * COLUMN_GAP


def table(
    stage_1: Sequence[dict[str, float]], stage_2: Sequence[dict[str, float]], seconds: dict[str, float]
) -> str:
    """The numbers that say whether both stages did their work."""
    first, last = _held_out(stage_1), _held_out(stage_2)
    judged = [record for record in stage_2 if "real_accuracy" in record]
    part = max(1, len(judged) // 5)
    begin, end = judged[:part], judged[-part:]

    def accuracy(records: Sequence[dict[str, float]]) -> str:
        real, fake = (fmean(record[name] for record in records) for name in ("real_accuracy", "fake_accuracy"))
        return f"{real:4.0%} of real, {fake:4.0%} of fake"

    spent = f"stage 1 {seconds['diffusion']:.0f} s   stage 2 {seconds['adversarial']:.0f} s"
    return "\n".join(
        (
            f"flow loss on held-out tiles      base {first[0]:.4f}   stage 1 {first[-1]:.4f}   stage 2 {last[-1]:.4f}",
            f"discriminator right, first fifth {accuracy(begin)}",
            f"discriminator right, last fifth  {accuracy(end)}",
            f"training time                    {spent}",
        )
    )


def _held_out(records: Sequence[dict[str, float]]) -> list[float]:
    return [record["held_out_loss"] for record in records if "held_out_loss" in record]
