"""A folder with encoders of FLUX.1's layout in diffusers' format, small and random, for tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

VAE_BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
CLIP_SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip
T5_SIZES = {"d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
T5_KIND = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

WORDS = ("a", "small", "red", "cat", "photo", "of", "the", "sea")


def make_folder(folder: Path, *, clip_tokenizer: Path | None = None, t5_tokenizer: Path | None = None) -> Path:
    """Write vae, text_encoder, text_encoder_2, tokenizer and tokenizer_2 into ``folder``.

    The tokenizers are copies of the folders given, or else know ``WORDS``.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    _tokenizer(folder / "tokenizer", clip_tokenizer, _write_clip_tokenizer)
    _tokenizer(folder / "tokenizer_2", t5_tokenizer, _write_t5_tokenizer)
    torch.manual_seed(0)
    # As FLUX.1's own file has it: the end token that CLIP's first release named wrongly.
    clip = CLIPTextModel(CLIPTextConfig(vocab_size=49408, eos_token_id=2, **CLIP_SIZES))
    t5 = T5EncoderModel(T5Config(vocab_size=32128, **T5_SIZES, **T5_KIND))
    vae = AutoencoderKL(**VAE_BLOCKS)
    for model in (clip, t5, vae):
        randomise(model)
        for weight in model.parameters():  # what bf16 can hold, so that no reader rounds
            weight.data = weight.data.bfloat16().float()
    clip.save_pretrained(folder / "text_encoder")
    _name_as_flux_does(folder / "text_encoder" / "model.safetensors")
    t5.save_pretrained(folder / "text_encoder_2")
    vae.save_pretrained(folder / "vae")
    return folder


def _name_as_flux_does(clip: Path) -> None:
    """The prefix that FLUX.1's own file has, whatever this version of transformers writes."""
    weights = load_file(clip)
    save_file({f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in weights.items()}, clip)


def randomise(model: nn.Module) -> None:
    """Weights that make every layer count: no zero biases, no norms of one, no output that is nearly constant."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        scale = max(1, weight[0].numel()) ** -0.5 if weight.ndim > 1 else 0.1
        if "embed" in name or "shared" in name:
            scale = 0.5
        weight.data = noise * scale + (1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0)


def _tokenizer(folder: Path, source: Path | None, write: Callable[[Path], None]) -> None:
    if source is not None:
        shutil.copytree(source, folder)
    else:
        folder.mkdir(parents=True)
        write(folder)


def _write_clip_tokenizer(folder: Path) -> None:
    """Letters and whole words, with start and end in the last two places, as CLIP has them."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges, tokens = [], [*letters, *(f"{letter}</w>" for letter in letters)]
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            if merge not in merges:
                merges.append(merge)
            pieces[:2] = ["".join(merge)]
            if pieces[0] not in tokens:
                tokens.append(pieces[0])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def _write_t5_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0), *((f"▁{word}", -1.0) for word in WORDS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
    special |= {"tokenizer_class": "T5TokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
