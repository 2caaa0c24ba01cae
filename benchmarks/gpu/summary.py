"""Ratios between rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Keys of a stage's row.
MEASUREMENTS = ("held_out_loss", "preview", "samples", "step_with_look")


def summary(found: dict[str, dict[str, Any]], sides: Sequence[int]) -> dict[str, Any]:
    """Ratios of the rows that are there, and by how many GiB measurements exceed the peak of a step."""
    ratios: dict[str, Any] = {}

    def ratio(name: str, above: tuple[str, str], below: tuple[str, str]) -> None:
        values = [found.get(row, {}).get(key) for row, key in (above, below)]
        if all(values):
            ratios[name] = round(values[0] / values[1], 3)

    for side in sides:
        at = f", {side} px"
        ours, faster = (f"stage 1{at}", "seconds"), (f"stage 1 compiled{at}", "seconds")
        for name in ("autocast", "bf16", "fp32"):
            ratio(f"plain {name} over stage 1{at}", (f"plain {name}{at}", "seconds"), ours)
            ratio(f"plain {name} over stage 1 compiled{at}", (f"plain {name}{at}", "seconds"), faster)
        ratio(f"stage 2 over stage 1{at}", (f"stage 2{at}", "seconds"), ours)
        ratio(f"the same without held-out pictures{at}", (f"stage 2{at}", "seconds_without_held_out"), ours)
        ratio(f"two samplers over stage 1{at}", (f"two samplers{at}", "seconds_without_held_out"), ours)
        ratio(f"stage 1 over compiled{at}", ours, faster)
        compiled_2 = (f"stage 2 compiled{at}", "seconds")
        ratio(f"stage 2 over compiled{at}", (f"stage 2{at}", "seconds_without_held_out"), compiled_2)
        for precision in ("int8_convrot", "int8"):
            ratio(f"{precision} over bf16{at}", (f"stage 1 {precision}{at}", "seconds"), ours)
            ratio(
                f"{precision} over bf16, both compiled{at}", (f"stage 1 {precision} compiled{at}", "seconds"), faster
            )
        for name, row in ((" compiled", faster), ("", ours)):
            step = found.get(row[0], {}).get("seconds")
            tflop, ceiling = found.get(ours[0], {}).get("tflop"), found.get("ceilings", {}).get("bf16_tflops")
            if step and tflop and ceiling:
                ratios[f"share of the large product{name}{at}"] = round(tflop / step / ceiling, 3)
        for row in (f"stage 1{at}", f"stage 2{at}"):
            costs = found.get(row, {})
            peaks = {name: costs[name]["peak"] for name in ("steps", *MEASUREMENTS) if "peak" in costs.get(name, ())}
            step = peaks.pop("steps", None)
            if step is not None:
                beyond = {name: round(peak - step, 3) for name, peak in peaks.items()}
                ratios[f"measurements beyond a step, {row}"] = beyond
        for row, costs in found.items():
            # At the first step losses and gradients differ by rounding alone.
            first, wanted = (each.get("at_first", {}).get("grad_norm") for each in (costs, found.get(ours[0], {})))
            if first and wanted and row.endswith(at) and not row.startswith("stage 2") and row != ours[0]:
                ratios[f"norm of the first gradient, {row}"] = round(first / wanted, 5)
    for row, stages in found.items():
        for stage in ("stage 1", "stage 2") if row.startswith("card of") else ():
            outcome = stages.get(stage, {})
            if outcome.get("runs") and "peak" in outcome:
                ratios[f"predicted over measured peak, {row}, {stage}"] = round(
                    outcome["predicted"] / outcome["peak"], 3
                )
    return ratios
