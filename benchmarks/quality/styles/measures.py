"""How near pictures are to the true ones, each to its own: in several unrelated spaces, by name, by style.

A space turns a picture into features at 8 x 8 places. A distance between two pictures is that of their features, in
units of the mean distance between two true pictures of different subjects: 0 is the truth, and 1 says no more than a
picture of something else in the right style does. No space is that of a discriminator.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluxduel.training.evidence import latent_metrics

Space = Callable[[Tensor], Tensor]
PLACES = 8
_ANGLES = 8
_LEAST_SHARE = 0.3
_CLASSIFIER_BATCH = 64


def colours(pictures: Tensor) -> Tensor:
    """Mean and deviation of red, green and blue in each cell: (n, 3, 128, 128) to (n, 6, 8, 8)."""
    mean = F.adaptive_avg_pool2d(pictures, PLACES)
    variance = F.adaptive_avg_pool2d(pictures.square(), PLACES) - mean.square()
    return torch.cat([mean, variance.clamp_min(0).sqrt()], 1)


def edges(pictures: Tensor) -> Tensor:
    """How strong the edges of each direction are in each cell, at two scales, to (n, 16, 8, 8).

    As histograms of oriented gradients (Dalal and Triggs 2005), without their normalisation: a blur is seen.
    """
    grey = pictures.mean(1, keepdim=True)
    found = []
    for scale in (1, 4):
        image = F.avg_pool2d(grey, scale)
        wide = F.pad(image, (1, 1, 1, 1), mode="replicate")
        right, down = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
        strength, angle = torch.hypot(right, down), torch.atan2(down, right) % math.pi
        place = angle / math.pi * _ANGLES
        low = place.floor()
        for direction in range(_ANGLES):
            share = torch.where(low % _ANGLES == direction, 1 - (place - low), 0.0)
            share = share + torch.where((low + 1) % _ANGLES == direction, place - low, 0.0)
            found.append(F.adaptive_avg_pool2d(share * strength, PLACES))
    return torch.cat(found, 1)


def filters(pictures: Tensor) -> Tensor:
    """Mean size of random filters' answers in each cell, at three scales, to (n, 48, 8, 8) (arXiv:1606.00021)."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(16, 3, 5, 5, generator=generator)
    kernels = kernels - kernels.mean((1, 2, 3), keepdim=True)
    kernels = kernels / kernels.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    found = []
    for scale in (1, 2, 4):
        image = F.pad(F.avg_pool2d(pictures, scale), (2, 2, 2, 2), mode="replicate")
        found.append(F.adaptive_avg_pool2d(F.conv2d(image, kernels).abs(), PLACES))
    return torch.cat(found, 1)


