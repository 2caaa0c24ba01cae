"""Run inside a host's own modules: what the graph's encoders give, for a comparison with those of a headless run.

    python host_encoders.py <ComfyUI folder> <base directory>

The base directory holds ``request.json`` (captions, sizes of small text encoders) and ``flux``, a folder with their
weights. Written there: ``ae.safetensors``, a random VAE of FLUX's kind in the format of FLUX's own file, and
``report.json`` and ``encodings.safetensors``, what the host makes of the same pictures and captions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Request = dict[str, Any]


def tiny(request: Request, tensors: dict[str, Any], report: dict[str, Any]) -> None:
    from fluxduel.nodes import host
    from fluxduel.training.base.families.latent_space import FLUX_1

    clip, vae = host.load_tiny_clip(), host.load_tiny_vae()
    report["tiny_vae_key"], report["tiny_text_key"] = host.vae_key(vae), host.clip_key(clip)
    for number, pixels in enumerate(pictures(request)):
        mean, std = host.encode_image(vae, pixels)
        assert std is None
        tensors[f"tiny_mean_{number}"] = mean
        tensors[f"tiny_decoded_{number}"] = vae.decode(mean)
    for number, caption in enumerate(request["captions"]):
        tensors[f"tiny_prompt_{number}"], tensors[f"tiny_pooled_{number}"] = host.encode_prompt(clip, caption, FLUX_1)


def flux_text(request: Request, tensors: dict[str, Any], report: dict[str, Any], base: Path) -> None:
    import comfy.sd
    import comfy.text_encoders.flux
    import comfy.utils
    import torch

    from fluxduel.nodes import host
    from fluxduel.training.base.families.latent_space import FLUX_1

    class Target:
        params: dict[str, Any] = {}
        clip = comfy.text_encoders.flux.flux_clip(dtype_t5=torch.float32)
        tokenizer = comfy.text_encoders.flux.FluxTokenizer

    sizes = {"clip_l_model_config": request["clip"], "t5xxl_model_config": request["t5"]}
    clip = comfy.sd.CLIP(Target, model_options={"dtype": torch.float32, **sizes})
    for part in ("text_encoder", "text_encoder_2"):
        missing, _ = clip.load_sd(comfy.utils.load_torch_file(str(base / "flux" / part / "model.safetensors")))
        assert all("text_projection" in name or "logit_scale" in name for name in missing), missing
    report["tokens"] = []
    for number, caption in enumerate(request["captions"]):
        tokens = clip.tokenize(caption)
        report["tokens"].append({name: [token for token, *_ in pieces[0]] for name, pieces in tokens.items()})
        tensors[f"flux_prompt_{number}"], tensors[f"flux_pooled_{number}"] = host.encode_prompt(clip, caption, FLUX_1)


def flux_vae(request: Request, tensors: dict[str, Any], base: Path) -> None:
    import comfy.sd
    import comfy.utils
    import torch
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    from fluxduel.nodes import host
    from fluxduel.tests.engine.flux_encoders import randomise

    sizes = {
        "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    part = "comfy.ldm.modules.diffusionmodules.model."
    model = AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": part + "Encoder", "params": sizes},
        decoder_config={"target": part + "Decoder", "params": sizes},
    )
    randomise(model)
    file = str(base / "ae.safetensors")
    comfy.utils.save_torch_file({name: weight.bfloat16() for name, weight in model.state_dict().items()}, file)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(file), dtype=torch.float32)
    tensors["flux_mean"], tensors["flux_std"] = host.encode_image(vae, pictures(request)[0])
    tensors["flux_decoded"] = vae.decode(tensors["flux_mean"])


def pictures(request: Request) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(request["seed"])
    return [torch.rand(1, height, width, 3, generator=generator) for height, width in request["sizes"]]


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    host, base = sys.argv[1], Path(sys.argv[2])
    enter(host, str(base))
    import torch
    from safetensors.torch import save_file

    request = json.loads((base / "request.json").read_text())
    tensors: dict[str, Any] = {}
    report: dict[str, Any] = {}
    with torch.inference_mode():
        tiny(request, tensors, report)
        flux_text(request, tensors, report, base)
        flux_vae(request, tensors, base)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, base / "encodings.safetensors")
    (base / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
