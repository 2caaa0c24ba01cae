"""The words and colours in which a run is told: the same in the chart of the page, in plots and in documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Term:
    """One quantity of a run. ``label``: what it is called. ``colour``: of its curve, legible on dark and on light
    ground and apart from its neighbours for colour-blind readers. ``meaning``: a sentence for the user."""

    label: str
    colour: str
    meaning: str


# By the names of the records in stats.jsonl. web/js/glossary.js holds the same labels and colours.
CURVES = {
    "diffusion_loss": Term(
        "flow loss", "#3d8fe0",
        "How far the predicted velocity is from the one that leads to the picture; in stage 2 from its anchor's.",
    ),
    "held_out_loss": Term(
        "held-out flow loss", "#3d8fe0",
        "The flow loss on pictures that are not trained on, at fixed noise levels. It rises where the LoRA memorises.",
    ),
    "adversarial_loss": Term(
        "adversarial loss", "#e07b1f",
        "What the discriminator teaches the LoRA. The lower it is, the better its samples pass for real.",
    ),
    "discriminator_loss": Term(
        "discriminator loss", "#b266d9", "The lower it is, the better real and generated latents are told apart.",
    ),
    "score": Term(
        "score", "#c2456e",
        "Distance of samples, drawn as the LoRA will be used, to held-out pictures. Lower is better; the lowest is "
        "delivered.",
    ),
    "diversity": Term(
        "diversity", "#8a6d3b",
        "How much samples differ from each other; the chart shows it as a share of the start's. A fall is a warning.",
    ),
    "high_frequency": Term(
        "high frequencies", "#5b7bd5", "Energy of samples in fine detail, as a share of real pictures'. Best near 1.",
    ),
    "real_accuracy": Term("accuracy on real", "#22a07f", "Share of real latents that the discriminator calls real."),
    "fake_accuracy": Term("accuracy on fake", "#e0524a", "Share of generated latents that it calls generated."),
    "pair_accuracy": Term(
        "pair accuracy", "#b8860b", "Share of pairs in which the real one looks more real to it. 0.5 is guessing.",
    ),
    "grad_norm": Term("gradient norm of the LoRA", "#7f8794", "Length of the LoRA's gradient before it is clipped."),
}  # fmt: skip

# Taken at a measurement (validate_every), and so at few of the updates.
MEASURED = ("held_out_loss", "score", "diversity", "high_frequency")

WORDS = {
    "update": "One step of training: of the LoRA or, in the warm-up of stage 2, of the discriminator alone. Charts, "
    "plots and logs count these, and s/step is the time that one takes. Sampling has steps of its own.",
    "start": "The LoRA before the stage: in stage 2 the result of stage 1.",
    "best": "The state with the lowest score that passed the watch. Stage 2 delivers it.",
    "images": "Pictures that the LoRA has been trained on so far, each as often as it was seen.",
    "peak memory": "The most of the card's memory that the stage has held at once since its first update.",
}


def document() -> str:
    """The page docs/GLOSSARY.md."""
    lines = ["# Glossary", "", "The words of the training nodes' chart, of Plot Training Log and of documents.", ""]
    lines += ["| word | in `stats.jsonl` | meaning |", "|---|---|---|"]
    lines += [f"| {term.label} | `{name}` | {term.meaning} |" for name, term in CURVES.items()]
    lines += [f"| {word} | | {meaning} |" for word, meaning in WORDS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parents[2] / "docs/GLOSSARY.md").write_text(document(), encoding="utf-8")
