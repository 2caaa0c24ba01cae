"""The network by which styles are told apart, the same in every run: its weights come with the benchmark.

    python -m fluxduel.benchmarks.quality.styles.classifier

trains it anew on the true pictures of all subjects in all styles, as they are and through the VAE (4 minutes of a
core), and replaces the file. What was measured with another one cannot be compared with what follows.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fluxduel.benchmarks import pictograms

from . import drawing, measures, subjects

FILE = Path(__file__).with_suffix(".safetensors")
KNOWN_STYLES = tuple(style.word for style in (*pictograms.BASE_STYLES, *pictograms.TARGET_STYLES))


@functools.lru_cache(maxsize=1)
def classifier() -> measures.StyleClassifier:
    """The network with the weights of ``FILE``; its verdicts are indices into ``KNOWN_STYLES``."""
    network = measures.StyleClassifier(len(KNOWN_STYLES))
    network.load_state_dict(load_file(FILE))
    return network.eval().requires_grad_(False)


def main() -> None:
    names = subjects.taught()
    pictures = {style: subjects.pictures(style, names) for style in KNOWN_STYLES}
    network = measures.train_classifier(
        {style: torch.cat([found, drawing.through_vae(found)]) for style, found in pictures.items()}
    )
    save_file(network.state_dict(), FILE)


if __name__ == "__main__":
    main()
