"""What tests ask a host for over and over: a picture that a node shows, and the words of a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from PIL import Image

from fluxduel.tests.comfy_host import ComfyHost, HostError
from fluxduel.tests.host.two_stage_graph import Graph


def picture(host: ComfyHost, entry: Mapping[str, str]) -> Image.Image:
    """The picture of an entry of a node's ``images``."""
    with urlopen(f"{host.url}/view?{urlencode(entry)}") as answer:
        return Image.open(BytesIO(answer.read())).convert("RGB")


def refusal(host: ComfyHost, graph: Graph) -> str:
    """What is said of a graph that is refused, or fails."""
    with pytest.raises(HostError) as error:
        host.run(graph)
    return str(error.value)
