"""A folder of pictures with captions and masks."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..training.data import images as image_folders
from ..training.data.images import CAPTION_RULES, MASK_RULES
from . import host
from .values import outside_inference_mode
from .widgets import supported


class LoadTrainingImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelLoadTrainingImages",
            display_name="Load Dataset Images",
            category="FluxDuel",
            description="Read the dataset to train on: the pictures of a folder, each with its caption and mask, laid "
            "out as for kohya's scripts. An edited picture, caption or mask is noticed at the next queue.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=list(host.training_folders()),
                    tooltip="A folder below the host's input folder, or below its datasets folder where it has one, or "
                    "the demo pictures that come with this pack. "
                    "Subfolders are read too; a subfolder named 10_name counts its pictures ten times.",
                ),
                io.Combo.Input(
                    "caption_rule",
                    options=list(CAPTION_RULES),
                    default=CAPTION_RULES[0],
                    tooltip="Where captions come from: a .txt file beside each picture, the picture's file name, its "
                    "folder's name, or the trigger word alone.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    tooltip="A word put before every caption, to call up in prompts what was trained. May be empty.",
                ),
                io.Combo.Input(
                    "mask_rule",
                    options=list(MASK_RULES),
                    default=MASK_RULES[0],
                    tooltip="Train on a part of each picture: none (the whole picture), alpha (where it is opaque), "
                    "or mask files (white where to train; name.mask.png beside name.png).",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    display_name="images",
                    is_output_list=True,
                    tooltip="The pictures, each in its own size.",
                ),
                io.String.Output(
                    "captions",
                    display_name="captions",
                    is_output_list=True,
                    tooltip="One caption for each picture.",
                ),
                io.Mask.Output(
                    "masks",
                    display_name="masks",
                    is_output_list=True,
                    tooltip="One mask for each picture: 1 where to train, and 1 everywhere for a picture without one.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What was found in the folder, and what is odd about it."
                ),
                io.String.Output(
                    "names",
                    display_name="names",
                    is_output_list=True,
                    tooltip="File names of the pictures, so that later messages can name them.",
                ),
            ],
            **supported(io.Schema, search_aliases=["training images", "training dataset", "captions", "kohya"]),
        )

    @classmethod
    def validate_inputs(cls, folder: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        path = host.choose(host.training_folders(), folder, "Load Dataset Images: folder")
        return image_folders.folder_fingerprint(path, host.written_folders())

    @classmethod
    def execute(cls, folder: str, caption_rule: str, trigger_word: str, mask_rule: str) -> io.NodeOutput:
        path = host.choose(host.training_folders(), folder, "Load Dataset Images: folder")
        with outside_inference_mode():
            found, report = image_folders.load_folder(
                path,
                caption_rule=caption_rule,
                trigger_word=trigger_word,
                mask_rule=mask_rule,
                leave_out=host.written_folders(),
            )
            masks = [torch.ones(image.pixels.shape[:2]) if image.mask is None else image.mask for image in found]
        return io.NodeOutput(
            [image.pixels.unsqueeze(0) for image in found],
            [image.caption for image in found],
            [mask.unsqueeze(0) for mask in masks],
            report,
            [image.name for image in found],
            ui=host.text_ui(report),
        )
