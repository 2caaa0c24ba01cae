"""FLUX.2's VAE and text encoders in a real host, beside those of a headless run, and down to a trained LoRA."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.comfy_host import ComfyHost, HostError
from fluxduel.tests.engine.flux2_encoders import make_dev, make_vae, original_names
from fluxduel.tests.engine.flux_encoders import randomise
from fluxduel.tests.host import small_klein
from fluxduel.tests.host.host_flux2 import CAPTIONS, DEV_CAPTIONS, LONG, pixels
from fluxduel.tests.host.two_stage_graph import (
    DECODE,
    ENCODERS,
    LATENTS,
    PROMPT,
    SAMPLE,
    SAVE,
    SHOW_SAMPLES,
    STAGE_1,
    Graph,
    lora_node,
    node,
    training_graph,
    two_stage_graph,
    write_pictures,
)
from fluxduel.tests.inside_host import host_or_skip, run_inside
from fluxduel.training.config import EncodersConfig
from fluxduel.training.data.flux2_encoders import Flux2Encoders

VAE, NEGATIVE = "20", "21"
CONTEXT = 3 * small_klein.SIZES["hidden_size"]


@dataclass(frozen=True)
class FromHost:
    base: Path
    tensors: dict[str, Tensor]
    report: dict[str, Any]

    def encoders(self, **options: str) -> Flux2Encoders:
        config = EncodersConfig(precision="fp32", vae=str(self.base / "flux2-vae.safetensors"), **options)
        return Flux2Encoders(self.base / "klein", config, "cpu")


def write_klein(folder: Path, host: Path) -> None:
    """A small random Qwen3 with the host's own tokenizer, and the VAE in one file beside the folder."""
    from transformers import Qwen2TokenizerFast, Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(**small_klein.SIZES, head_dim=small_klein.HEAD, rope_theta=1e6))
    randomise(model)
    model.save_pretrained(folder / "text_encoder")
    Qwen2TokenizerFast.from_pretrained(host / "comfy" / "text_encoders" / "qwen25_tokenizer").save_pretrained(
        folder / "tokenizer"
    )
    # The sizes of the real one, which the host takes for granted.
    vae = make_vae(folder / "vae", block_out_channels=(128, 256, 512, 512))
    save_file(original_names(vae.state_dict()), folder.parent / "flux2-vae.safetensors")


@pytest.fixture(scope="module")
def from_host(tmp_path_factory: pytest.TempPathFactory) -> FromHost:
    folder = host_or_skip()
    base = tmp_path_factory.mktemp("flux2")
    write_klein(base / "klein", folder)
    make_dev(base / "dev", head_dim=small_klein.HEAD, num_attention_heads=2, num_key_value_heads=1)
    run_inside("host_flux2.py", base)
    report = json.loads((base / "report.json").read_text())
    return FromHost(base, load_file(base / "encodings.safetensors"), report)


def needs_klein(from_host: FromHost) -> None:
    if not from_host.report["klein"]:
        pytest.skip("this host is older than klein's text encoders (0.9.2)")


def test_the_vae_is_known_and_its_latents_are_taken_as_they_are(from_host: FromHost) -> None:
    report, tensors = from_host.report, from_host.tensors
    assert (report["space"], report["tiny_space"]) == ("FLUX.2", "FLUX.1")
    assert report["no_deviation"] and report["no_doubt"] == ""
    assert tensors["mean"].shape == (1, 128, 4, 6) and tensors["mean"].equal(tensors["by_host"])
    assert "this VAE is FLUX.2's, and the base takes latents of FLUX.1's" in report["of_another_base"]


