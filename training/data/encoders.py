"""Pictures and captions into what FLUX trains on, without ComfyUI: by FLUX's VAE and text encoders, or the tiny base's.

The encodings are those of the graph, as far as that can be:

- The tiny base's are equal to the last bit on the CPU, and so are the keys that name its weights, so that the graph and
  a headless run share one cache.
- T5 reads a caption as ComfyUI has it read: padded with its pad token to 256 tokens, or to what a longer caption needs,
  with no attention mask, so that padding is attended to. ComfyUI never cuts a caption; here it is cut at
  ``max_tokens``, with a warning. (diffusers' pipelines always pad to 512, which is another encoding.)
- CLIP reads the first 77 tokens, start and end included, padded with the end token. ComfyUI reads a longer caption in
  pieces and takes the first piece's pooled output, which is the same.
- ComfyUI keeps the weights in half precision and computes in fp32. So does this; the VAE is in fp32 altogether, where
  ComfyUI has it in bf16 on a GPU that can.
- Not the same: ComfyUI takes ``(words)`` and ``(words:1.2)`` as emphasis, and ``embedding:name`` as a file to put in.
  Here a caption is plain text.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..base.checkpoint_files import TINY_BASE_FOLDER
from ..base.families import flux1
from ..config import TINY_BASE, EncodersConfig
from ..failure_words import reason
from .tiny_text import TinyTextEncoder

logger = logging.getLogger(__name__)

CLIP_TOKENS = 77
T5_LEAST_TOKENS = 256
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}

_SAMPLES, _SAMPLE_BYTES = 64, 4096
_COMPLETE = "Download that part of FLUX.1 in diffusers' layout, or set encoders.folder to a complete one."
_TOKENIZER_FILES = {
    "tokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "tokenizer_2": (("tokenizer.json",), ("spiece.model",)),
}
# Of FLUX.1's ae.safetensors, which holds weights alone.
_VAE_CONFIG = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": flux1.LATENT_CHANNELS,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": flux1.VAE_SCALE,
    "shift_factor": flux1.VAE_SHIFT,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


class EncodersError(ValueError):
    """VAE or text encoders that are missing, damaged or not FLUX.1's. The message names the path and the option."""


class Encoders(Protocol):
    """What ``encode`` needs, and the way back to pictures. Weights are read when they are first needed.

    One picture or caption at a time goes in, from any device; all results are fp32 on the CPU.
    """

    @property
    def vae_key(self) -> str:
        """Names the VAE by its weights, for the cache of encodings. Reads no weights that it need not."""

    @property
    def text_key(self) -> str:
        """Names the text encoders by weights and settings, for the cache of encodings."""

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(1, H, W, 3) in [0, 1] -> the posterior's raw mean and deviation (1, 16, H/8, W/8); no deviation: ``None``.

        Sides that are no multiple of 8 lose what is over, half at each end.
        """

    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        """A caption -> prompt embeddings (L, D) and the pooled ones (P,)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, 16, h, w) in model space -> pictures (n, 8h, 8w, 3) in [0, 1]."""

    def free_text_encoders(self) -> None:
        """Let go of the text encoders' weights. They are read again when they are needed."""

    def free(self) -> None:
        """Let go of all weights. They are read again when they are needed."""


def load_encoders(config: EncodersConfig, checkpoint: str, device: torch.device | str) -> Encoders:
    """The encoders that belong to the base ``checkpoint``, computing on ``device``.

    The tiny base has its own, whatever ``config`` says. For any other, ``config.folder``, or ``checkpoint`` where that
    is a folder in diffusers' layout, has the text encoders in it, and the VAE unless ``config.vae`` names a file.
    Reads no weights yet, but finds out whether all files are there.

    Raises ``EncodersError`` where something is missing or the VAE is not FLUX.1's; the methods do so where weights
    turn out to be damaged.
    """
    if checkpoint == TINY_BASE:
        return TinyEncoders(device)
    return FluxEncoders(_folder(config, checkpoint), config, device)


