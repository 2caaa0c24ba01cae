"""The tiny base's text encoder in the shape that the host's CLIP object wraps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..training.base.base_model import TINY_BASE_FOLDER
from ..training.data.tiny_text import TinyTextEncoder

KEY = "fluxduel_tiny"


class TinyClipTokenizer:
    """Text to tokens as the host passes them around: ``{key: [[(id, weight), ...]]}``.

    All weights are 1: the tiny encoder knows no emphasis, and reads ``(cat:1.2)`` as words.
    """

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        ids = TinyTextEncoder.tokenize(text)
        if return_word_ids:
            return {KEY: [[(token, 1.0, place + 1) for place, token in enumerate(ids)]]}
        return {KEY: [[(token, 1.0) for token in ids]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class TinyClipModel(nn.Module):
    """The encoder with the methods that the host's CLIP calls. Weights come from the pack's own file."""

    def __init__(
        self, device: Any = "cpu", dtype: torch.dtype | None = None, model_options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        # fp32 whatever the host asks for: the encoder is smaller than what a cast would save.
        self.encoder = TinyTextEncoder.load(TINY_BASE_FOLDER / "text_encoder.safetensors").to(device)
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Layer choice and projection have no meaning here."""

    def reset_clip_options(self) -> None:
        """See ``set_clip_options``."""

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, Tensor]:
        """(1, 16, 128) and (1, 64) for one prompt."""
        if KEY not in tokens:
            raise ValueError(
                f"These tokens are of another text encoder ({', '.join(tokens)}). Tokenise with the tiny CLIP itself."
            )
        ids = torch.tensor([[token[0] for token in tokens[KEY][0]]], device=self.encoder.position_embedding.device)
        return self.encoder(ids)

    def load_sd(self, sd: dict[str, Tensor]) -> Any:
        return self.load_state_dict(sd, strict=False)


class TinyClipTarget:
    """What the host's CLIP is told to build."""

    params: dict[str, Any] = {}
    clip = TinyClipModel
    tokenizer = TinyClipTokenizer
