"""Encoders of a headless run, from small random ones on disk, beside the same computed by hand."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.tests.device import DEVICE
from fluxduel.tests.engine.flux_encoders import make_folder
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.config import TINY_BASE, EncodersConfig
from fluxduel.training.data import text_readers, visiting_blocks
from fluxduel.training.data.encoder_files import EncodersError
from fluxduel.training.data.encoders import Encoders, load_encoders

BASE = "flux1-dev.safetensors"
START, END = 49406, 49407


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("encoders") / "flux")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of its own for a test that changes it."""
    return Path(shutil.copytree(original, tmp_path / "flux"))


def flux(folder: Path, **options: object) -> Encoders:
    return load_encoders(EncodersConfig(folder=str(folder), **options), BASE, "cpu")


def cats(count: int) -> str:
    return " ".join(["cat"] * count)


def pixels(height: int, width: int) -> Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(5))


def test_tiny_pictures_survive_the_way_there_and_back() -> None:
    encoders = load_encoders(EncodersConfig(), TINY_BASE, "cpu")
    ramp = torch.linspace(0, 1, 64)
    picture = torch.stack([ramp[None].expand(64, 64), ramp[:, None].expand(64, 64), torch.full((64, 64), 0.5)], dim=-1)
    mean, std = encoders.encode_image(picture[None])
    assert mean.shape == (1, 16, 8, 8) and std is None
    again = encoders.decode(FLUX_1.normalise(mean))
    assert again.shape == (1, 64, 64, 3)
    assert (again[0] - picture).abs().mean() < 0.03
    assert encoders.decode(torch.cat([FLUX_1.normalise(mean)] * 3)).shape == (3, 64, 64, 3)


def test_the_tiny_base_has_its_own_encoders_whatever_the_options_say(tmp_path: Path) -> None:
    encoders = load_encoders(EncodersConfig(folder=str(tmp_path / "nowhere")), TINY_BASE, "cpu")
    embeds, pooled = encoders.encode_prompt("a cat")
    assert embeds.shape == (16, 128) and pooled.shape == (64,)
    assert not embeds.requires_grad and not embeds.is_inference()


def test_captions_are_read_by_t5_and_clip_over_padding_and_without_a_mask(original: Path) -> None:
    from transformers import CLIPTextModel, T5EncoderModel

    embeds, pooled = flux(original, precision="fp32").encode_prompt("a small cat")
    t5 = T5EncoderModel.from_pretrained(original / "text_encoder_2").eval()
    # The words' places in flux_encoders.WORDS, behind <pad>, </s>, <unk> and the lone space.
    ids = torch.tensor([[4, 5, 7, 1] + [0] * 252])
    clip = CLIPTextModel.from_pretrained(original / "text_encoder").eval()
    vocabulary = json.loads((original / "tokenizer" / "vocab.json").read_text())
    words = [vocabulary[f"{word}</w>"] for word in ("a", "small", "cat")]
    clip_ids = torch.tensor([[START, *words, END, *[END] * 72]])
    with torch.no_grad():
        expected = t5(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        hidden = clip(input_ids=clip_ids).last_hidden_state[0]
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, hidden[4], atol=1e-5, rtol=1e-5)
    assert (hidden[4] - hidden[5]).abs().max() > 0.1, "the first end token must be told from the padding"


def test_a_caption_is_as_long_as_it_needs_from_256_tokens_on(original: Path) -> None:
    encoders = flux(original)
    assert encoders.encode_prompt("")[0].shape == (256, 24)
    assert encoders.encode_prompt(cats(255))[0].shape == (256, 24)
    assert encoders.encode_prompt(cats(300))[0].shape == (301, 24)