class TinyEncoders:
    """The tiny base's VAE and text encoder."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._vae: _TinyVae | None = None
        self._text: TinyTextEncoder | None = None

    @functools.cached_property
    def vae_key(self) -> str:
        # The names of class, weights and number type are those of the host's VAE: nodes/host.py makes the same key.
        return f"{weights_key('TAESD', _tiny_vae_weights())}/{torch.float32}"

    @functools.cached_property
    def text_key(self) -> str:
        named = ((f"encoder.{name}", tensor) for name, tensor in self._text_encoder().state_dict().items())
        # The settings of a CLIP of the host that nobody has changed.
        return weights_key("TinyClipModel", named) + "/None/[]"

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self._picture_encoder().encode(_vae_input(pixels).to(self._device)).float().cpu(), None

    @torch.no_grad()
    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        embeds, pooled = self._text_encoder().encode([caption])
        return embeds[0].float().cpu(), pooled[0].float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        _check_channels(latents)
        vae = self._picture_encoder()
        raw = flux1.denormalise(latents.float().to(self._device))
        return _pictures(vae.decode(one) for one in raw.split(1))

    def free_text_encoders(self) -> None:
        self._text = None

    def free(self) -> None:
        self._text = self._vae = None

    def _picture_encoder(self) -> _TinyVae:
        if self._vae is None:
            self._vae = _TinyVae(dict(_tiny_vae_weights())).to(self._device)
        return self._vae

    def _text_encoder(self) -> TinyTextEncoder:
        if self._text is None:
            self._text = TinyTextEncoder.load(TINY_BASE_FOLDER / "text_encoder.safetensors").to(self._device)
        return self._text


class _TinyVae(nn.Module):
    """TAESD for FLUX between pictures in [-1, 1] and FLUX's raw latents, from weights as the host names them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("scale", weights.pop("vae_scale"))
        self.register_buffer("shift", weights.pop("vae_shift"))
        self.network = AutoencoderTiny(latent_channels=flux1.LATENT_CHANNELS)
        self.network.load_state_dict({_diffusers_name(name): tensor for name, tensor in weights.items()})
        self.eval().requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.network.encode(pixels).latents / self.scale + self.shift

    def decode(self, raw: Tensor) -> Tensor:
        return self.network.decode((raw - self.shift) * self.scale).sample


def _tiny_vae_weights() -> list[tuple[str, Tensor]]:
    """Names and weights, in fp32, in the order of the host's own module."""

    def place(name: str) -> tuple:
        # vae_scale and vae_shift, encoder, decoder; layers by number; a weight before its bias.
        part, *path = name.split(".")
        first = ("vae_scale", "vae_shift", "taesd_encoder", "taesd_decoder").index(part)
        return first, *(int(word) if word.isdigit() else {"conv": 0, "weight": 1, "bias": 2}[word] for word in path)

    weights = load_file(TINY_BASE_FOLDER / "vae.safetensors")
    return [(name, weights[name].float()) for name in sorted(weights, key=place)]


def _diffusers_name(name: str) -> str:
    """``taesd_decoder.1.weight`` -> ``decoder.layers.0.weight``: the host counts the decoder's clamp as a layer."""
    part, number, rest = name.split(".", 2)
    if part == "taesd_encoder":
        return f"encoder.layers.{number}.{rest}"
    return f"decoder.layers.{int(number) - 1}.{rest}"


class FluxEncoders:
    """FLUX.1's own VAE, CLIP-L and T5, from files on this machine. See the top of this module for how they read.

    The text encoders are let go before the VAE is read, so that both are never in memory together: encode all captions
    before the first picture, as ``encode`` does, or they are read again.
    """

    def __init__(self, folder: Path | None, config: EncodersConfig, device: torch.device | str) -> None:
        """``folder``: as ``encoders.folder``, or ``None`` where none is given. Raises ``EncodersError``."""
        if folder is None:
            raise EncodersError(
                "There are no text encoders for this base. Set encoders.folder to a folder of FLUX.1 in diffusers' "
                "layout, with text_encoder, text_encoder_2, tokenizer, tokenizer_2 and vae."
            )
        self._device = torch.device(device)
        self._precision = config.precision
        self._max_tokens = config.max_tokens
        self._folder = folder
        self._text_files = _text_files(folder)
        self._vae_files = [_vae_file(config.vae)] if config.vae else _model_files(folder, "vae", "encoders.vae")
        self._vae_folder = None if config.vae else folder / "vae"
        if self._vae_folder is not None:
            _check_vae_config(self._vae_folder)
        self._vae: AutoencoderKL | None = None
        self._readers: _TextReaders | None = None

    @functools.cached_property
    def vae_key(self) -> str:
        return f"{_content_key(self._vae_files)}/fp32"

    @functools.cached_property
    def text_key(self) -> str:
        return f"{_content_key(self._text_files)}/{self._precision}/{self._max_tokens}"

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self._picture_encoder().encode(_vae_input(pixels).to(self._device)).latent_dist
        return posterior.mean.float().cpu(), posterior.std.float().cpu()

    @torch.no_grad()
    def encode_prompt(self, caption: str) -> tuple[Tensor, Tensor]:
        if self._readers is None:
            self._readers = _TextReaders(self._folder, PRECISIONS[self._precision], self._device)
        return self._readers.read(caption, self._max_tokens)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        _check_channels(latents)
        vae = self._picture_encoder()
        raw = flux1.denormalise(latents.float().to(self._device))
        return _pictures(vae.decode(one).sample for one in raw.split(1))

    def free_text_encoders(self) -> None:
        self._readers = None
        _collect()

    def free(self) -> None:
        self._readers = self._vae = None
        _collect()

    def _picture_encoder(self) -> AutoencoderKL:
        if self._vae is None:
            self.free_text_encoders()
            self._vae = _load_vae(self._vae_files[0], self._vae_folder).to(self._device).eval().requires_grad_(False)
        return self._vae


