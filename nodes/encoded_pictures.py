"""What became of the pictures of each training folder when they were last encoded, for a page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..training.base.families.latent_space import space_of
from ..training.data.real_latents import RealLatents

LOADER = "FluxDuelLoadTrainingImages"


@dataclass(frozen=True)
class EncodedPicture:
    """Width and height of its bucket in pixels, and whether it is held out."""

    width: int
    height: int
    held_out: bool


class EncodedPictures:
    """By the folder's label and the picture's name, of this process."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, EncodedPicture]] = {}

    def remember(self, folder: str, data: RealLatents) -> None:
        """``data`` was encoded from ``folder``: it takes the place of what was encoded from it before."""
        held_out = set(data.held_out)
        factor = space_of(data.samples[0].shape[0]).factor
        self._folders[folder] = {
            sample.name: EncodedPicture(
                sample.shape[2] * factor, sample.shape[1] * factor, index in held_out
            )
            for index, sample in enumerate(data.samples)
        }

    def of(self, folder: str) -> Mapping[str, EncodedPicture]:
        return self._folders.get(folder, {})


def training_folder_of(graph: Mapping[str, Any], node: str) -> str | None:
    """The label of the folder whose pictures reach the node ``node`` of a queued graph (the API's format).

    ``None`` where their names do not come from Load Dataset Images, or its folder comes through a wire.
    """
    link = graph.get(node, {}).get("inputs", {}).get("names")
    source = graph.get(link[0], {}) if isinstance(link, list) else {}
    folder = source.get("inputs", {}).get("folder")
    return folder if source.get("class_type") == LOADER and isinstance(folder, str) else None
