"""The styles' part of the page: what is asked and what was found, tables, and the sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fluxduel.benchmarks import pictograms

from ..statistics import median_and_interval, told
from ..textures.job import Quiet
from . import arms, drawing, job, subjects
from .drawing import Setting
from .summary import FREE, OWN, Result, best, by_cell, own, ratios, summary

SIDE, GAP, LABEL_WIDTH, HEADER, ROWS = 128, 4, 130, 52, 6
TITLES = {"stage1": "stage 1", **{name: arm.title for name, arm in arms.ARMS.items()}}


def sheet(results: list[Result], folder: Path, style: str, images: int, seed: int) -> Image.Image:
    """Six subjects that were not trained on: the truth, the base, stage 1 in three ways, ours."""
    place = job.Job(style, seed, images, "stage1")
    first = by_cell(results, "stage1", images)[place.cell]
    stage_1, ours = (job.trained(place._replace(arm=arm), folder, Quiet()) for arm in ("stage1", "ours"))
    solver, steps, guidance, _ = _setting(best(first, job.FEW))
    columns: list[tuple[str, Any, Setting]] = [
        (f"base\neuler {job.MANY}", None, OWN._replace(steps=job.MANY)),
        (f"stage 1\neuler {job.FEW}", stage_1, OWN),
        (f"stage 1, at {guidance:g}\n{solver} {steps}", stage_1, Setting(solver, steps, guidance)),
        (f"stage 1\neuler {job.MANY}", stage_1, OWN._replace(steps=job.MANY)),
        (f"ours\neuler {job.FEW}", ours, OWN),
    ]
    _, names = subjects.split(style, images, seed)
    rows = [names[round(place * (len(names) - 1) / (ROWS - 1))] for place in range(ROWS)]
    captions = [subjects.caption(style, name) for name in rows]
    drawn = [drawing.decoded(drawing.latents(lora, captions, setting)) for _, lora, setting in columns]
    step = SIDE + GAP
    page = Image.new("RGB", (LABEL_WIDTH + (1 + len(columns)) * step, HEADER + ROWS * step), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for column, title in enumerate(["truth", *(title for title, _, _ in columns)]):
        draw.text((LABEL_WIDTH + column * step + 6, 6), title, "black", font)
    for row, name in enumerate(rows):
        top = HEADER + row * step
        draw.text((8, top + SIDE // 2 - 20), "\n".join(pictograms.words(name).split()), "black", font)
        found = [subjects.pictures(style, [name])[0], *(pictures[row] for pictures in drawn)]
        for column, picture in enumerate(found):
            pixels = (picture.movedim(0, -1) * 255).round().byte().numpy()
            page.paste(Image.fromarray(pixels), (LABEL_WIDTH + column * step, top))
    return page


def _setting(found: dict[str, Any]) -> Setting:
    solver, steps, guidance, strength = found["setting"].split("/")
    return Setting(solver, int(steps), float(guidance[1:]), float(strength[1:]))


def asked(results: list[Result], images: int) -> list[tuple[str, str, str, bool]]:
    """What is asked, the bar in words, what was found, and whether it is met."""
    f = summary(results, images)
    low, high = f["paired4_ci"]
    swept = max(value for name, value in f["strengths"].items()) if f["strengths"] else float("nan")
    title = f"{images} pictures"
    return [
        (
            f"{title}: paired distance at 4 over stage 1's best solver at 4", "0.8, interval below 1",
            f"{f['paired4']:.3f} ({low:.3f} to {high:.3f})", f["paired4"] <= 0.8 and high < 1,
        ),
        (
            f"{title}: the same over stage 1's best solver at {job.MANY}", "1.0", f"{f['paired4_over_many']:.3f}",
            f["paired4_over_many"] <= 1,
        ),
        (
            f"{title}: the same over its best solver at the same guidance, {arms.GUIDANCE:g}", "1",
            f"{f['paired4_same_guidance']:.3f}", f["paired4_same_guidance"] <= 1,
        ),
        (
            f"{title}: the same, ours with its best solver, too", "1", f"{f['paired4_both_best']:.3f}",
            f["paired4_both_best"] <= 1,
        ),
        (
            f"{title}: FD at 4 over stage 1 with the solver and guidance that are best by FD", "1",
            f"{f['frechet4']:.3f}", f["frechet4"] <= 1,
        ),
        (f"{title}: subject kept, over stage 1", "at least 1", f"{f['retrieval']:.3f}", f["retrieval"] >= 1),
        (f"{title}: memorised, over stage 1", "1", f"{f['memorised']:.3f}", f["memorised"] <= 1),
        (f"{title}: diversity over real", "at least 0.9", f"{f['diversity']:.3f}", f["diversity"] >= 0.9),
        (f"{title}: worst other solver at 4 over its own", "1.2", f"{f['toll4']:.3f}", f["toll4"] <= 1.2),
        (f"{title}: worst solver at 25 over its own at 4", "1.2", f"{f['toll25']:.3f}", f["toll25"] <= 1.2),
        (f"{title}: worst strength of 0.6 to 1.2, over stage 1 at it", "1", f"{swept:.3f}", swept <= 1),
        (f"{title}: distance in an old style, over stage 1", "1", f"{f['drift']:.3f}", f["drift"] <= 1),
        (f"{title}: flow loss on unseen subjects, over stage 1", "1.03", f"{f['val_flow']:.3f}", f["val_flow"] <= 1.03),
    ]  # fmt: skip


def section(results: list[Result], base: dict[str, float], counts: tuple[int, ...]) -> list[str]:
    """Lines of Markdown."""
    seeds = len({r["seed"] for r in results if r["arm"] == "ours"})
    steps = " or ".join(f"{number} ({count} pictures)" for count, number in arms.STAGE_1_STEPS.items())
    unseen = len(subjects.split(subjects.STYLES[0], min(counts), 0)[1])
    lines = [
        "## Styles",
        "",
        f"The built-in base, 2.7 million weights, knows {len(subjects.taught())} subjects in "
        f"{len(pictograms.BASE_STYLES)} drawing styles ({', '.join(s.word for s in pictograms.BASE_STYLES)}). A LoRA "
        f"of rank {arms.RANK} learns a style that it has never seen ({', '.join(subjects.STYLES)}; seeds: {seeds}) "
        f"from 24 or 60 pictures in {steps} steps of stage 1 (batch {arms.SCALE['batch_size']}, learning rate "
        f"{arms.STAGE_1['learning_rate']:g}); from its result each arm takes {arms.GENERATOR_STEPS} generator steps at "
        f"{arms.LORA_RATE:g} (stage 1 continued for equal compute {arms.EQUAL_COMPUTE_STEPS}), and "
        "delivers the best of its states by the same score (the discriminator's rate: "
        f"{arms.DISCRIMINATOR_RATE:g}, its weight: {arms.OURS['adversarial_weight']:g}). Ours and its rivals also "
        f"practise on the captions of {subjects.PRACTICE} subjects without pictures, which are not measured: with 24 "
        "training pictures subjects that the base knows, with 60 such that it does not. The settings were chosen on "
        f"one LoRA of each style with another seed, hence other pictures. Measured on {unseen} subjects "
        "that are in no training picture, each with its true picture. A distance is the mean over four unrelated "
        "spaces of patch features (colours, edge directions, random filters, a style classifier's), in units of the "
        "mean distance between the true pictures of two subjects: 0 is the truth, 1 as far as a picture of something "
        "else in the right style. *Subject* is the share of samples whose nearest of all true pictures is their own, "
        "*style* the share that the classifier takes for the style. *Solver* stands for the best of "
        f"{', '.join(job.SOLVERS)} and of guidance {' and '.join(f'{g:g}' for g in job.GUIDANCES)}, chosen for each "
        "LoRA by its distance on a third of the subjects. Ours is always sampled as it says of itself: Euler, "
        f"{job.FEW} steps, guidance {arms.GUIDANCE:g}.",
        "",
        "The base's own samples at 25 steps, nearest of all true pictures of the style is the one asked for: "
        + ", ".join(f"{style} {share:.2f}" for style, share in base.items()) + ".",
        "",
    ]  # fmt: skip
    for images in counts:
        if by_cell(results, "ours", images):
            lines += [f"### {images} pictures", "", *_table(results, images), "", *_by_style(results, images), ""]
            lines += [*_solvers(results, images), ""]
    return lines


def rivals(results: list[Result], images: int) -> list[str]:
    """Ours over every other arm, each at its own sampling and both at the same seeds."""
    lines = [f"### Against the other arms, {images} pictures", ""]
    lines += [
        "With Euler in 4 steps on a third of the subjects, the others at that guidance of 1 and 3.5 which brings them "
        "nearer to the truth.", "",
        "| ours over | distance | style | subject | FD |", "|---|---|---|---|---|",
    ]  # fmt: skip
    empty = len(lines)
    for name, arm in arms.ARMS.items():
        if name == "ours" or not by_cell(results, name, images):
            continue


        def cell(measure: str, name: str = name) -> str:
            return told(
                ratios(results, images, lambda r: r["part"][OWN.name][measure], name, lambda r: _nearer(r)[measure])
            )

        lines.append(f"| {arm.title} | {cell('paired')} | {cell('style')} | {cell('retrieval')} | {cell('frechet')} |")
    return [*lines, ""] if len(lines) > empty else []


def _by_style(results: list[Result], images: int) -> list[str]:
    """Ours at 4, style by style: a median over styles hides where it wins and where it loses."""
    lines = [
        "| ours over stage 1, at 4 evaluations | distance, best solver and guidance | distance, best solver at "
        f"{arms.GUIDANCE:g} | FD, best solver and guidance | distance to the truth at {arms.GUIDANCE:g}, Euler, both |",
        "|---|---|---|---|---|",
    ]
    for style in subjects.STYLES:
        own_results = [r for r in results if r["style"] == style]
        if not _compared(own_results, "ours", images):
            continue
        found = summary(own_results, images)
        (low, high), both = found["paired4_ci"], [_compared(own_results, arm, images) for arm in ("stage1", "ours")]
        first, last = (median_and_interval([own(r) for r in each])[0] for each in both)
        lines.append(
            f"| {style} | {found['paired4']:.3g} ({low:.3g} to {high:.3g}) | {found['paired4_same_guidance']:.3g} "
            f"| {found['frechet4']:.3g} | {first:.3g} to {last:.3g} |"
        )
    return lines


def _nearer(result: Result) -> dict[str, float]:
    """With Euler at that of both guidances which is nearer to the truth: the arms are trained for different ones."""
    found = [result["part"].get(OWN._replace(guidance=guidance).name) for guidance in job.GUIDANCES]
    return min((each for each in found if each), key=lambda each: each["paired"])


_MEASURES = ("paired", "retrieval", "style", "frechet", "memorised", "diversity", "sharpness")


def compared(results: list[Result], images: int) -> list[str]:
    """The styles in which ours was trained from as many pictures, at the first seed, and with its stage 1."""
    first = min(r["seed"] for r in results)
    own_results = [r for r in results if r["seed"] == first]
    return [s for s in subjects.STYLES if _compared([r for r in own_results if r["style"] == s], "ours", images)]


def _compared(results: list[Result], arm: str, images: int) -> list[Result]:
    """The arm's results for the styles and seeds in which ours was trained, too: those of others say nothing of it."""
    ours, stage_1, found = (by_cell(results, name, images) for name in ("ours", "stage1", arm))
    return [found[cell] for cell in sorted(ours.keys() & stage_1.keys() & found.keys())]


