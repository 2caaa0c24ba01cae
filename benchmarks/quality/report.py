"""docs/EXPERIMENTS.md: what stage 2 gains and does not gain, with tables, plots and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .statistics import median_and_interval
from .styles import report as styles
from .textures import report as textures

Result = dict[str, Any]
# What was done before, and what is other here; read as abstracts, repositories and documents, not run.
BEFORE = """## What did it before

An adversarial loss after ordinary training is not new, for FLUX neither. What is ours is a LoRA from tens of pictures,
for few steps or many or both, inside ComfyUI, with the figures above.

- **FAIL** (arXiv:2602.12155): supervised fine-tuning, then adversarial post-training of FLUX.1-dev as a whole, with a
  judge on decoded pictures and 13,000 demonstrations.
- **OPAD** (arXiv:2510.20512): teacher LoRA and one-step student learn a concept together, by an adversarial and an
  alignment loss. The anchor of stage 2 is of that kind.
- **Uni-DAD** (CVPR 2026; github.com/yaramohamadi/uni-DAD): one stage of distillation and adaptation to ten pictures,
  with a term that holds to the source model.
- **CollectionLoRA** (arXiv:2605.25378): many effects and few steps in one LoRA, by distillation alone.
- **D-OPSD** (arXiv:2605.05204): tuning of distilled bases on their own roll-outs, without a discriminator.
  Practice prompts are drawn in such roll-outs.
- **SCFM** (arXiv:2510.17858): few-step FLUX from ten pictures by self-distillation of velocities; the arm *regression
  on stage 1's sub-steps* is its nearest relative here.
- **LADD** (arXiv:2403.12015), from which the discriminator on the base's own features is, and NVIDIA's **FastGen**,
  which has it for many networks."""


def write(found: dict[str, Any], report: Path) -> None:
    """``report`` and, beside it, a folder ``experiments`` with its plots and pictures; see ``run`` for ``found``."""
    pictures = report.parent / "experiments"
    pictures.mkdir(parents=True, exist_ok=True)
    folder: Path = found["folder"]
    first = min(result["seed"] for result in found["styles"])
    for style in styles.compared(found["styles"], min(found["counts"])):
        page = styles.sheet(found["styles"], folder, style, min(found["counts"]), first)
        page.quantize(256).save(pictures / f"sheet_{style}.png", optimize=True)
    if found["textures"]:
        textures.write_pictures(found["textures"], found["floors"], folder, pictures, found["images"])
    report.write_text("\n".join(text(found)) + "\n", encoding="utf-8")


def _cells(results: list[Result], images: int) -> str:
    return f"{len(styles.by_cell(results, 'ours', images))} LoRAs from {images} pictures"


def what_was_asked(found: dict[str, Any]) -> list[str]:
    """Lines of Markdown: what is missed first, then what is met."""
    results, counts = found["styles"], found["counts"]
    asked = [row for images in counts for row in styles.asked(results, images)]
    for title, ratios in (
        (f"textures, {found['images']} images: FD at 4 over stage 1's best solver", found["over_solver"]),
        (f"textures, {found['few_images']} images: the same", found["few_over_solver"]),
    ):
        if not ratios["pairs"]:
            asked.append((title, "0.5", "not measured", False))
            continue
        low, high = ratios["ci"]
        shown = f"{ratios['ratio']:.3f} ({low:.3f} to {high:.3f}), {ratios['pairs']} LoRAs"
        asked.append((title, "0.5", shown, ratios["ratio"] <= 0.5))
    for images, arm in ((found["images"], "target4"), (found["few_images"], textures.FEW_ARM)):
        for steps in (4, 25):
            if tolls := textures.toll(found["textures"], images, arm, steps):
                middle, _ = median_and_interval(tolls)
                title = f"textures, {images} images: FD with the worst solver at {steps} over its own at 4"
                asked.append((title, "1.2", f"{middle:.3g}", middle <= 1.2))
    for name, rival in (("over_distil", "regression on stage 1's sub-steps"), ("over_mmd", "discrepancy of features")):
        title = f"{min(counts)} pictures: distance over the arm without a discriminator, {rival}"
        if not found[name]["cells"]:
            asked.append((title, "interval below 1", "not measured", False))
            continue
        low, high = found[name]["ci"]
        shown = f"{found[name]['ratio']:.3f} ({low:.3f} to {high:.3f})"
        asked.append((title, "interval below 1", shown, high < 1))
    base = sum(found["base"].values()) / len(found["base"])
    asked.append(("the base keeps the subject, mean over its styles", "at least 0.6", f"{base:.2f}", base >= 0.6))
    return [
        "## What stage 2 does not gain",
        "",
        "Asked of it before it was measured, and missed; ratios are medians over styles and seeds with 95 % intervals "
        f"({', '.join(_cells(results, images) for images in counts)}).",
        "",
        "| | at most | found |",
        "|---|---|---|",
        *(f"| {title} | {bar} | {figure} |" for title, bar, figure, met in asked if not met),
        "",
        "And met:",
        "",
        "| | at most | found |",
        "|---|---|---|",
        *(f"| {title} | {bar} | {figure} |" for title, bar, figure, met in asked if met),
    ]


def text(found: dict[str, Any]) -> list[str]:
    """The page's lines."""
    results, counts = found["styles"], found["counts"]
    return [
        "# Experiments",
        "",
        "Made by `make bench-quality`, which computes every number and picture on this page. Do not edit it by hand.",
        "",
        *(
            f"![Subjects that no LoRA was trained on, {style}](experiments/sheet_{style}.png)"
            for style in styles.compared(results, min(counts))
        ),
        "",
        *what_was_asked(found),
        "",
        *styles.rivals(results, min(counts)),
        *styles.section(results, found["base"], counts),
        *(
            textures.section(found["textures"], found["floors"], found["images"], found["few_images"])
            if found["textures"]
            else ["## Textures", "", "Not measured in this run.", ""]
        ),
        BEFORE,
    ]