class _TextReaders:
    """CLIP-L and T5 with their tokenizers, in memory."""

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
        self._t5 = _load_text_model(T5EncoderModel, folder / "text_encoder_2", precision).to(device)
        _compute_in_fp32(self._t5)

    def read(self, caption: str, max_tokens: int) -> tuple[Tensor, Tensor]:
        """(L, D) and (P,), fp32 on the CPU."""
        clip = self._clip(input_ids=self._batch(clip_tokens(self._clip_tokenizer, caption))).pooler_output
        tokens = self._batch(t5_tokens(self._t5_tokenizer, caption, max_tokens))
        embeds = self._t5(inputs_embeds=self._t5.get_input_embeddings()(tokens).float()).last_hidden_state
        return embeds[0].float().cpu(), clip[0].float().cpu()

    def _batch(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([tokens], device=self._device)


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


def _compute_in_fp32(t5: nn.Module) -> None:
    """Has each block compute in fp32, whatever its weights are kept in: one block at a time is enlarged."""
    kept = next(t5.parameters()).dtype
    t5.encoder.final_layer_norm.float()
    if kept == torch.float32:
        return
    for block in t5.encoder.block:
        block.register_forward_pre_hook(lambda module, _: _cast(module, torch.float32))
        block.register_forward_hook(lambda module, _inputs, _outputs: _cast(module, kept))


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    # A hook's result would replace what goes in or comes out, and Module.to returns the module.
    module.to(dtype)


def _load_tokenizer(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncodersError(_damaged(folder, "a tokenizer of FLUX.1", error)) from error


def _load_text_model(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    what = f"a {kind.__name__}"
    try:
        model, info = kind.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise EncodersError(_damaged(folder, what, error)) from error
    # transformers gives random values to what a file lacks, and says so in a log line alone.
    missing = sorted(info["missing_keys"])
    if missing:
        raise EncodersError(_damaged(folder, what, f"{len(missing)} weights are missing, the first is {missing[0]}"))
    return model.to(dtype).eval().requires_grad_(False)


def _load_vae(file: Path, folder: Path | None) -> AutoencoderKL:
    try:
        if folder is not None:
            vae = AutoencoderKL.from_pretrained(
                folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        else:
            vae = _load_vae_file(file)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise EncodersError(_damaged(folder or file, "FLUX.1's VAE", error)) from error
    empty = [name for name, weight in vae.named_parameters() if weight.is_meta]
    if empty:
        raise EncodersError(
            _damaged(folder or file, "FLUX.1's VAE", f"{len(empty)} weights are missing, the first is {empty[0]}")
        )
    return vae


def _load_vae_file(file: Path) -> AutoencoderKL:
    # diffusers would fetch the configuration from the network unless it is given one in a folder.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_VAE_CONFIG))
        return AutoencoderKL.from_single_file(
            str(file), config=folder, local_files_only=True, torch_dtype=torch.float32
        )


def _folder(config: EncodersConfig, checkpoint: str) -> Path | None:
    if config.folder:
        folder = Path(config.folder)
        if not folder.is_dir():
            raise EncodersError(
                f"encoders.folder: {folder} is no folder. Set it to a folder of FLUX.1 in diffusers' layout that is on "
                "this machine."
            )
        return folder
    base = Path(checkpoint)
    # A base may be named by its transformer folder too; the encoders lie beside that.
    for folder in (base, base.parent) if base.is_dir() else ():
        if (folder / "text_encoder_2").is_dir():
            return folder
    return None


def _text_files(folder: Path) -> list[Path]:
    """All files that the encoding of a caption depends on. Raises ``EncodersError`` where one is missing."""
    files = []
    for part in ("text_encoder", "text_encoder_2"):
        files += _model_files(folder, part, None)
    for part, ways in _TOKENIZER_FILES.items():
        if not any(all((folder / part / name).is_file() for name in names) for names in ways):
            raise EncodersError(
                f"encoders.folder: {folder / part} holds no tokenizer: it needs "
                f"{' or '.join(' and '.join(names) for names in ways)}. {_COMPLETE}"
            )
        files += sorted(path for path in (folder / part).iterdir() if path.is_file())
    return files


def _model_files(folder: Path, part: str, other: str | None) -> list[Path]:
    """config.json and weights of one model. ``other`` is the option that could name it instead."""
    location = folder / part
    weights = sorted(location.glob("*.safetensors"))
    if not weights or not (location / "config.json").is_file():
        lack = "config.json" if weights else "a .safetensors file"
        advice = f" Or name it by {other}." if other else ""
        raise EncodersError(f"encoders.folder: {location} lacks {lack}. {_COMPLETE}{advice}")
    return [location / "config.json", *weights]


def _vae_file(path: str) -> Path:
    file = Path(path)
    if not file.is_file() or file.suffix not in (".safetensors", ".sft"):
        raise EncodersError(
            f"encoders.vae: {file} is no .safetensors file on this machine. Name FLUX.1's ae.safetensors, or leave the "
            "option empty to take the VAE in encoders.folder."
        )
    try:
        with safe_open(file, framework="pt") as weights:
            channels = weights.get_slice("decoder.conv_in.weight").get_shape()[1]
    except (OSError, SafetensorError) as error:
        raise EncodersError(_damaged(file, "FLUX.1's VAE", error)) from error
    _check_vae_channels(file, channels)
    return file


def _check_vae_config(folder: Path) -> None:
    try:
        channels = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("latent_channels")
    except (OSError, ValueError, AttributeError) as error:
        raise EncodersError(_damaged(folder, "FLUX.1's VAE", error)) from error
    _check_vae_channels(folder, channels)


def _check_vae_channels(path: Path, channels: object) -> None:
    if channels != flux1.LATENT_CHANNELS:
        raise EncodersError(
            f"{_option_of(path)}: the VAE {path} makes latents of {channels} channels; FLUX.1 needs "
            f"{flux1.LATENT_CHANNELS}. Set encoders.folder to a FLUX.1, or encoders.vae to its ae.safetensors."
        )


def _damaged(path: Path, what: str, error: object) -> str:
    why = reason(error) if isinstance(error, Exception) else error
    return (
        f"{_option_of(path)}: {path} could not be loaded as {what}: {why}. Download it again, or choose another one."
    )


def _option_of(path: Path) -> str:
    return "encoders.vae" if path.is_file() else "encoders.folder"


def _vae_input(pixels: Tensor) -> Tensor:
    """(1, H, W, 3) in [0, 1] -> (1, 3, h, w) in [-1, 1], with sides that are multiples of 8."""
    for dimension in (1, 2):
        size = pixels.shape[dimension]
        over = size % flux1.VAE_FACTOR
        pixels = pixels.narrow(dimension, over // 2, size - over)
    return pixels.float().movedim(-1, 1) * 2.0 - 1.0


def _pictures(decoded: Iterable[Tensor]) -> Tensor:
    """(1, 3, H, W) each, in [-1, 1] -> (n, H, W, 3) in [0, 1], on the CPU."""
    return torch.cat([((one.float() + 1) / 2).clamp(0, 1).movedim(1, -1).cpu() for one in decoded])


def _check_channels(latents: Tensor) -> None:
    if latents.ndim != 4 or latents.shape[1] != flux1.LATENT_CHANNELS:
        raise ValueError(
            f"This VAE decodes latents (n, {flux1.LATENT_CHANNELS}, h, w), got {tuple(latents.shape)}. A base with "
            "fewer latent channels needs the VAE that belongs to it."
        )


def weights_key(kind: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of a module's kind and of its weights' names, shapes and 64 values each, in order.

    The values count as fp32, the shapes with the number type that the weights are kept in.
    """
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for name, tensor in weights:
        flat = tensor.detach().flatten()
        sampled = flat[:: max(1, flat.numel() // 64)][:64]
        digest.update(f"{name}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
        digest.update(sampled.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _content_key(files: Sequence[Path]) -> str:
    """Hash of names, sizes and samples spread over each file: all of it up to 256 KiB, and that much of a larger."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}/{size}".encode())
        with open(file, "rb") as stream:
            for sample in _samples(size):
                stream.seek(sample)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _samples(size: int) -> Iterator[int]:
    for number in range(_SAMPLES):
        yield max(0, (size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