class StyleClassifier(nn.Module):
    """A small network that tells drawing styles apart; what it sees on the way is a space, too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(4, b), nn.ReLU())
                for a, b in itertools.pairwise(widths)
            )
        )
        self.verdict = nn.Linear(widths[-1], classes)

    def seen(self, pictures: Tensor) -> Tensor:
        """(n, 96, 8, 8) of pictures (n, 3, 128, 128)."""
        return self.layers(pictures * 2 - 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.verdict(self.seen(pictures).mean((2, 3)))


def train_classifier(pictures: Mapping[str, Tensor], steps: int = 800, seed: int = 0) -> StyleClassifier:
    """Taught on pictures, style by style (n, 3, 128, 128), shifted and mirrored."""
    torch.manual_seed(seed)
    network = StyleClassifier(len(pictures))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    images = torch.cat(list(pictures.values()))
    labels = torch.cat([torch.full((len(found),), i) for i, found in enumerate(pictures.values())])
    for _ in range(steps):
        chosen = torch.randint(len(images), (_CLASSIFIER_BATCH,), generator=generator)
        batch = images[chosen]
        if torch.rand((), generator=generator) < 0.5:
            batch = batch.flip(-1)
        moved = torch.randint(-6, 7, (2,), generator=generator).tolist()
        loss = F.cross_entropy(network(batch.roll(moved, (2, 3))), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Truth:
    """The true pictures of a style's subjects, and what they are in each space.

    Attributes:
        names: of the subjects.
        style: what the classifier is to say.
        features: space -> (n, d).
        units: space -> the mean distance of two subjects.
        roots: space -> (d,), by which features are divided before they are compared: each counts the same.
    """

    names: Sequence[str]
    style: int
    spaces: Mapping[str, Space]
    classifier: StyleClassifier
    features: Mapping[str, Tensor]
    roots: Mapping[str, Tensor]
    units: Mapping[str, float]
    fine: float

    @classmethod
    def of(cls, pictures: Tensor, names: Sequence[str], style: int, classifier: StyleClassifier) -> Truth:
        """``pictures`` (n, 3, 128, 128)."""
        spaces: dict[str, Space] = {
            "colours": colours, "edges": edges, "filters": filters, "classifier": classifier.seen,
        }  # fmt: skip
        raw = {name: space(pictures) for name, space in spaces.items()}
        roots = {name: _deviations(found) for name, found in raw.items()}
        features = {name: (found / roots[name]).flatten(1) for name, found in raw.items()}
        units = {name: latent_metrics.diversity(found) for name, found in features.items()}
        return cls(names, style, spaces, classifier, features, roots, units, fine_detail(pictures))

    def seen(self, pictures: Tensor) -> dict[str, Tensor]:
        """Space -> features of pictures (n, 3, 128, 128), (n, d), in units of the space."""
        return {
            name: (space(pictures) / self.roots[name]).flatten(1) / self.units[name]
            for name, space in self.spaces.items()
        }

    @functools.cached_property
    def own(self) -> dict[str, Tensor]:
        return {name: found / self.units[name] for name, found in self.features.items()}


def _deviations(found: Tensor) -> Tensor:
    """(d, 1, 1) of features (n, d, 8, 8). What hardly varies among the true pictures does not outweigh the rest."""
    deviations = found.std((0, 2, 3))
    return deviations.maximum(_LEAST_SHARE * deviations.mean())[:, None, None]


def fine_detail(pictures: Tensor) -> float:
    """Root mean square of what a blur of 5 x 5 pixels takes from pictures."""
    wide = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    return float((pictures - F.avg_pool2d(wide, 5, 1)).square().mean().sqrt())


def measure(pictures: Tensor, truth: Truth, places: Tensor, training: Tensor | None = None) -> dict[str, float]:
    """Samples (n, 3, 128, 128), one for each subject of ``truth`` that ``places`` (n,) names.

    ``paired``: mean distance to the subject's own true picture, space by space, and ``paired`` their mean;
    ``retrieval``: the share whose nearest of all true pictures, by the sum of distances, is its own; ``style``: the
    share that the classifier takes for the style; ``diversity``: mean distance of two samples over that of their true
    pictures; ``sharpness``: ``fine_detail`` over that of the truth; and, with ``training`` pictures, ``memorised``.
    """
    seen, own = truth.seen(pictures), truth.own
    distances = {name: torch.cdist(seen[name], own[name]) for name in seen}
    paired = {name: float(found[torch.arange(len(places)), places].mean()) for name, found in distances.items()}
    total = sum(distances.values())
    rows, true_rows = (torch.cat([found[name] for name in own], 1) for found in (seen, own))
    numbers = {
        **{f"paired_{name}": value for name, value in paired.items()},
        "paired": sum(paired.values()) / len(paired),
        "retrieval": float((total.argmin(1) == places).float().mean()),
        "style": float((truth.classifier(pictures).argmax(1) == truth.style).float().mean()),
        "diversity": latent_metrics.diversity(rows) / latent_metrics.diversity(true_rows[places]),
        "frechet": _few_frechet(rows, true_rows),
        "sharpness": fine_detail(pictures) / truth.fine,
    }
    if training is not None:
        taught = torch.cat([truth.seen(training)[name] for name in own], 1)
        numbers["memorised"] = latent_metrics.memorised(rows, taught, true_rows)
    return numbers


def _few_frechet(rows: Tensor, true_rows: Tensor, axes: int = 24) -> float:
    """The Fréchet distance along the true pictures' first ``axes`` principal axes: more would need more pictures."""
    centre = true_rows.mean(0)
    _, sizes, directions = torch.linalg.svd(true_rows - centre, full_matrices=False)
    scale = sizes[:axes] / math.sqrt(len(true_rows) - 1)
    return latent_metrics.frechet(
        (rows - centre) @ directions[:axes].T / scale, (true_rows - centre) @ directions[:axes].T / scale
    )
