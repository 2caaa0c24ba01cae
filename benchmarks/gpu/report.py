"""docs/PERFORMANCE.md: the part that ``make bench-gpu`` has measured.

    python -m fluxduel.benchmarks.gpu.report rows.jsonl [--page docs/PERFORMANCE.md]

writes it from the rows of a run elsewhere. Rows of a CPU, of a smaller model or of a run of chosen rows are refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "PERFORMANCE.md"
BEGIN, END = "<!-- measured by make bench-gpu -->", "<!-- end of what make bench-gpu has measured -->"

Row = dict[str, Any]

STEPS = (
    ("plain diffusers + PEFT, autocast", "plain autocast"),
    ("plain diffusers + PEFT, adapter in bf16", "plain bf16"),
    ("plain diffusers + PEFT, adapter in fp32", "plain fp32"),
    ("stage 1, bf16", "stage 1"),
    ("stage 1, bf16, compiled", "stage 1 compiled"),
    ("stage 1, int8_convrot", "stage 1 int8_convrot"),
    ("stage 1, int8_convrot, compiled", "stage 1 int8_convrot compiled"),
    ("stage 1, int8", "stage 1 int8"),
    ("stage 2, bf16", "stage 2"),
    ("stage 2, bf16, compiled", "stage 2 compiled"),
    ("stage 2 for two samplers, bf16", "two samplers"),
)


def write(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Put the tables of ``rows`` in place of those that ``page`` has.

    Raises ``ValueError`` for rows that say nothing of FLUX.1 on a GPU, and for a page without the place for them.
    """
    problem = unfit(rows)
    if problem:
        raise ValueError(f"Not written: {problem}.")
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}, between which the tables belong.")
    text = "\n".join(lines(rows))
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def unfit(rows: Sequence[Row]) -> str:
    """Why ``rows`` are not to be published; empty where they are."""
    machine = next((row for row in rows if row["row"] == "machine"), None)
    if machine is None:
        return "there is no row that tells of the machine"
    if machine["device"] == "CPU":
        return "the rows are of a CPU"
    if not machine["whole"]:
        return "the rows are of a smaller model, of other pictures or of chosen measurements"
    return ""


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown."""
    found = {row["row"]: row for row in rows}
    machine = found["machine"]
    sides = machine["sides"]
    kitchen = f", comfy-kitchen {machine['comfy_kitchen']}" if machine["comfy_kitchen"] else ""
    yield (
        f"{machine['device']}, torch {machine['torch']}, diffusers {machine['diffusers']}, peft {machine['peft']}"
        f"{kitchen}; one run. Rank 16, batch 1, gradient checkpointing. Seconds are medians of 5 steps."
    )
    yield from ("", *_caps(found), "", *_steps(found, sides), "", *_streamed(found), "", *_ceilings(found))
    missing = [f"{name} ({_problem(row)})" for name, row in found.items() if _problem(row)]
    if missing:
        yield from ("", f"Without a figure: {'; '.join(missing)}.")


def _problem(row: Row) -> str:
    if row.get("oom"):
        return "out of memory"
    return row.get("error") or ("no time was left" if "skipped" in row else row.get("left_out", ""))


def _caps(found: dict[str, Row]) -> Iterator[str]:
    yield "What the plan chose by itself where torch was given no more than such a card has, GiB:"
    yield ""
    yield "| | | plan | predicted peak | measured | seconds a step |"
    yield "|---|---|---|---|---|---|"
    for name, row in found.items():
        for stage in ("stage 1", "stage 2") if name.startswith("card of") else ():
            if stage not in row:
                continue
            out = row[stage]
            if "plan" not in out:
                yield f"| {name} | {stage} | refused | | | |"
            elif not out["runs"]:
                problem = "out of memory" if "out_of_memory" in out else out["error"]
                yield f"| {name} | {stage} | {out['plan']} | {out['predicted']:.1f} | {problem} | |"
            else:
                again = ", at the second attempt" if out.get("again") else ""
                yield (
                    f"| {name} | {stage} | {out['plan']}{again} | {out['predicted']:.1f} | {out['peak']:.1f} "
                    f"| {out['step_seconds']:.2f} |"
                )


def _steps(found: dict[str, Row], sides: Sequence[int]) -> Iterator[str]:
    yield "Seconds of a step, and its peak in GiB:"
    yield ""
    yield "| | " + " | ".join(f"{side} px" for side in sides) + " |"
    yield "|" + "---|" * (1 + len(sides))
    for words, name in STEPS:
        cells = []
        for side in sides:
            row = found.get(f"{name}, {side} px", {})
            seconds = row.get("seconds") or row.get("seconds_without_held_out")
            cells.append(f"{seconds:.3f}, {row['steps']['peak']:.1f}" if seconds else "")
        if any(cells):
            yield f"| {words} | " + " | ".join(cells) + " |"
    ratios = {name: value for name, value in found.get("ratios", {}).items() if isinstance(value, float)}
    wanted = ("over stage 1", "without held-out", "over compiled", "over bf16", "share of the large")
    told = [f"{name} {value:g}" for name, value in ratios.items() if any(part in name for part in wanted)]
    if told:
        yield from ("", f"Ratios: {'; '.join(told)}.")
    for name, row in found.items():
        if "compile_seconds" in row:
            yield f"{name}: {row['graphs']} graphs, {row['compile_seconds']:.0f} s to compile."


def _streamed(found: dict[str, Row]) -> Iterator[str]:
    yield "Blocks in the computer's memory, stage 1, seconds a step:"
    yield ""
    yield "| | step | computation alone | copies alone | step over the longer | GiB copied | GB/s |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in found.items():
        if name.startswith("streamed") and row.get("copies"):
            yield (
                f"| {name} | {row['seconds']:.3f} | {row['compute']:.3f} | {row['copy']:.3f} | {row['over_bound']:.2f} "
                f"| {row['copied_gib']:.1f} | {row['gb_per_s']:.1f} |"
            )


def _ceilings(found: dict[str, Row]) -> Iterator[str]:
    row = found.get("ceilings", {})
    if "products_tflops" not in row:
        return
    large = f"{row['large']}³ in bf16 {row['bf16_tflops']:.0f}, of integers {row['int8_tflops']:.0f}"
    yield f"Matrix products, TFLOP/s ({large}):"
    kernels = list(next(iter(row["products_tflops"].values()))["layer"])
    yield ""
    yield "| | bf16 | integers alone | " + " | ".join(f"a layer by {kernel}" for kernel in kernels) + " |"
    yield "|" + "---|" * (3 + len(kernels))
    for name, speeds in row["products_tflops"].items():
        cells = [speeds["bf16"], speeds["int8"], *speeds["layer"].values()]
        yield f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |"
    copies = ", ".join(f"{kind} {speed:g}" for kind, speed in row["copies_gb_per_s"].items())
    yield from ("", f"The engine takes: {row['best_kernel']}. Copies to the card, GB/s: {copies}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="what benchmarks.gpu.run wrote with --out, one run")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    try:
        write([json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()], options.page)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
