"""The numbers of both stages that the demo shows at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean


def read_records(stats: Path) -> list[dict[str, float]]:
    """One record a step, as a stage wrote them."""
    return [json.loads(line) for line in stats.read_text().splitlines()]


def table(stage_1: Sequence[dict[str, float]], stage_2: Sequence[dict[str, float]], seconds: dict[str, float]) -> str:
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
            # Each at the guidance that its stage is trained at: not to be compared.
            f"flow loss on held-out pictures   stage 1 {_change(first)}   stage 2 {_change(last)}",
            f"discriminator right, first fifth {accuracy(begin)}",
            f"discriminator right, last fifth  {accuracy(end)}",
            f"training time                    {spent}",
        )
    )


def _change(losses: Sequence[float]) -> str:
    return f"{losses[0]:.4f} to {losses[-1]:.4f}"


def _held_out(records: Sequence[dict[str, float]]) -> list[float]:
    return [record["held_out_loss"] for record in records if "held_out_loss" in record]
