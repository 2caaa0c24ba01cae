"""CLIP-L and T5: captions into prompt embeddings, as FLUX reads them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .encoder_files import EncodersError, damaged
from .visiting_blocks import keep_on_card, visitors

logger = logging.getLogger(__name__)

CLIP_TOKENS = 77
T5_LEAST_TOKENS = 256


class TextReaders:
    """CLIP-L and T5 with their tokenizers, in memory: CLIP on the device, T5 where a card has room for it."""

    def __init__(self, folder: Path, precision: torch.dtype, device: torch.device) -> None:
        try:
            from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast
        except ImportError as error:
            raise EncodersError(
                f"The text encoders need the library transformers: pip install transformers ({error})."
            ) from error
        self._device = device
        self._clip_tokenizer = _load_tokenizer(CLIPTokenizer, folder / "tokenizer")
        self._t5_tokenizer = _load_tokenizer(T5TokenizerFast, folder / "tokenizer_2")
        # CLIP is small: nothing is saved by rounding it.
        self._clip = _load_text_model(CLIPTextModel, folder / "text_encoder", torch.float32).to(device)
        self._t5 = _load_text_model(T5EncoderModel, folder / "text_encoder_2", precision)
        compute_by_blocks(self._t5, device)
        if device.type == "cuda":
            keep_on_card(self._t5.encoder.block, "T5", device, torch.cuda.mem_get_info(device)[0])

    def read(self, caption: str, max_tokens: int) -> tuple[Tensor, Tensor]:
        """(L, D) and (P,), fp32 on the CPU."""
        clip_ids = torch.tensor([clip_tokens(self._clip_tokenizer, caption)], device=self._device)
        clip = self._clip(input_ids=clip_ids).pooler_output
        words = self._t5.get_input_embeddings()(torch.tensor([t5_tokens(self._t5_tokenizer, caption, max_tokens)]))
        embeds = self._t5(inputs_embeds=words.to(self._device, torch.float32)).last_hidden_state
        return embeds[0].float().cpu(), clip[0].float().cpu()


def clip_tokens(tokenizer: Any, caption: str) -> list[int]:
    """The 77 ids that CLIP reads: a longer caption is cut, a shorter one padded with the end token."""
    end = tokenizer.eos_token_id
    ids = _cut(tokenizer(caption, verbose=False)["input_ids"], end, CLIP_TOKENS)
    return ids + [end] * (CLIP_TOKENS - len(ids))


def t5_tokens(tokenizer: Any, caption: str, max_tokens: int) -> list[int]:
    """The ids that T5 reads: 256, or more where the caption needs them, but no more than ``max_tokens``.

    Logs a warning where a caption has to be cut.
    """
    full = tokenizer(caption, verbose=False)["input_ids"]
    if len(full) > max_tokens:
        logger.warning(
            "The caption '%s…' has %d tokens and is cut to encoders.max_tokens = %d. Shorten it, or raise the option.",
            caption[:60],
            len(full),
            max_tokens,
        )
    ids = _cut(full, tokenizer.eos_token_id, max_tokens)
    return ids + [tokenizer.pad_token_id] * (min(T5_LEAST_TOKENS, max_tokens) - len(ids))


def _cut(ids: list[int], end: int, most: int) -> list[int]:
    return ids if len(ids) <= most else [*ids[: most - 1], end]


def compute_by_blocks(t5: nn.Module, device: torch.device) -> None:
    """Has T5's encoder compute in fp32 on ``device`` by ``visitors``. The table of embeddings stays where it is."""
    t5.encoder.final_layer_norm.to(device, torch.float32)
    t5.encoder.block = visitors(t5.encoder.block, device)


def _load_tokenizer(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncodersError(damaged(folder, "a tokenizer of FLUX.1", error)) from error


def _load_text_model(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    what = f"a {kind.__name__}"
    try:
        model, info = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise EncodersError(damaged(folder, what, error)) from error
    # transformers gives random values to what a file lacks, and says so in a log line alone.
    missing = sorted(info["missing_keys"])
    if missing:
        raise EncodersError(damaged(folder, what, f"{len(missing)} weights are missing, the first is {missing[0]}"))
    return model.to(dtype).eval().requires_grad_(False)
