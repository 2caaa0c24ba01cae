"""The real pictures that LoRAs are measured against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import draws
from ..base.families.latent_space import space_of
from ..data.data_error import DataError
from ..data.real_latents import LatentSample, RealLatents
from . import latent_metrics
from .latent_metrics import Measurement
from .random_features import SMALLEST_SIDE, FeatureSpace

# A floor needs two halves of the held-out pictures, each of at least two.
FEWEST_HELD_OUT = 4
FEWEST_FOR_HALVES = 2 * FEWEST_HELD_OUT
# A bound on memory: the metrics copy all pictures in fp64, 2 MiB for one of 1024 x 1024.
MOST_REALS = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Reals:
    """The real pictures that all LoRAs are measured against, and the captions that they are asked for."""

    training: Tensor
    compared: Tensor
    against_training: bool
    num_training: int
    num_held_out: int
    num_masked: int
    space: FeatureSpace
    prompts: tuple[int, ...]
    """Index into the dataset's prompts of each picture to sample."""

    @classmethod
    def choose(cls, data: RealLatents, count: int) -> Reals:
        """Pictures of one size, the one that most have. Raises ``DataError`` where they cannot be compared with."""
        shape = Counter(sample.shape for sample in data.samples).most_common(1)[0][0]

        def of_shape(indices: tuple[int, ...]) -> list[LatentSample]:
            return [data.samples[i] for i in indices if data.samples[i].shape == shape]

        training, held_out = of_shape(data.training), of_shape(data.held_out)
        height, width = shape[-2:]
        factor = space_of(shape[0]).factor
        size = f"{width * factor} x {height * factor}"
        if len(training) < 2:
            raise DataError(
                f"Distances to {len(training)} training pictures of one size ({size}, the most frequent one) say "
                "nothing: at least 2 are needed. Add pictures, lower held_out_share, or raise bucket_step in Encode "
                "Real Latents, so that more of them have the same size."
            )
        if min(height, width) < SMALLEST_SIDE:
            raise DataError(
                f"Pictures of {size} are too small to be measured: both sides must be at least "
                f"{SMALLEST_SIDE * factor} pixels. Raise resolution in Encode Real Latents."
            )
        against_training = len(held_out) < FEWEST_HELD_OUT
        seen, unseen = _stacked(training), _stacked(training if against_training else held_out)
        asked = [sample.prompt for sample in held_out + training]
        prompts = tuple(asked[number % len(asked)] for number in range(count))
        return cls(
            training=seen,
            compared=unseen,
            against_training=against_training,
            num_training=len(training),
            num_held_out=len(held_out),
            num_masked=sum(sample.masked for sample in training + held_out),
            space=FeatureSpace.fit(seen),
            prompts=prompts,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        return self.compared.shape[-2], self.compared.shape[-1]

    @property
    def places(self) -> dict[int, list[int]]:
        """Prompt -> the pictures to sample for it, by their places 0, 1, ..."""
        found: dict[int, list[int]] = {}
        for place, prompt in enumerate(self.prompts):
            found.setdefault(prompt, []).append(place)
        return found

    def measure(self, fake: Tensor) -> Measurement:
        measured = latent_metrics.measure(fake, train=self.training, held_out=self.compared, space=self.space)
        # Among the pictures that were trained on nothing tells a copy from a new one.
        return replace(measured, memorised=math.nan) if self.against_training else measured

    def floor(self) -> Measurement | None:
        """Of as many pictures as are sampled, where there are that many; ``None`` where there are too few."""
        count = len(self.prompts)
        if not self.against_training:
            return latent_metrics.floor(train=self.training[:count], held_out=self.compared, space=self.space)
        if len(self.training) < FEWEST_FOR_HALVES:
            return None
        one, other = self.training[::2], self.training[1::2]
        return replace(latent_metrics.floor(train=one[:count], held_out=other, space=self.space), memorised=math.nan)


def _stacked(samples: Sequence[LatentSample]) -> Tensor:
    """The posterior means (n, C, h, w) of at most ``MOST_REALS`` samples, in an order that does not follow theirs.

    A folder is often sorted, and the first pictures of it are then not like the rest.
    """
    order = torch.randperm(len(samples), generator=draws.generator(0, 0, 0, "evaluation"))[:MOST_REALS]
    return torch.stack([samples[i].mean for i in order.tolist()])
