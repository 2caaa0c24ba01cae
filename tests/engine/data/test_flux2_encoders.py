"""FLUX.2's VAE and text encoders without ComfyUI: the numbers of diffusers' own pipelines, on small random models."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.engine.flux2_encoders import make_dev, make_klein, make_vae, original_names
from fluxduel.training.config import EncodersConfig
from fluxduel.training.data.encode import encode
from fluxduel.training.data.encoder_files import EncodersError
from fluxduel.training.data.encoders import load_encoders
from fluxduel.training.data.flux2_encoders import Flux2Encoders
from fluxduel.training.data.flux2_text import Flux2Reader, text_config

CAPTIONS = ["", "a small red cat", "Words; and 1234 numbers.\nOn two lines, [IMG] and all."]
LONG = "a sentence that comes again " * 40


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_klein(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dev(tmp_path_factory.mktemp("dev"))


def flux2(folder: Path, **options: str) -> Flux2Encoders:
    return Flux2Encoders(folder, EncodersConfig(**{"precision": "fp32", **options}), "cpu")


def pixels(height: int, width: int) -> Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("caption", [*CAPTIONS[:2], LONG])
def test_klein_reads_a_caption_as_diffusers_pipeline_does(klein: Path, caption: str) -> None:
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(klein / "tokenizer")
    model = Qwen3ForCausalLM.from_pretrained(klein / "text_encoder", dtype=torch.float32).eval()
    with torch.no_grad():
        expected = Flux2KleinPipeline._get_qwen3_prompt_embeds(model, tokenizer, caption)[0]
    embeds, pooled = flux2(klein).encode_prompt(caption)
    assert embeds.shape == expected.shape == (512, 48) and pooled.shape == (0,)
    torch.testing.assert_close(embeds, expected, atol=2e-5, rtol=1e-5)
    assert embeds.std(0).min() > 1e-3


@pytest.mark.parametrize("caption", CAPTIONS)
def test_dev_reads_a_caption_as_diffusers_pipeline_does_and_pads_as_the_host(dev: Path, caption: str) -> None:
    from transformers import AutoTokenizer, Mistral3ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(dev / "tokenizer", padding_side="left")
    model = Mistral3ForConditionalGeneration.from_pretrained(dev / "text_encoder", dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = Flux2Pipeline._get_mistral_3_small_prompt_embeds(model, tokenizer, caption)[0]
    embeds, pooled = flux2(dev).encode_prompt(caption)
    length = len(Flux2Reader(dev, torch.float32, torch.device("cpu")).tokens(caption))
    assert embeds.shape == theirs.shape == (512, 48) and pooled.shape == (0,) and length < 512
    torch.testing.assert_close(embeds[-length:], theirs[-length:], atol=2e-5, rtol=1e-4)
    assert not embeds[:-length].any() and embeds[-length].any()


def test_a_caption_that_is_too_long_is_cut_with_a_warning(klein: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        flux2(klein).encode_prompt("a small red cat")
        assert not caplog.records
        flux2(klein).encode_prompt(LONG)
    assert len(caplog.records) == 1 and "is cut to the 512" in caplog.records[0].getMessage()


def test_weights_are_kept_in_half_precision_and_computed_with_in_fp32(klein: Path) -> None:
    """The weights are such that bf16 holds them."""
    exact, half = (flux2(klein, precision=each).encode_prompt("a cat")[0] for each in ("fp32", "bf16"))
    assert exact.equal(half)


def test_the_vae_encodes_as_diffusers_pipeline_does(klein: Path) -> None:
    vae = AutoencoderKLFlux2.from_pretrained(klein / "vae").eval()
    pipeline = Flux2KleinPipeline.__new__(Flux2KleinPipeline)
    given = pixels(64, 96)
    with torch.no_grad():
        raw = pipeline._patchify_latents(vae.encode(given.movedim(-1, 1) * 2 - 1).latent_dist.mode())
        expected = (raw - vae.bn.running_mean.view(1, -1, 1, 1)) / torch.sqrt(
            vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps
        )
        theirs = vae.decode(pipeline._unpatchify_latents(raw)).sample
    encoders = flux2(klein)
    mean, std = encoders.encode_image(given)
    assert std is None and mean.shape == (1, 128, 4, 6)
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-5)
    again = encoders.decode(torch.cat([mean, mean]))
    assert again.shape == (2, 64, 96, 3)
    torch.testing.assert_close(again[1], ((theirs[0] + 1) / 2).clamp(0, 1).movedim(0, -1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("decoder", [None, (64, 128, 256, 256)], ids=["its own", "another decoder"])
def test_a_vae_in_one_file_is_that_of_the_folder(
    klein: Path, tmp_path: Path, decoder: tuple[int, ...] | None
) -> None:
    vae = make_vae(tmp_path / "vae", seed=3, decoder_block_out_channels=decoder)
    file = tmp_path / "flux2-vae.safetensors"
    save_file(original_names(vae.state_dict()), file)
    shutil.copytree(klein, tmp_path / "all", ignore=shutil.ignore_patterns("vae"))
    shutil.copytree(tmp_path / "vae", tmp_path / "all" / "vae")
    from_file, from_folder = flux2(tmp_path / "all", vae=str(file)), flux2(tmp_path / "all")
    given = pixels(32, 48)
    mean = from_file.encode_image(given)[0]
    assert mean.equal(from_folder.encode_image(given)[0])
    assert from_file.decode(mean).equal(from_folder.decode(mean))
    assert from_file.vae_key != from_folder.vae_key


def test_a_dataset_of_flux2_has_its_latents_prompts_and_masks(klein: Path) -> None:
    encoders = flux2(klein)
    mask = torch.zeros(64, 64)
    mask[:, :16] = 1
    data, report = encode(
        [pixels(64, 64)[0]], ["a cat"], names=["a.png"], masks=[mask], encode_image=encoders.encode_image,
        encode_prompt=encoders.encode_prompt, vae_key="v", text_key="t", resolution=64, bucket_step=16, flip=True,
        held_out_share=0.0, seed=0, cache_folder=None, space=encoders.space,
    )  # fmt: skip
    sample = data.samples[0]
    assert sample.shape == (128, 4, 4) and sample.std is None and sample.flippable
    # Normalised already: what the VAE gave is what the transformer takes.
    assert sample.mean.equal(encoders.encode_image(pixels(64, 64))[0][0])
    assert sample.mask[0].tolist() == [[1.0, 0.0, 0.0, 0.0]] * 4
    assert (data.empty_prompt.width, data.empty_prompt.pooled_width) == (48, 0)
    assert "Warning" not in report.replace("Warning: nothing is held out", "")


def test_the_encoders_are_those_of_the_bases_family(klein: Path, tmp_path: Path) -> None:
    (klein / "transformer").mkdir(exist_ok=True)
    config = {"_class_name": "Flux2Transformer2DModel", "in_channels": 128, "joint_attention_dim": 48}
    (klein / "transformer" / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, klein / "transformer" / "x.safetensors")
    assert isinstance(load_encoders(EncodersConfig(), str(klein), "cpu"), Flux2Encoders)
    assert isinstance(load_encoders(EncodersConfig(), str(klein / "transformer"), "cpu"), Flux2Encoders)
    with pytest.raises(EncodersError, match="Set encoders.folder to a folder of FLUX.2"):
        shutil.copytree(klein / "transformer", tmp_path / "alone")
        load_encoders(EncodersConfig(), str(tmp_path / "alone"), "cpu")


def test_what_is_not_flux2s_is_refused_by_name(klein: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(klein, tmp_path / name))

    folder = copy("another text encoder")
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(EncodersError, match="of the kind t5; FLUX.2 has qwen3"):
        flux2(folder)
    folder = copy("another vae")
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(EncodersError, match="such as FLUX.1's .AutoencoderKL."):
        flux2(folder)
    file = tmp_path / "ae.safetensors"
    save_file({"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)}, file)
    with pytest.raises(EncodersError, match="such as FLUX.1's. Name FLUX.2's flux2-vae"):
        flux2(klein, vae=str(file))
    folder = copy("no tokenizer")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(EncodersError, match="lacks tokenizer.json"):
        flux2(folder)
    folder = copy("quantised")
    told = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps({**told, "quantization_config": {}}))
    with pytest.raises(EncodersError, match="is quantised"):
        flux2(folder)


def test_weights_that_are_missing_or_of_8_bits_are_refused(klein: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(klein, tmp_path / "klein"))
    file = next((folder / "text_encoder").glob("*.safetensors"))
    weights = load_file(file)
    name = "model.layers.3.mlp.up_proj.weight"
    save_file({key: weight for key, weight in weights.items() if key != name}, file)
    with pytest.raises(EncodersError, match="1 weights are missing, the first is layers.3.mlp.up_proj"):
        flux2(folder).encode_prompt("")
    save_file({**weights, name: weights[name].to(torch.float8_e4m3fn)}, file)
    with pytest.raises(EncodersError, match="layers.3.mlp.up_proj.weight is in torch.float8"):
        flux2(folder).encode_prompt("")


def test_the_angle_of_positions_is_found_by_either_name(dev: Path, tmp_path: Path) -> None:
    """Of what transformers 5 writes, and of what older ones do."""
    folder = Path(shutil.copytree(dev / "text_encoder", tmp_path / "text_encoder"))
    told = json.loads((folder / "config.json").read_text())
    for text in ({"rope_theta": 7.0}, {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}):
        own = {key: value for key, value in told["text_config"].items() if not key.startswith("rope")}
        (folder / "config.json").write_text(json.dumps({**told, "text_config": {**own, **text}}))
        assert text_config(folder)["rope_theta"] == 7.0
