"""A discriminator's weights on disk, apart from the LoRA, so that another run can go on with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor, nn

from ..atomic_file import write_whole
from ..config import DiscriminatorConfig
from ..failure_words import reason

METADATA_KEY = "fluxduel_discriminator"
# What may differ between the file's settings and those of the run that goes on with it: all that is no shape.
SHAPE_FIELDS = ("architecture", "width", "depth", "spectral_norm", "taps")


class DiscriminatorFileError(ValueError):
    """A file that holds no discriminator, or another one than is asked for. The message says which and what to do."""


def save(weights: Mapping[str, Tensor], config: DiscriminatorConfig, base: str, path: Path) -> None:
    """Write ``weights``, with the settings they were trained with and the base's name; complete or not at all.

    Raises ``OSError`` where the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    text = json.dumps({"config": dataclasses.asdict(config), "base": base})
    write_whole(path, serialise(tensors, metadata={"format": "pt", METADATA_KEY: text}))


def load(path: Path, config: DiscriminatorConfig) -> dict[str, Tensor]:
    """The weights of ``path``, for a discriminator with the settings of ``config``.

    Raises ``DiscriminatorFileError`` for a file that cannot be read, holds no discriminator, or holds one of another
    shape (architecture, width, depth, spectral normalisation, taps).
    """
    try:
        content = path.read_bytes()
        weights = deserialise(content)
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, safetensors.SafetensorError) as error:
        raise DiscriminatorFileError(
            f"{path.name} cannot be read ({reason(error)}). Choose another file, or new."
        ) from error
    try:
        theirs = dict(json.loads(text or "{}")["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise DiscriminatorFileError(
            f"{path.name} holds no discriminator of FluxDuel. Choose another file, or new."
        ) from error
    for name in SHAPE_FIELDS:
        ours = getattr(config, name)
        if theirs.get(name) != ours:
            raise DiscriminatorFileError(
                f"{path.name} holds a discriminator with {name} = {theirs.get(name)!r}, and {ours!r} is asked for. Set "
                f"{name} to {theirs.get(name)!r}, or choose new."
            )
    return weights


def restore(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put ``weights`` into ``network``. Raises ``DiscriminatorFileError`` where they are another network's."""
    own = network.state_dict()
    for name, tensor in own.items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape:
            got = "nothing" if found is None else str(tuple(found.shape))
            raise DiscriminatorFileError(
                f"The discriminator's file has {got} for {name}, this stage needs {tuple(tensor.shape)}. It was "
                "trained on another base, or for another target: choose new."
            )
    network.load_state_dict({name: weights[name] for name in own})
