"""From pictures and captions to the dataset of both stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..training.base.families.latent_space import LatentSpace
from ..training.config import DataConfig
from ..training.data.data_error import DataError
from ..training.data.encode import encode
from ..training.data.encoding_checks import texts_without_encoder
from ..training.data.latent_cache import digest
from ..training.data.remarks import Remarks
from ..training.data.wires import single_masks, single_pictures
from . import host
from .conditioning import ignored_in, prompt_of
from .encoded_pictures import training_folder_of
from .sockets import RealLatentsSocket
from .values import outside_inference_mode
from .widgets import configuration, supported, widgets

NODE = "Encode Real Latents"
FIRST = ("resolution", "flip", "held_out_share", "seed", "bucket_step", "few_step_phrase", "practice_prompts")
LATER = ("preview_prompts", "negative_prompt", "outside_prompts")
FOLDED = ("seed", "bucket_step", "few_step_phrase", "practice_prompts")


class EncodeRealLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxDuelEncodeRealLatents",
            display_name="Encode Real Latents",
            category="FluxDuel",
            description="Make the training dataset: crop the pictures into buckets of equal area, and encode them and "
            "their captions. Results are kept on disk by content, so that only what changed is encoded again.",
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The training pictures, from Load Dataset Images or any of the host's image loaders: a "
                    "list of pictures of any size, or a batch.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="The base's own VAE: ae.safetensors for FLUX.1, flux2-vae.safetensors for FLUX.2, or the "
                    "tiny base's.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The base's own text encoder: DualCLIPLoader of type flux for FLUX.1, CLIPLoader of type "
                    "flux2 for FLUX.2, Load Tiny FLUX Encoders for the tiny base. Not needed where conditioning is "
                    "connected.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="One caption for each picture, or one for all of them.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask for each picture, of the picture's size: 1 where to train, 0 where not.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="Encoded prompts in place of clip and captions: one for each picture, or one for all.",
                ),
                io.String.Input(
                    "names",
                    optional=True,
                    force_input=True,
                    tooltip="The pictures' names, for messages. From Load Dataset Images.",
                ),
                *widgets(DataConfig, FIRST, folded=FOLDED),
                *widgets(DataConfig, LATER, folded=LATER[1:], optional=True),
            ],
            outputs=[
                RealLatentsSocket.Output(
                    "real_latents",
                    display_name="real_latents",
                    tooltip="The encoded pictures and captions, for the training nodes.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Numbers of pictures, buckets and captions, and warnings.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **supported(io.Schema, search_aliases=["training dataset", "encode dataset", "latent cache"]),
        )

    @classmethod
    def validate_inputs(cls, vae: Any = None) -> bool | str:
        return host.problem_here()

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        vae: list[Any],
        clip: list[Any] | None = None,
        captions: list[str] | None = None,
        masks: list[Tensor] | None = None,
        conditioning: list[Any] | None = None,
        names: list[str] | None = None,
        **options: list[Any],
    ) -> io.NodeOutput:
        config = configuration(DataConfig, {name: values[0] for name, values in options.items()})
        remarks = Remarks()
        with outside_inference_mode():
            pictures = single_pictures(images, names or [], remarks)
            given_masks = single_masks(masks or [], pictures, names or [], remarks)
        count = len(pictures)
        titles = names or [f"image {number}" for number in range(1, count + 1)]
        encoder = (clip or [None])[0]
        space = host.check_vae(vae[0], NODE)
        if conditioning:
            for problem in texts_without_encoder(config, NODE):
                raise DataError(problem)
            texts, text_key, encode_prompt = _from_conditioning(conditioning, captions, encoder, space, count)
        else:
            texts, text_key, encode_prompt = _from_captions(captions, encoder, space, count)
        progress = host.Progress(str(cls.hidden.unique_id))
        with outside_inference_mode():
            data, report = encode(
                pictures,
                texts,
                names=titles,
                masks=given_masks,
                encode_image=lambda pixels: host.encode_image(vae[0], pixels),
                encode_prompt=encode_prompt,
                vae_key=host.vae_key(vae[0]),
                text_key=text_key,
                resolution=config.resolution,
                bucket_step=config.bucket_step,
                flip=config.flip,
                held_out_share=config.held_out_share,
                seed=config.seed,
                cache_folder=host.cache_folder(),
                space=space,
                few_step_phrase=config.few_step_phrase,
                practice_prompts=config.practice_prompts,
                outside_prompts=config.outside_prompts,
                preview_prompts=config.preview_prompts,
                negative_prompt=config.negative_prompt,
                report=progress.update_or_stop,
            )
        folder = training_folder_of(cls.hidden.prompt or {}, str(cls.hidden.unique_id))
        if folder is not None:
            host.encoded_pictures.remember(folder, data)
        numbered = {f"conditioning {number}": value for number, value in enumerate(conditioning or [], 1)}
        doubt = host.doubt_of(vae[0], data.empty_prompt.width)
        warnings = [*ignored_in(numbered), *([doubt] if doubt else [])]
        report = "\n".join([*remarks.lines(), report, *(f"Warning: {sentence}" for sentence in warnings)])
        return io.NodeOutput(data, report, ui=host.text_ui(report))


Prompts = tuple[list[str], str, Callable[[str], tuple[Tensor, Tensor]]]


def _from_captions(captions: list[str] | None, clip: Any, space: LatentSpace, count: int) -> Prompts:
    if clip is None:
        raise DataError(f"{NODE}: connect clip and captions, or conditioning.")
    if not captions:
        raise DataError(
            f"{NODE}: there are no captions. Connect the captions of Load Dataset Images, or one text for all."
        )
    texts = captions * count if len(captions) == 1 else captions
    return texts, host.clip_key(clip), lambda caption: host.encode_prompt(clip, caption, space)


def _from_conditioning(
    conditioning: list[Any], captions: list[str] | None, clip: Any, space: LatentSpace, count: int
) -> Prompts:
    if captions:
        raise DataError(f"{NODE}: both captions and conditioning are connected. Remove one of them.")
    if len(conditioning) not in (1, count):
        raise DataError(
            f"{NODE}: there are {count} pictures and {len(conditioning)} conditionings. Connect one for each picture, "
            "or one for all."
        )
    prompts = {
        f"conditioning {number}": prompt_of(value, f"{NODE}: conditioning {number}", space)
        for number, value in enumerate(conditioning, 1)
    }
    key = digest("conditioning", *(tensor for pair in prompts.values() for tensor in pair))
    if clip is not None:
        key = digest(key, host.clip_key(clip))
    labels = list(prompts) * count if len(prompts) == 1 else list(prompts)

    def encode_prompt(label: str) -> tuple[Tensor, Tensor]:
        return prompts[label] if label else _empty_prompt(prompts, clip, space)

    return labels, key, encode_prompt


def _empty_prompt(prompts: dict[str, Sequence[Tensor]], clip: Any, space: LatentSpace) -> tuple[Tensor, Tensor]:
    if clip is not None:
        return host.encode_prompt(clip, "", space)
    # Without a text encoder there is no empty prompt; zeros are what the host's own Zero Out node makes of one.
    embeds, pooled = next(iter(prompts.values()))
    return torch.zeros_like(embeds), torch.zeros_like(pooled)