def test_a_headless_run_encodes_pictures_as_the_graph_does(from_host: FromHost) -> None:
    encoders, tensors = from_host.encoders(), from_host.tensors
    mean, _ = encoders.encode_image(pixels())
    torch.testing.assert_close(mean, tensors["mean"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoders.decode(mean), tensors["decoded"], atol=1e-3, rtol=0)
    print("latents differ by", (mean - tensors["mean"]).abs().max().item())


def test_a_headless_run_reads_captions_as_the_graph_does(from_host: FromHost) -> None:
    needs_klein(from_host)
    encoders = from_host.encoders()
    for number, caption in enumerate(CAPTIONS):
        expected = from_host.tensors[f"klein_{number}"]
        embeds, _ = encoders.encode_prompt(caption)
        assert embeds.shape == expected.shape == (512, CONTEXT)
        torch.testing.assert_close(embeds, expected, atol=1e-4, rtol=1e-4)
        print("prompts differ by", (embeds - expected).abs().max().item(), "of", expected.abs().max().item())
    # The host never cuts.
    whole, cut = from_host.tensors[f"klein_{len(CAPTIONS)}"], encoders.encode_prompt(LONG)[0]
    assert whole.shape[0] > 512
    torch.testing.assert_close(cut, whole[:512], atol=1e-4, rtol=1e-4)


def test_a_headless_run_reads_devs_captions_as_the_host_reads_the_same_tokens(from_host: FromHost) -> None:
    encoders = Flux2Encoders(from_host.base / "dev", EncodersConfig(precision="fp32"), "cpu")
    for number, caption in enumerate(DEV_CAPTIONS):
        expected = from_host.tensors[f"dev_{number}"]
        embeds, _ = encoders.encode_prompt(caption)
        assert embeds.shape == (512, expected.shape[1]) and not embeds[: -len(expected)].any()
        torch.testing.assert_close(embeds[-len(expected) :], expected, atol=1e-4, rtol=1e-4)
        print("dev's prompts differ by", (embeds[-len(expected) :] - expected).abs().max().item())


def test_an_attention_mask_that_the_model_does_not_look_at_is_not_warned_of(from_host: FromHost) -> None:
    needs_klein(from_host)
    assert from_host.report["ignored"] == []
    assert "no pooled output, which FLUX.1 needs" in from_host.report["as_flux_1"]


def test_devs_prompt_is_padded_where_the_hosts_model_would(from_host: FromHost) -> None:
    dev = from_host.tensors["dev"]
    assert dev.shape == (512, 15360) and not dev[:505].any() and dev[505:].all()
    assert from_host.tensors["klein_as_given"].shape == (7, 7680)


def test_prompts_of_other_models_are_refused_by_name(from_host: FromHost) -> None:
    refused = from_host.report["refused"]
    assert "gives a pooled output, which FLUX.2 does not take" in refused["pooled"]
    assert "T5-XXL alone. Use CLIPLoader of type flux2" in refused["T5 alone"]
    assert "FLUX.2 klein 4B (Qwen3-4B). Use DualCLIPLoader of type flux" in refused["klein for FLUX.1"]
    told = from_host.report["version"]
    assert "Qwen3-4B, read as for Z-Image" in told
    assert ("text encoders (CLIPLoader of type flux2) came with 0.9.2" in told) != from_host.report["klein"]


def test_a_preview_without_a_vae_has_the_hosts_colours(from_host: FromHost) -> None:
    assert from_host.report["preview_size"] == [64, 96]
    assert from_host.report["preview_error"] <= 1


@pytest.fixture(scope="module")
def host(from_host: FromHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyHost]:
    needs_klein(from_host)
    base = tmp_path_factory.mktemp("flux2-host")
    (base / "custom_nodes").mkdir()
    shutil.copy(small_klein.__file__, base / "custom_nodes" / "small_klein.py")
    write_pictures(base / "input" / "pictures", count=3)
    for folder in ("vae", "diffusion_models"):
        (base / "models" / folder).mkdir(parents=True)
    shutil.copy(from_host.base / "flux2-vae.safetensors", base / "models" / "vae")
    transformer = Flux2Transformer2DModel(
        in_channels=128, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=CONTEXT, guidance_embeds=False,
    )  # fmt: skip
    randomise(transformer)
    save_file(
        {name: weight.contiguous() for name, weight in transformer.state_dict().items()},
        base / "models" / "diffusion_models" / "klein-base.safetensors",
    )
    with ComfyHost(base) as started:
        yield started


def klein_graph(from_host: FromHost) -> Graph:
    """Stage 1, saved, and a picture from it."""
    whole, graph = two_stage_graph("pictures"), training_graph("pictures", steps=2)
    graph |= {key: whole[key] for key in (PROMPT, SAMPLE, DECODE, SHOW_SAMPLES)}
    graph[SAMPLE]["inputs"]["flux_lora"] = [STAGE_1, 0]
    graph[DECODE]["inputs"]["vae"] = [VAE, 0]
    graph["1"] = lora_node(checkpoint="klein-base.safetensors")
    graph[ENCODERS] = node("FluxDuelTestSmallKlein", {"folder": str(from_host.base / "klein")})
    graph[VAE] = node("VAELoader", {"vae_name": "flux2-vae.safetensors"})
    graph[LATENTS]["inputs"]["vae"] = [VAE, 0]
    # Klein base is sampled with guidance away from something.
    graph[NEGATIVE] = {**graph[PROMPT], "inputs": {**graph[PROMPT]["inputs"], "text": ""}}
    graph[SAMPLE]["inputs"]["negative"] = [NEGATIVE, 0]
    return graph


def test_stage_1_trains_in_the_graph_from_klein_encodings(from_host: FromHost, host: ComfyHost) -> None:
    outputs = host.run(klein_graph(from_host), timeout=500)
    assert "Warning: the prompts" not in outputs[LATENTS]["text"][0]
    saved = next((host.base / "output" / "loras").glob("*.safetensors"))
    assert str(saved.name) in str(outputs[SAVE])
    tensors = load_file(saved)
    changed = [name for name, tensor in tensors.items() if "lora_B" in name and tensor.any()]
    assert changed and all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert len(outputs[SHOW_SAMPLES]["images"]) == 4
    assert "attention mask" not in str(outputs.get(SAMPLE))


def test_the_tiny_bases_text_encoder_is_refused_before_anything_runs(from_host: FromHost, host: ComfyHost) -> None:
    graph = klein_graph(from_host) | {ENCODERS: node("FluxDuelLoadTinyFluxEncoders")}
    with pytest.raises(HostError, match="clip is the tiny base.s.* Connect CLIPLoader of type flux2"):
        host.run(graph)