def test_a_caption_over_max_tokens_is_cut_and_a_warning_says_so(
    original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoders = flux(original, max_tokens=260)
    with caplog.at_level(logging.WARNING):
        long, _ = encoders.encode_prompt(cats(300))
        exact, _ = encoders.encode_prompt(cats(259))
    assert long.shape == (260, 24) and long.equal(exact), "the end token must stay"
    warnings = [record.getMessage() for record in caplog.records if record.name == text_readers.__name__]
    assert len(warnings) == 1 and "301 tokens" in warnings[0] and "max_tokens = 260" in warnings[0]
    assert flux(original, max_tokens=32).encode_prompt("a cat")[0].shape == (32, 24)


def test_clip_reads_the_first_77_tokens(original: Path) -> None:
    encoders = flux(original)
    _, long = encoders.encode_prompt(cats(300))
    _, exact = encoders.encode_prompt(cats(75))
    _, shorter = encoders.encode_prompt(cats(74))
    assert long.equal(exact) and not long.equal(shorter)


def test_bf16_is_how_t5_is_kept_and_not_how_it_computes(folder: Path) -> None:
    exact = flux(folder, precision="fp32").encode_prompt("a small red cat")[0]
    encoders = flux(folder, precision="bf16")
    # The weights on disk are such that bf16 can hold them.
    torch.testing.assert_close(encoders.encode_prompt("a small red cat")[0], exact, atol=1e-6, rtol=0)
    kept = {weight.dtype for weight in encoders._readers._t5.encoder.block.parameters()}
    assert kept == {torch.bfloat16}
    file = folder / "text_encoder_2" / "model.safetensors"
    weights = load_file(file)
    save_file({name: weight * 1.001 for name, weight in weights.items()}, file)
    rounded = flux(folder, precision="bf16").encode_prompt("a small red cat")[0]
    assert not torch.allclose(rounded, flux(folder, precision="fp32").encode_prompt("a small red cat")[0], atol=1e-5)


def test_one_block_of_t5_at_a_time_is_where_it_computes(original: Path) -> None:
    """On the meta device, where weights have a place and no values: all else of T5 stays in ordinary memory."""
    from transformers import T5EncoderModel

    t5 = T5EncoderModel.from_pretrained(original / "text_encoder_2", torch_dtype=torch.bfloat16).eval()
    meta = torch.device("meta")
    text_readers.compute_by_blocks(t5, meta)
    there: list[set[int]] = []

    def look(module: torch.nn.Module, _: object) -> None:
        moved = [weight for weight in module.parameters() if weight.device == meta]
        assert all(weight.dtype == torch.float32 for weight in moved)
        there.append({id(weight) for weight in moved})

    for number, visitor in enumerate(t5.encoder.block):
        visitor.block.register_forward_pre_hook(look)
        assert {weight.device.type for weight in visitor.parameters()} == {"cpu"}, f"block {number}"
    embeds = t5(inputs_embeds=torch.zeros(1, 256, 24, device=meta)).last_hidden_state
    assert (embeds.device, embeds.dtype, embeds.shape) == (meta, torch.float32, (1, 256, 24))
    assert len(there) == len(t5.encoder.block) == 2 and all(there)
    still = {name for name, weight in t5.named_parameters() if weight.device == meta}
    assert still == {"encoder.final_layer_norm.weight"}


def test_t5_lies_on_the_card_where_there_is_room_and_encodes_the_same(
    original: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One byte too little, and it does not. Values are told where the tests train, places on meta too."""
    from transformers import T5EncoderModel

    found = []
    for device in (torch.device("meta"), torch.device(DEVICE)):
        words = torch.randn(1, 256, 24, generator=torch.Generator().manual_seed(0)).to(device)
        for short in (0, 1):
            t5 = T5EncoderModel.from_pretrained(original / "text_encoder_2", torch_dtype=torch.bfloat16).eval()
            size = sum(weight.nbytes for weight in t5.encoder.block.parameters())
            text_readers.compute_by_blocks(t5, device)
            caplog.clear()
            visiting_blocks.keep_on_card(t5.encoder.block, "T5", device, size + visiting_blocks.WORKING - short)
            there = {weight.device.type for weight in t5.encoder.block.parameters()}
            assert there == {"cpu" if short else device.type}
            assert {weight.dtype for weight in t5.encoder.block.parameters()} == {torch.bfloat16}
            told = [record.getMessage() for record in caplog.records if record.name == visiting_blocks.__name__]
            assert len(told) == short and all("block by block" in line and "2.1 GB are free" in line for line in told)
            with torch.no_grad():
                found.append(t5(inputs_embeds=words).last_hidden_state)
    assert torch.equal(*found[2:]) and found[0].is_meta


def test_a_machine_without_a_card_says_nothing_of_it(original: Path, caplog: pytest.LogCaptureFixture) -> None:
    flux(original).encode_prompt("a cat")
    assert not [record for record in caplog.records if "ordinary memory" in record.getMessage()]


def test_the_posterior_is_the_vaes_own_and_raw(original: Path) -> None:
    mean, std = flux(original).encode_image(pixels(32, 48))
    vae = AutoencoderKL.from_pretrained(original / "vae").eval()
    with torch.no_grad():
        moments = vae.encoder(pixels(32, 48).permute(0, 3, 1, 2) * 2 - 1)
    assert std is not None
    torch.testing.assert_close(mean, moments[:, :16], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std, (moments[:, 16:] / 2).exp(), atol=1e-5, rtol=1e-5)
    assert mean.shape == (1, 16, 4, 6) and std.std() > 0.01


def test_odd_sides_lose_what_is_over_half_at_each_end(original: Path) -> None:
    encoders = flux(original)
    whole = pixels(38, 53)
    assert encoders.encode_image(whole)[0].equal(encoders.encode_image(whole[:, 3:35, 2:50])[0])


def test_latents_become_pictures_one_by_one(original: Path) -> None:
    latents = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    pictures = flux(original).decode(latents)
    vae = AutoencoderKL.from_pretrained(original / "vae").eval()
    with torch.no_grad():
        expected = vae.decode(latents / 0.3611 + 0.1159).sample.permute(0, 2, 3, 1) / 2 + 0.5
    assert pictures.shape == (3, 32, 48, 3)
    torch.testing.assert_close(pictures, expected.clamp(0, 1), atol=1e-4, rtol=0)
    assert pictures.std() > 0.01


@pytest.mark.parametrize("checkpoint", [BASE, TINY_BASE])
def test_latents_of_another_kind_are_refused(original: Path, checkpoint: str) -> None:
    encoders = load_encoders(EncodersConfig(folder=str(original)), checkpoint, "cpu")
    with pytest.raises(ValueError, match=r"got \(1, 4, 8, 8\)"):
        encoders.decode(torch.zeros(1, 4, 8, 8))


def test_nothing_is_read_before_it_is_needed(folder: Path) -> None:
    for part in ("text_encoder", "text_encoder_2"):
        (folder / part / "model.safetensors").write_bytes(b"no weights at all")
    encoders = flux(folder)
    assert encoders.text_key and encoders.vae_key
    encoders.encode_image(pixels(16, 16))
    with pytest.raises(EncodersError, match="encoders.folder: .*text_encoder could not be loaded as a CLIPTextModel"):
        encoders.encode_prompt("a cat")


def test_text_encoders_go_before_the_vae_comes_and_come_back_when_needed(original: Path) -> None:
    encoders = flux(original)
    before = encoders.encode_prompt("a small red cat")
    t5 = weakref.ref(encoders._readers._t5)
    image = encoders.encode_image(pixels(16, 16))
    gc.collect()
    assert t5() is None
    vae = weakref.ref(encoders._vae)
    assert encoders.encode_prompt("a small red cat")[0].equal(before[0])
    encoders.free()
    gc.collect()
    assert vae() is None
    assert encoders.encode_image(pixels(16, 16))[0].equal(image[0])


def test_keys_follow_what_shapes_the_encodings(folder: Path, tmp_path: Path) -> None:
    first = flux(folder)
    text, vae = first.text_key, first.vae_key
    moved = flux(Path(shutil.copytree(folder, tmp_path / "elsewhere")))
    assert (moved.text_key, moved.vae_key) == (text, vae)
    assert flux(folder, precision="fp32").text_key != text
    assert flux(folder, max_tokens=300).text_key != text
    found = {text}
    for part, name in (("text_encoder", "model"), ("text_encoder_2", "model")):
        file = folder / part / f"{name}.safetensors"
        save_file({key: weight + 0.5 for key, weight in load_file(file).items()}, file)
        found.add(flux(folder).text_key)
    tokenizer = folder / "tokenizer" / "merges.txt"
    tokenizer.write_text(tokenizer.read_text() + "q q\n")
    found.add(flux(folder).text_key)
    assert len(found) == 4 and flux(folder).vae_key == vae
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: weight + 0.5 for key, weight in load_file(file).items()}, file)
    assert flux(folder).vae_key != vae


def test_a_base_in_diffusers_layout_brings_its_encoders(folder: Path) -> None:
    (folder / "transformer").mkdir()
    expected = flux(folder).text_key
    for checkpoint in (folder, folder / "transformer"):
        assert load_encoders(EncodersConfig(), str(checkpoint), "cpu").text_key == expected


@pytest.mark.parametrize("checkpoint", [BASE, "/nowhere/flux.safetensors"])
def test_without_a_folder_the_option_is_named(checkpoint: str) -> None:
    with pytest.raises(EncodersError, match="Set encoders.folder"):
        load_encoders(EncodersConfig(), checkpoint, "cpu")
    with pytest.raises(EncodersError, match="encoders.folder: .*nowhere is no folder"):
        load_encoders(EncodersConfig(folder="nowhere"), checkpoint, "cpu")


@pytest.mark.parametrize(
    "gone, named",
    [
        ("vae/diffusion_pytorch_model.safetensors", "vae lacks a .safetensors file.*encoders.vae"),
        ("vae/config.json", "vae lacks config.json.*encoders.vae"),
        ("text_encoder/model.safetensors", "text_encoder lacks a .safetensors file"),
        ("text_encoder_2/config.json", "text_encoder_2 lacks config.json"),
        ("tokenizer/merges.txt", "tokenizer holds no tokenizer.*vocab.json and merges.txt"),
        ("tokenizer_2/tokenizer.json", "tokenizer_2 holds no tokenizer.*spiece.model"),
        ("tokenizer_2", "tokenizer_2 holds no tokenizer"),
        ("text_encoder_2", "text_encoder_2 lacks a .safetensors file"),
    ],
)
def test_what_is_missing_is_found_out_at_once(folder: Path, gone: str, named: str) -> None:
    path = folder / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(EncodersError, match=f"encoders.folder: .*{named}"):
        flux(folder)


@pytest.mark.parametrize(
    "part, weight", [("text_encoder", "text_model.final_layer_norm.bias"), ("text_encoder_2", "shared.weight")]
)
def test_a_file_that_lacks_weights_is_refused(folder: Path, part: str, weight: str) -> None:
    file = folder / part / "model.safetensors"
    weights = load_file(file)
    del weights[weight]
    save_file(weights, file)
    with pytest.raises(EncodersError, match=f"{part} could not be loaded.*weights are missing"):
        flux(folder).encode_prompt("a cat")


def test_a_vae_folder_that_lacks_weights_is_refused(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["encoder.conv_out.bias"]
    save_file(weights, file)
    with pytest.raises(EncodersError, match="encoders.folder: .*vae could not be loaded as FLUX.1's VAE"):
        flux(folder).encode_image(pixels(16, 16))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"latent_channels": 4}, "latents of 4 channels, as Stable Diffusion 1.5's or SDXL's does"),
        ({"latent_channels": 7}, "latents of 7 channels; FLUX.1's makes latents of 16"),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, "scales latents by 1.5305, as Stable Diffusion 3's does"),
        ({"scaling_factor": 2.5}, "scales latents by 2.5, as another's does"),
        ({"_class_name": "AutoencoderKLQwenImage", "z_dim": 16, "latent_channels": None}, "is Qwen-Image's"),
        ({"_class_name": "AutoencoderKLWan", "z_dim": 16, "latent_channels": None}, "is Wan's"),
        ({"_class_name": "AutoencoderKLHunyuanVideo"}, "is HunyuanVideo's"),
    ],
)
def test_a_vae_of_another_model_is_refused(folder: Path, changes: dict[str, object], words: str) -> None:
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(EncodersError, match=f"encoders.folder: .*{words}.*encoders.vae to its ae.safetensors"):
        flux(folder)


@pytest.mark.parametrize("part, kind", [("text_encoder_2", "clip_text_model"), ("text_encoder", "qwen2_5_vl")])
def test_text_encoders_of_another_model_are_refused_at_once(folder: Path, part: str, kind: str) -> None:
    config = folder / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": kind}))
    with pytest.raises(EncodersError, match=f"encoders.folder: .*{part} holds a model of the kind {kind}; FLUX.1 has"):
        flux(folder)


def test_a_vae_without_a_word_about_its_scale_is_taken(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    told = json.loads(config.read_text())
    del told["scaling_factor"], told["shift_factor"]
    config.write_text(json.dumps(told))
    assert flux(folder).vae_key


@pytest.mark.parametrize(
    "key, words",
    [
        ("decoder.middle.0.residual.0.gamma", "is Wan's or Qwen-Image's"),
        ("decoder.conv_in.conv.weight", "is HunyuanVideo's"),
        ("bn.running_mean", "is FLUX.2's"),
    ],
)
def test_a_vae_file_of_another_model_is_refused(folder: Path, tmp_path: Path, key: str, words: str) -> None:
    file = tmp_path / "vae.safetensors"
    save_file({key: torch.zeros(16), "decoder.conv_in.weight": torch.zeros(512, 16, 3, 3)}, file)
    with pytest.raises(EncodersError, match=f"encoders.vae: .*vae.safetensors {words}"):
        flux(folder, vae=str(file))


def test_a_vae_file_that_is_none_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EncodersError, match="encoders.vae: .*ae.safetensors is no .safetensors file"):
        flux(folder, vae=str(tmp_path / "ae.safetensors"))
    shutil.rmtree(folder / "vae")
    foreign = tmp_path / "ae.safetensors"
    save_file({"some.weight": torch.zeros(3)}, foreign)
    with pytest.raises(EncodersError, match="encoders.vae: .*ae.safetensors could not be loaded as FLUX.1's VAE"):
        flux(folder, vae=str(foreign))
    save_file({"decoder.conv_in.weight": torch.zeros(512, 4, 3, 3)}, foreign)
    with pytest.raises(EncodersError, match="encoders.vae: .*ae.safetensors makes latents of 4 channels"):
        flux(folder, vae=str(foreign))
    foreign.write_bytes(b"half a download")
    with pytest.raises(EncodersError, match="encoders.vae: .*ae.safetensors could not be loaded as FLUX.1's VAE"):
        flux(folder, vae=str(foreign))


def test_a_vae_file_that_lacks_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "ae.safetensors"
    save_file({"decoder.conv_in.weight": torch.zeros(512, 16, 3, 3)}, file)
    with pytest.raises(EncodersError, match="encoders.vae: .*ae.safetensors could not be loaded as FLUX.1's VAE"):
        flux(folder, vae=str(file)).encode_image(pixels(16, 16))
