"""FLUX.2's text encoders: Qwen3 (klein) and Mistral 3 (dev), captions into prompt embeddings, as FLUX.2 reads them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..base.families.flux2 import FLUX2
from .encoder_files import EncodersError, damaged
from .visiting_blocks import WORKING, keep_on_card, visitors

logger = logging.getLogger(__name__)

# Of Mistral 3's three layers.
DEV_WIDTH = 15360

# Which part of a file's names is not the language model's own.
_OUTER = re.compile(r"^(?:model\.language_model\.|language_model\.model\.|model\.)")
_WHOLE = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Reading:
    """How one text encoder is asked, and which of its layers answer.

    ``layers``: those whose outputs are joined, each counted by the layers up to it. ``template`` is put around the
    caption. ``start`` is the token before it, ``padding`` the token behind it up to the full length; empty: none.
    """

    name: str
    classes: tuple[str, str]
    layers: tuple[int, int, int]
    template: str
    start: str
    padding: str


# As black-forest-labs' own code has them, and diffusers' pipelines: the models' own templates, without thinking.
KLEIN = Reading(
    name="Qwen3",
    classes=("Qwen3Config", "Qwen3Model"),
    layers=(9, 18, 27),
    template="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    start="",
    padding="<|endoftext|>",
)
DEV = Reading(
    name="Mistral 3",
    classes=("MistralConfig", "MistralModel"),
    layers=(10, 20, 30),
    template="[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured responses "
    "focusing on object relationships, object\nattribution and actions without speculation."
    "[/SYSTEM_PROMPT][INST]{}[/INST]",
    start="<s>",
    padding="",
)
# ``model_type`` in the encoder's config.json.
READINGS = {"qwen3": KLEIN, "mistral3": DEV, "mistral": DEV}


class Flux2Reader:
    """One of the two with its tokenizer, in memory: on the device where that has room for it, else block by block."""

    def __init__(self, folder: Path, precision: torch.dtype, device: torch.device) -> None:
        """``folder`` has text_encoder and tokenizer. Raises ``EncodersError``."""
        config = text_config(folder / "text_encoder")
        self._reading, self._device = READINGS[config["model_type"]], device
        self._tokenizer = _load_tokenizer(folder / "tokenizer")
        self._start, self._padding = (
            self._token(word, folder) for word in (self._reading.start, self._reading.padding)
        )
        model = load_language_model(folder / "text_encoder", self._reading, config, precision)
        model.norm.to(device, torch.float32)
        model.rotary_emb.to(device)
        largest = max(sum(weight.numel() for weight in block.parameters()) for block in model.layers)
        model.layers = visitors(model.layers, device)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            keep_on_card(model.layers, self._reading.name, device, free, WORKING + 4 * largest)
        self._model, self._found = model, {}
        for number in self._reading.layers:
            model.layers[number - 1].register_forward_hook(self._keep(number))

    def read(self, caption: str) -> Tensor:
        """(512, D), fp32 on the CPU."""
        ids = self.tokens(caption)
        length = FLUX2.text_tokens if self._padding is not None else len(ids)
        mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids))], device=self._device)
        padded = torch.tensor([ids + [self._padding] * (length - len(ids))])
        words = self._model.get_input_embeddings()(padded).to(self._device, torch.float32)
        self._model(inputs_embeds=words, attention_mask=mask, use_cache=False)
        embeds = torch.cat([self._found.pop(number) for number in self._reading.layers], dim=-1)
        return padded_left(embeds[0].float().cpu())

    def tokens(self, caption: str) -> list[int]:
        """The ids of the caption in its template, at most 512. Logs a warning where they have to be cut."""
        # A picture's token in a caption has no picture.
        text = self._reading.template.format(caption.replace("[IMG]", ""))
        start = [] if self._start is None else [self._start]
        ids = [*start, *self._tokenizer.encode(text, add_special_tokens=False).ids]
        if len(ids) > FLUX2.text_tokens:
            logger.warning(
                "The caption '%s…' has %d tokens and is cut to the %d that FLUX.2 was trained on. Shorten it.",
                caption[:60],
                len(ids),
                FLUX2.text_tokens,
            )
        return ids[: FLUX2.text_tokens]

    def _token(self, word: str, folder: Path) -> int | None:
        found = self._tokenizer.token_to_id(word) if word else None
        if word and found is None:
            raise EncodersError(damaged(folder / "tokenizer", f"{self._reading.name}'s tokenizer", f"it lacks {word}"))
        return found

    def _keep(self, number: int) -> Any:
        def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            self._found[number] = output[0] if isinstance(output, tuple) else output

        return keep


def padded_left(prompt_embeds: Tensor) -> Tensor:
    """(L, D) -> (L', D) of at least 512 tokens: zeros are put before the prompt, as ComfyUI's FLUX.2 does."""
    return F.pad(prompt_embeds, (0, 0, max(0, FLUX2.text_tokens - prompt_embeds.shape[0]), 0))


def padded_as_dev(prompt_embeds: Tensor) -> Tensor:
    """A prompt of the host's, as the model is given it: dev's ``padded_left``, klein's as it is.

    The host pads klein's with tokens while it encodes, and dev's in the model alone.
    """
    return padded_left(prompt_embeds) if prompt_embeds.shape[-1] == DEV_WIDTH else prompt_embeds


def text_config(folder: Path) -> dict[str, Any]:
    """The configuration of the language model in ``folder``. Raises ``EncodersError`` for one that is not FLUX.2's."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, quantised = told.get("model_type"), "quantization_config" in told
    except (OSError, ValueError, AttributeError) as error:
        raise EncodersError(damaged(folder, "Qwen3 or Mistral 3", error)) from error
    if kind not in READINGS:
        raise EncodersError(
            f"encoders.folder: {folder} holds a model of the kind {kind}; FLUX.2 has qwen3 (klein) or mistral3 (dev) "
            "there. The folder is another model's: set the option to a FLUX.2."
        )
    if quantised:
        raise EncodersError(
            f"encoders.folder: {folder} is quantised, which FluxDuel does not read. Take the one in bf16."
        )
    config = {**told.get("text_config", told), "model_type": kind}
    # transformers 5 writes it here, and older ones look for it beside.
    if "rope_theta" not in config and "rope_theta" in (config.get("rope_parameters") or {}):
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    return config


def load_language_model(folder: Path, reading: Reading, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """As many layers as are read, kept in ``dtype`` on the CPU. Raises ``EncodersError``."""
    try:
        import transformers
        from accelerate import init_empty_weights

        config_class, model_class = (getattr(transformers, name) for name in reading.classes)
    except (ImportError, AttributeError) as error:
        raise EncodersError(
            f"{reading.name} needs the libraries transformers (4.51 or newer) and accelerate: pip install --upgrade "
            f"transformers accelerate ({error})."
        ) from error
    what, count = f"a {reading.name}", max(reading.layers)
    own = {name: value for name, value in config.items() if name != "model_type"}
    if own.get("layer_types"):
        own["layer_types"] = own["layer_types"][:count]
    try:
        with init_empty_weights(include_buffers=False):
            model = model_class(config_class(**{**own, "num_hidden_layers": count}))
        wanted = model.state_dict()
        found: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                for key in weights.keys():
                    name = _OUTER.sub("", key)
                    if name in wanted:
                        found[name] = _usable(weights.get_tensor(key), key, folder, what).to(dtype)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise EncodersError(damaged(folder, what, f"{len(missing)} weights are missing, the first is {missing[0]}"))
        model.load_state_dict(found, assign=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError | EncodersError):
            raise
        raise EncodersError(damaged(folder, what, error)) from error
    return model.eval().requires_grad_(False)


def _usable(weight: Tensor, key: str, folder: Path, what: str) -> Tensor:
    if weight.dtype not in _WHOLE:
        raise EncodersError(damaged(folder, what, f"weight {key} is in {weight.dtype}: take the folder in bf16"))
    return weight


def _load_tokenizer(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EncodersError(
            f"The text encoders need the library transformers: pip install transformers ({error})."
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise EncodersError(damaged(folder / "tokenizer.json", "a tokenizer of FLUX.2", error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
