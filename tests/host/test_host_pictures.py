"""Pictures from the host's own loaders: the mask that stands for none, and alpha channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fluxduel.tests.comfy_host import ComfyHost
from fluxduel.tests.host.two_stage_graph import ENCODERS, IMAGES, LATENTS, PROMPT, Graph, node, options
from fluxduel.training.config import DataConfig

PICTURE, JOINED, SHOW = "30", "31", "32"


@pytest.fixture(scope="module")
def folder(comfy_host: ComfyHost) -> Path:
    folder = comfy_host.base / "input" / "host-pictures"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    noise[:, :4, 3], noise[:, 4:, 3] = 255, 0
    picture = Image.fromarray(noise).resize((128, 144), Image.Resampling.NEAREST)
    picture.save(folder / "clear.png")
    picture.convert("RGB").save(folder / "plain.png")
    return folder


def encoded(picture: str, images: list, masks: list | None) -> Graph:
    inputs = {"images": images, "vae": [ENCODERS, 1], "conditioning": [PROMPT, 0], "clip": [ENCODERS, 0]}
    inputs |= options(DataConfig, resolution=64, held_out_share=0.0)
    return {
        ENCODERS: node("FluxDuelLoadTinyFluxEncoders"),
        PROMPT: node("CLIPTextEncode", {"text": "noise", "clip": [ENCODERS, 0]}),
        PICTURE: node("LoadImage", {"image": f"host-pictures/{picture}"}),
        JOINED: node("JoinImageWithAlpha", {"image": [PICTURE, 0], "alpha": [PICTURE, 1]}),
        LATENTS: node(
            "FluxDuelEncodeRealLatents", inputs | ({} if masks is None else {"masks": masks})
        ),
        SHOW: node("PreviewAny", {"source": [LATENTS, 1]}),
    }


def report_of(host: ComfyHost, graph: Graph) -> str:
    return "\n".join(host.run(graph)[SHOW]["text"])


def test_the_mask_of_a_picture_without_alpha_is_none(comfy_host: ComfyHost, folder: Path) -> None:
    report = report_of(comfy_host, encoded("plain.png", [PICTURE, 0], [PICTURE, 1]))
    assert "Masks that stand for none (zeros of 64 x 64, as the host gives them), learned whole: 1" in report
    assert "pictures have one" not in report


def test_the_mask_of_a_picture_with_alpha_is_used(comfy_host: ComfyHost, folder: Path) -> None:
    report = report_of(comfy_host, encoded("clear.png", [PICTURE, 0], [PICTURE, 1]))
    assert "Masks: 1 of 1 pictures have one." in report and "stand for none" not in report


def test_an_image_with_alpha_is_put_on_white(comfy_host: ComfyHost, folder: Path) -> None:
    report = report_of(comfy_host, encoded("clear.png", [JOINED, 0], None))
    assert "Pictures with transparent parts, put on white: 1 ('image 1')" in report


def test_rotated_odd_and_other_trainers_files_in_the_graph(comfy_host: ComfyHost) -> None:
    folder = comfy_host.base / "input" / "odd-pictures"
    (folder / "@eaDir").mkdir(parents=True)
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    noise.save(folder / "a.gif")
    noise.save(folder / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    Image.new("L", (96, 64), 255).save(folder / "b-masklabel.png")
    noise.save(folder / "@eaDir" / "c.jpg")
    (folder / "d.heic").write_bytes(b"heic")
    inputs = {"folder": folder.name, "caption_rule": "file name", "trigger_word": "", "mask_rule": "none"}
    graph = {IMAGES: node("FluxDuelLoadTrainingImages", inputs), SHOW: node("PreviewAny", {"source": [IMAGES, 3]})}
    report = report_of(comfy_host, graph)
    assert "Pictures: 2." in report
    for part in ("'@eaDir'", "'d.heic'", "taken as upright: 1 ('b.jpg')", "mask files that are not used"):
        assert part in report
