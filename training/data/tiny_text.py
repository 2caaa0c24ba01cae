"""The text encoder of the built-in tiny base: hashed words, one attention layer, no vocabulary file.

FLUX reads a prompt twice: T5 gives one vector per token (``encoder_hidden_states``) and CLIP gives one
vector for the whole text (``pooled_projections``). The tiny base needs both shapes at a size that fits in
a repository, so one small module gives the two. It was trained jointly with the tiny transformer
(``assets/make_tiny_base.py``) and is useful with no other.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import LongTensor, Tensor, nn

PADDING_ID = 0

_WORD = re.compile(r"[a-z0-9]+")


class TinyTextEncoder(nn.Module):
    """Turns captions into the two text inputs of the tiny FLUX transformer.

    A word's vector is the sum of two rows of the embedding table, each chosen by a hash of the word, so every word has
    one: a trigger word that the base never saw gets rows that training left at their random start, which a LoRA can
    give a meaning. Two words share one row now and then; that they share both is one chance in sixteen million.
    """

    ROWS = 4096
    TOKENS = 16
    WIDTH = 128
    POOLED_WIDTH = 64
    HEADS = 4

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(self.ROWS, self.WIDTH)
        self.position_embedding = nn.Parameter(torch.empty(self.TOKENS, self.WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            d_model=self.WIDTH,
            nhead=self.HEADS,
            dim_feedforward=2 * self.WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.norm = nn.LayerNorm(self.WIDTH)
        self.pool = nn.Linear(self.WIDTH, self.POOLED_WIDTH)
        nn.init.normal_(self.token_embedding.weight, std=0.35)
        nn.init.normal_(self.position_embedding, std=0.1)

    @classmethod
    def tokenize(cls, text: str) -> list[int]:
        """Return exactly ``TOKENS`` ids for a text; words beyond that are dropped, the rest is padding.

        Punctuation and case do not count. An empty text is all padding.
        """
        words = _WORD.findall(text.lower())[: cls.TOKENS]
        ids = [cls._id(word) for word in words]
        return ids + [PADDING_ID] * (cls.TOKENS - len(ids))

    @classmethod
    def _id(cls, word: str) -> int:
        """Both rows in one number, ``first + ROWS * second``; row 0 is the padding's alone."""
        # CRC32 and not hash(): Python salts the latter anew in every process.
        second, first = divmod(zlib.crc32(word.encode()), cls.ROWS - 1)
        return 1 + first + cls.ROWS * (1 + second % (cls.ROWS - 1))

    def rows(self, tokens: LongTensor) -> tuple[LongTensor, LongTensor]:
        """The two rows of the embedding table of each id, shapes as ``tokens``."""
        return tokens % self.ROWS, tokens // self.ROWS

    def forward(self, tokens: LongTensor) -> tuple[Tensor, Tensor]:
        """Encode token ids.

        Args:
            tokens: ids from :meth:`tokenize`, shape (B, 16).

        Returns:
            ``prompt_embeds`` of shape (B, 16, 128) and ``pooled_prompt_embeds`` of shape (B, 64).
        """
        # Padding takes part in attention, as it does in FLUX's own T5 path: it has a trained row, and an
        # empty prompt then needs no special case (a fully masked softmax would be NaN).
        first, second = self.rows(tokens)
        words = self.token_embedding(first) + self.token_embedding(second)
        hidden = self.norm(self.layer(words + self.position_embedding))
        is_word = (tokens != PADDING_ID).unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1.0)
        return hidden, self.pool(mean)

    def encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Tokenize and encode a list of B texts; shapes as :meth:`forward`, on the module's own device."""
        ids = torch.tensor([self.tokenize(text) for text in texts], dtype=torch.long)
        return self(ids.reshape(-1, self.TOKENS).to(self.position_embedding.device))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read trained weights; the module comes back in float32, in eval mode and frozen.

        Args:
            path: a safetensors file written by ``assets/make_tiny_base.py``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not safetensors, or a tensor is missing, unknown or of another shape;
                the message names the file and the key.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no text encoder weights at {path}")
        try:
            weights = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
        encoder = cls()
        _check_fit(path, weights, encoder.state_dict())
        encoder.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
        return encoder.float().eval().requires_grad_(False)


def _check_fit(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise ValueError, naming file and key, unless both state dicts have the same keys and shapes."""
    for key, tensor in wanted.items():
        if key not in found:
            raise ValueError(f"{path} does not fit TinyTextEncoder: key '{key}' is missing")
        if found[key].shape != tensor.shape:
            raise ValueError(
                f"{path} does not fit TinyTextEncoder: key '{key}' has shape {tuple(found[key].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
    for key in found:
        if key not in wanted:
            raise ValueError(f"{path} does not fit TinyTextEncoder: key '{key}' is not one of its own")
