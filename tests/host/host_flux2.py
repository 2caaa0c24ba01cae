"""Run inside a host's own modules: what the graph's nodes make of FLUX.2's encoders.

    python host_flux2.py <ComfyUI folder> <base directory>

The base directory holds ``flux2-vae.safetensors``, a random VAE in the format of FLUX.2's own file, and ``klein``, a
folder with a small random Qwen3 in diffusers' format. Written there: ``report.json`` and ``encodings.safetensors``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CAPTIONS = ["", "a photo of a small red cat by the sea", "Ünïcode (not: emphasis) and 1234 numbers\non two lines"]
DEV_CAPTIONS = ["", "a small red cat, and some words"]
LONG = "one sentence that is much longer than what klein was trained on, " * 45


def pixels(height: int = 64, width: int = 96) -> Any:
    import torch

    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(3))


def vae(base: Path, tensors: dict[str, Any], report: dict[str, Any]) -> None:
    import comfy.sd
    import comfy.utils
    import torch

    from fluxduel.nodes import host
    from fluxduel.training.base.families.latent_space import FLUX_1

    loaded = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(base / "flux2-vae.safetensors")), dtype=torch.float32)
    report["space"] = host.check_vae(loaded, "here").name
    report["no_doubt"] = host.doubt_of(loaded, 7680)
    report["tiny_space"] = host.check_vae(host.load_tiny_vae(), "here").name
    report["of_another_base"] = message_of(lambda: host.check_vae(loaded, "here", FLUX_1))
    tensors["mean"], std = host.encode_image(loaded, pixels())
    report["no_deviation"] = std is None
    tensors["by_host"] = loaded.encode(pixels())
    tensors["decoded"] = loaded.decode(tensors["mean"])


def klein(base: Path, tensors: dict[str, Any], report: dict[str, Any]) -> None:
    import comfy.text_encoders.flux

    from fluxduel.nodes import host
    from fluxduel.nodes.conditioning import ignored_in
    from fluxduel.tests.host.small_klein import small_klein
    from fluxduel.training.base.families.latent_space import FLUX_1, FLUX_2

    report["klein"] = hasattr(comfy.text_encoders.flux, "klein_te")
    if not report["klein"]:
        return
    clip = small_klein(str(base / "klein"))
    for number, caption in enumerate([*CAPTIONS, LONG]):
        tensors[f"klein_{number}"], pooled = host.encode_prompt(clip, caption, FLUX_2)
        assert pooled.shape == (0,)
    report["as_flux_1"] = message_of(lambda: host.encode_prompt(clip, "a cat", FLUX_1))
    report["ignored"] = ignored_in({"a": clip.encode_from_tokens_scheduled(clip.tokenize("a cat"))})


def dev(base: Path, tensors: dict[str, Any]) -> None:
    """The host's Mistral 3 in a small size, given the tokens: its own tokenizer is in the real one's file alone."""
    import comfy.text_encoders.flux
    import comfy.utils
    import torch

    from fluxduel.training.data.flux2_text import Flux2Reader

    folder = base / "dev"
    told = json.loads((folder / "text_encoder" / "config.json").read_text())["text_config"]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: told[name] for name in (*names, "num_key_value_heads")}
    made = comfy.text_encoders.flux.flux2_te(dtype_llama=torch.float32)
    model = made(model_options={"mistral3_24b_model_config": sizes})
    weights = comfy.utils.load_torch_file(str(folder / "text_encoder" / "model.safetensors"))
    layers = {f"model.{name.rpartition('language_model.')[2].removeprefix('model.')}": weight
              for name, weight in weights.items() if "language_model." in name}  # fmt: skip
    missing = model.load_sd(layers)[0]
    assert not [name for name in missing if "logit_scale" not in name], missing
    reader = Flux2Reader(folder, torch.float32, torch.device("cpu"))
    for number, caption in enumerate(DEV_CAPTIONS):
        ids = [[(token, 1.0) for token in reader.tokens(caption)]]
        tensors[f"dev_{number}"] = model.encode_token_weights({"mistral3_24b": ids})[0][0]


def prompts(tensors: dict[str, Any], report: dict[str, Any]) -> None:
    """What comes through the CONDITIONING socket."""
    import torch

    from fluxduel.nodes import host
    from fluxduel.nodes.conditioning import prompt_of
    from fluxduel.training.base.families.latent_space import FLUX_1, FLUX_2

    def of(width: int, space: Any, pooled: Any = None) -> Any:
        generator = torch.Generator().manual_seed(1)
        given = [[torch.randn(1, 7, width, generator=generator), {"pooled_output": pooled}]]
        return prompt_of(given, "here", space)

    tensors["dev"], tensors["klein_as_given"] = of(15360, FLUX_2)[0], of(7680, FLUX_2)[0]
    report["refused"] = {
        "pooled": message_of(lambda: of(7680, FLUX_2, torch.zeros(1, 768))),
        "T5 alone": message_of(lambda: of(4096, FLUX_2)),
        "klein for FLUX.1": message_of(lambda: of(7680, FLUX_1)),
    }
    report["version"] = message_of(lambda: host.encode_prompt(_Reading(2560), "a cat", FLUX_2))


class _Reading:
    """A text encoder that the host reads for another model than FLUX.2."""

    def __init__(self, width: int) -> None:
        self._width = width

    def tokenize(self, caption: str) -> str:
        return caption

    def encode_from_tokens_scheduled(self, _: str) -> Any:
        import torch

        return [[torch.zeros(1, 7, self._width), {"pooled_output": None}]]


def previews(report: dict[str, Any]) -> None:
    """Flat latents have one colour: the host's previewer says which."""
    import comfy.latent_formats
    import numpy
    import torch
    from latent_preview import Latent2RGBPreviewer

    from fluxduel.nodes import host
    from fluxduel.training.base.base_model import BaseReference

    layout = comfy.latent_formats.Flux2()
    flat = torch.randn(1, 32, 1, 1, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 1)
    flat = flat.expand(1, 128, 4, 6)
    factors = (layout.latent_rgb_factors, layout.latent_rgb_factors_bias, layout.latent_rgb_factors_reshape)
    theirs = numpy.asarray(Latent2RGBPreviewer(*factors).decode_latent_to_preview(flat)).astype(int)
    ours = numpy.asarray(host.preview_decoder(BaseReference("flux2.safetensors"))(flat)).astype(int)
    report["preview_size"] = list(ours.shape[:2])
    report["preview_error"] = int(abs(ours[:8, :8].reshape(-1, 3) - theirs[0, 0, :3]).max())


def message_of(call: Any) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    folder, base = sys.argv[1], Path(sys.argv[2])
    enter(folder, str(base))
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    report: dict[str, Any] = {}
    with torch.inference_mode():
        vae(base, tensors, report)
        klein(base, tensors, report)
        dev(base, tensors)
        prompts(tensors, report)
        previews(report)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, base / "encodings.safetensors")
    (base / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