def _table(results: list[Result], images: int) -> list[str]:
    """Medians over styles and seeds."""
    head = ("distance", "subject", "style", "FD", "memorised", "diversity", "sharpness", "old style", "flow loss")
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]

    def row(title: str, arm: str, at: Callable[[Result], dict[str, float]]) -> None:
        found = _compared(results, arm, images)
        if found:
            values = [[at(r)[name] for r in found] for name in _MEASURES]
            values += [[r["drift"] for r in found], [r["flow"] for r in found]]
            cells = [f"{median_and_interval(each)[0]:.3g}" for each in values]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")

    row(f"stage 1, Euler {job.FEW}", "stage1", lambda r: r["whole"][OWN.name])
    row(f"stage 1, solver {job.FEW}", "stage1", lambda r: best(r, job.FEW))
    row(f"stage 1, solver {job.MANY}", "stage1", lambda r: best(r, job.MANY))
    for name in arms.CONTINUED:
        row(f"{arms.ARMS[name].title}, solver {job.FEW}", name, lambda r: best(r, job.FEW))
    for name, arm in arms.ARMS.items():
        # What is trained for another guidance stands among the rivals.
        if arm.config.get("guidance") == arms.GUIDANCE:
            row(f"{arm.title}, Euler {job.FEW}", name, lambda r: r["whole"][OWN.name])
    return lines


def _solvers(results: list[Result], images: int) -> list[str]:
    """Distance by solver and number of steps, and by strength; medians."""
    names = [s.name for steps in (job.FEW, job.MANY) for s in FREE[steps] if s.guidance == OWN.guidance]
    names += [OWN._replace(strength=strength).name for strength in job.STRENGTHS]
    found = {arm: _compared(results, arm, images) for arm in ("stage1", "ours")}
    names = [name for name in names if all(name in r["part"] for each in found.values() for r in each)]
    lines = ["| distance, on a third | " + " | ".join(_short(name) for name in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for arm, each in found.items():
        cells = [f"{median_and_interval([r['part'][name]['paired'] for r in each])[0]:.3g}" for name in names]
        lines.append(f"| {TITLES[arm]} | " + " | ".join(cells) + " |")
    return lines


def _short(name: str) -> str:
    solver, steps, _, strength = name.split("/")
    return f"{solver} {steps}" + ("" if strength == "s1" else f" at {strength[1:]}")


