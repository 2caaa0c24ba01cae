"""A folder with encoders of FLUX.2's layout in diffusers' format, small and random, for tests."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn

from fluxduel.tests.engine.flux_encoders import randomise

VAE_SIZES = {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 2}
# As deep as what is read of the real ones and a little more, so that the last layer read is not the last of all.
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": 160,
}  # fmt: skip
KLEIN_LAYERS, DEV_LAYERS = 29, 32
KLEIN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
DEV_TOKENS = ("<unk>", "<s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]")
# The parts of the models' own templates that a single message without thinking goes through.
KLEIN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DEV_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message.content %}"
    "{% if message.role == 'system' %}[SYSTEM_PROMPT]{{ part.text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ part.text }}[/INST]{% endif %}{% endfor %}{% endfor %}"
)


def make_klein(folder: Path) -> Path:
    """Write vae, text_encoder (Qwen3) and tokenizer into ``folder``."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    _tokenizer(folder / "tokenizer", KLEIN_TOKENS, pad_token="<|endoftext|>", chat_template=KLEIN_TEMPLATE)
    config = Qwen3Config(**SIZES, num_hidden_layers=KLEIN_LAYERS, rope_theta=1e6)
    return _save(folder, Qwen3ForCausalLM(config))


def make_dev(folder: Path, **sizes: int) -> Path:
    """Write vae, text_encoder (Mistral 3, with the eyes that nobody looks through) and tokenizer into ``folder``."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    _tokenizer(folder / "tokenizer", DEV_TOKENS, bos_token="<s>", pad_token="<pad>", chat_template=DEV_TEMPLATE)
    real = {"model_type": "mistral", "rope_theta": 1e9, "rms_norm_eps": 1e-5}
    text = {**real, **SIZES, **sizes, "num_hidden_layers": DEV_LAYERS}
    eyes = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14}  # fmt: skip
    return _save(folder, Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=eyes)))


def make_vae(folder: Path, seed: int = 0, **options: object) -> AutoencoderKLFlux2:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKLFlux2(**{**VAE_SIZES, **options}).eval()
        _count(vae)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 4.0)
    vae.save_pretrained(folder)
    return vae


def original_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A VAE's weights by black-forest-labs' names, as its file for ComfyUI has them."""
    rules = (
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda found: f"up.{3 - int(found[1])}.block.{found[2]}"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample"),
        (r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_(\w)", r"mid.attn_1.\1"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("^quant_conv", "encoder.quant_conv"),
        ("^post_quant_conv", "decoder.post_quant_conv"),
    )
    renamed = {}
    for name, weight in weights.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        # There attention's layers are convolutions.
        is_matrix = "attn_1" in name and weight.ndim == 2
        renamed[name] = weight[..., None, None].contiguous() if is_matrix else weight.contiguous()
    return renamed


def _save(folder: Path, model: nn.Module) -> Path:
    _count(model)
    model.save_pretrained(folder / "text_encoder")
    make_vae(folder / "vae")
    return folder


def _count(model: nn.Module) -> None:
    randomise(model)
    for weight in model.parameters():  # what bf16 can hold, so that no reader rounds
        weight.data = weight.data.bfloat16().float()


def _tokenizer(folder: Path, special: tuple[str, ...], **settings: str) -> None:
    """Bytes and whole words, with the tokens that templates are made of."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:120]
    letters = list(dict.fromkeys([*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;Ċ Ġ", *letters]))
    vocabulary = {token: number for number, token in enumerate((*special, *letters[: 150 - len(special)]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(folder)
