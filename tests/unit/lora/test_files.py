"""LoRA files: what is written, what comes back, what other programs' files mean, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.config import AdversarialStageConfig, LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA, LoRAError
from fluxduel.training.lora.files import file_metadata
from fluxduel.training.lora.sampling_advice import sampling_advice

PROVENANCE = (
    {"stage": "diffusion", "config": {"steps": 30}, "steps_done": 30, "data": "d1", "resolution": 512},
    {"stage": "adversarial", "config": {"steps": 7}, "steps_done": 5, "data": "d1"},
)
QKV = ("to_q", "to_k", "to_v")
SINGLE = "single_transformer_blocks.0"


def trained(reference: BaseReference, seed: int = 0, **options: object) -> FluxLoRA:
    options = {"rank": 3, "alpha": 1.1, "targets": "attention", "seed": 9} | options
    new = lora.create(reference, LoRAConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in new.tensors.items()}
    return FluxLoRA(reference, new.config, tensors, PROVENANCE)


def effect(down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """What a pair adds to a layer's output for five random inputs. Two pairs that agree on them are the same change."""
    inputs = torch.randn(down.shape[1], 5, generator=torch.Generator().manual_seed(7))
    return up @ (down @ inputs) * (alpha / down.shape[0])


def change(of: FluxLoRA, module: str) -> Tensor:
    """What the LoRA adds to a layer's output, as of ``effect``."""
    return effect(of.tensors[f"{module}.lora_A.weight"], of.tensors[f"{module}.lora_B.weight"], of.config.alpha)


def modules(of: FluxLoRA) -> set[str]:
    return {key.rpartition(".lora_")[0] for key in of.tensors}


def assert_same_change(got: FluxLoRA, expected: FluxLoRA) -> None:
    assert modules(got) == modules(expected)
    for module in modules(expected):
        torch.testing.assert_close(change(got, module), change(expected, module), rtol=1e-5, atol=1e-4)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def test_keys_of_the_diffusers_format(narrow: BaseReference) -> None:
    some = trained(narrow)
    tensors = lora.file_tensors(some)
    assert len(tensors) == 3 * len(modules(some))
    for module in modules(some):
        for part in (".lora_A.weight", ".lora_B.weight"):
            assert torch.equal(tensors[f"transformer.{module}{part}"], some.tensors[module + part])
        assert tensors[f"transformer.{module}.alpha"].item() == pytest.approx(1.1)


@pytest.mark.parametrize("targets", ["attention", "attention+mlp", "all"])
def test_a_fused_layer_of_the_kohya_format_changes_as_its_parts_do(narrow: BaseReference, targets: str) -> None:
    some = trained(narrow, targets=targets)
    tensors = lora.file_tensors(some, "kohya")

    def fused(layer: str) -> Tensor:
        key = f"lora_unet_{layer}"
        return effect(
            tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"], tensors[f"{key}.alpha"].item()
        )

    def part(module: str, rows: int = 32) -> Tensor:
        return change(some, module) if module in modules(some) else torch.zeros(rows, 5)

    for layer, names in [
        ("img_attn_qkv", QKV),
        ("txt_attn_qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
    ]:
        expected = torch.cat([part(f"transformer_blocks.1.attn.{name}") for name in names])
        torch.testing.assert_close(fused(f"double_blocks_1_{layer}"), expected, rtol=1e-5, atol=1e-5)
    expected = torch.cat([part(f"{SINGLE}.attn.{name}") for name in QKV] + [part(f"{SINGLE}.proj_mlp", 128)])
    torch.testing.assert_close(fused("single_blocks_0_linear1"), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused("double_blocks_0_txt_attn_proj"), part("transformer_blocks.0.attn.to_add_out"))


REGEXES = [
    r".*\.attn\.to_k",
    r"single_transformer_blocks\.1\.(proj_mlp|attn\.to_v)",
    r"proj_out|norm_out\.linear|.*embed.*",
]


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
@pytest.mark.parametrize("targets", ["attention", "attention+mlp", "all", *REGEXES])
def test_own_files_come_back_bit_for_bit(narrow: BaseReference, tmp_path: Path, format: str, targets: str) -> None:
    options = {"targets": "regex", "target_regex": targets} if targets in REGEXES else {"targets": targets}
    some = trained(narrow, **options)
    back = lora.load_file(lora.save(some, tmp_path / "file.safetensors", format), narrow)
    assert (back.config, back.provenance, back.base) == (some.config, some.provenance, narrow)
    assert (some.file, back.file) == ("", "file")
    assert list(back.tensors) == list(some.tensors)
    assert all(torch.equal(back.tensors[key], tensor) for key, tensor in some.tensors.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_own_files_of_half_precision_come_back_rounded(
    narrow: BaseReference, tmp_path: Path, dtype: torch.dtype
) -> None:
    some = trained(narrow)
    back = lora.load_file(lora.save(some, tmp_path / "file.safetensors", "kohya", dtype), narrow)
    assert back.config == some.config
    assert all(torch.equal(back.tensors[key], tensor.to(dtype).float()) for key, tensor in some.tensors.items())


def test_metadata(narrow: BaseReference, tmp_path: Path) -> None:
    some = trained(narrow)
    _, metadata = read(lora.save(some, tmp_path / "my style.safetensors"))
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.architecture"] == "flux-1-dev/lora"
    assert metadata["modelspec.title"] == metadata["ss_output_name"] == "my style"
    assert metadata["modelspec.resolution"] == "512x512"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("3", "1.1")
    assert metadata["ss_base_model_version"] == "flux1"
    assert metadata["ss_steps"] == "35"
    own = json.loads(metadata["fluxduel"])
    assert LoRAConfig(**own["lora_config"]) == some.config
    assert tuple(own["provenance"]) == PROVENANCE
    assert own["base"] == {"name": Path(narrow.path).name, "fingerprint": narrow.fingerprint()}


@pytest.mark.parametrize(
    ("config", "phrase", "hint", "trigger"),
    [
        ({"target_steps": 1}, "", "Sample with 1 step, ", None),
        ({"target_steps": 25, "target": "jump"}, "", "Sample with 25 steps, ", None),
        # A phrase that the data has, and that this stage did not train with, triggers nothing.
        ({"target_steps": 4, "target": "x0"}, "quick draft", "Sample with 4 steps, ", None),
        (
            {"target_steps": 4, "target": "two_samplers"},
            "quick draft",
            "With 4 steps: begin the prompt with 'quick draft, '. With 25 steps or so: leave that out.",
            "quick draft",
        ),
        (
            {"target_steps": 25, "target": "two_samplers", "few_step_guidance": 7.5},
            "quick draft",
            "With 8 steps: set guidance to 7.5. With 25 steps or so: use the guidance you are used to.",
            None,
        ),
    ],
)
def test_metadata_says_how_to_sample(
    narrow: BaseReference, config: dict[str, object], phrase: str, hint: str, trigger: str | None
) -> None:
    stage_2 = AdversarialStageConfig(**config)
    last = {"stage": "adversarial", "config": dataclasses.asdict(stage_2), "few_step_phrase": phrase}
    some = dataclasses.replace(trained(narrow), provenance=(PROVENANCE[0], last))
    metadata = file_metadata(some, "title")
    said = metadata["modelspec.usage_hint"]
    at = " It was trained at a resolution of 512."
    assert said == sampling_advice(stage_2, narrow.config, phrase) + at and said.startswith(hint)
    assert "sampler euler, scheduler simple, strength 1.0" in said and FLUX1.schedule_advice in said
    assert metadata.get("modelspec.trigger_phrase") == trigger


@pytest.mark.parametrize(
    "provenance",
    [
        (),
        PROVENANCE,
        (*PROVENANCE, PROVENANCE[0]),
        ({"stage": "adversarial"},),
        ({"stage": "adversarial", "config": {"target_steps": 4, "target": "three", "few_step_guidance": 0.0}},),
    ],
    ids=["untrained", "an older version", "stage 1 last", "no config", "a newer version"],
)
def test_a_lora_that_does_not_say_how_to_sample_can_be_saved(
    narrow: BaseReference, tmp_path: Path, provenance: tuple[dict[str, object], ...]
) -> None:
    some = dataclasses.replace(trained(narrow), provenance=provenance)
    _, metadata = read(lora.save(some, tmp_path / "file.safetensors"))
    assert not {"modelspec.usage_hint", "modelspec.trigger_phrase"} & metadata.keys()
    assert tuple(json.loads(metadata["fluxduel"])["provenance"]) == provenance


def test_options_that_only_a_newer_version_knows_do_not_hide_the_advice(narrow: BaseReference) -> None:
    config = dataclasses.asdict(AdversarialStageConfig(target_steps=6)) | {"unheard_of": 1}
    some = dataclasses.replace(trained(narrow), provenance=({"stage": "adversarial", "config": config},))
    assert file_metadata(some, "title")["modelspec.usage_hint"].startswith("Sample with 6 steps, sampler euler, ")


def test_metadata_of_stage_1_say_that_any_sampler_will_do(narrow: BaseReference) -> None:
    some = dataclasses.replace(trained(narrow), provenance=(PROVENANCE[0],))
    assert "any sampler" in file_metadata(some, "title")["modelspec.usage_hint"]


def test_metadata_can_be_left_out(narrow: BaseReference, tmp_path: Path) -> None:
    some = trained(narrow, alpha=1.5)
    path = lora.save(some, tmp_path / "file.safetensors", metadata=False)
    assert read(path)[1] == {"format": "pt"}
    back = lora.load_file(path, narrow)
    assert (back.config, back.provenance) == (dataclasses.replace(some.config, seed=0), ())
    assert all(torch.equal(back.tensors[key], tensor) for key, tensor in some.tensors.items())


def test_a_lora_outlives_its_base(narrow: BaseReference, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(narrow.path, tmp_path / "base"))
    some = trained(BaseReference(str(folder)))
    shutil.rmtree(folder)
    back = lora.load_file(lora.save(some, tmp_path / "file.safetensors"), narrow)
    assert back.config == some.config


def test_another_base_is_told(narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(narrow.path, tmp_path / "other base"))
    save_file({"unused": torch.ones(1)}, folder / "weights.safetensors")
    path = lora.save(trained(narrow), tmp_path / "file.safetensors")
    assert lora.load_file(path, BaseReference(str(folder))).config.seed == 9
    assert f"another base ({Path(narrow.path).name}), not on other base" in caplog.text


def test_a_file_that_another_program_changed_is_read_for_what_it_holds(
    narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = trained(narrow, alpha=3.0)
    tensors, metadata = read(lora.save(some, tmp_path / "file.safetensors"))
    changed = {key: t * 2 if key.endswith("alpha") else t for key, t in tensors.items()}
    save_file(changed, tmp_path / "changed.safetensors", metadata)
    back = lora.load_file(tmp_path / "changed.safetensors", narrow)
    assert "was changed by another program" in caplog.text
    assert (back.config.alpha, back.provenance) == (6.0, ())


def underscored(key: str) -> str:
    """``a.b.lora_A.weight`` as ``a_b.lora_down.weight``."""
    name, mark, part = key.partition(".lora_")
    return f"{name.replace('.', '_')}.lora_" + part.replace("A.", "down.").replace("B.", "up.")


SPELLINGS: dict[str, Callable[[str], str]] = {
    "diffusers": lambda key: f"transformer.{key}",
    "bare": lambda key: key,
    "peft": lambda key: f"base_model.model.{key}",
    "peft with the adapter's name": lambda key: f"base_model.model.{key.replace('.weight', '.default.weight')}",
    "down and up": lambda key: f"transformer.{key.replace('lora_A', 'lora_down').replace('lora_B', 'lora_up')}",
    "underscores": lambda key: "lora_transformer_" + underscored(key),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_files_in_diffusers_names(narrow: BaseReference, tmp_path: Path, spelling: str, alpha: float | None) -> None:
    some = trained(narrow, alpha=alpha or 3.0, targets="attention+mlp")
    tensors = {SPELLINGS[spelling](key): tensor for key, tensor in some.tensors.items()}
    if alpha is not None:
        for key in [key for key in tensors if ".lora_A" in key or ".lora_down" in key]:
            tensors[key[: key.index(".lora_")] + ".alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "file.safetensors")
    back = lora.load_file(tmp_path / "file.safetensors", narrow)
    assert back.config == dataclasses.replace(some.config, seed=0) and back.file == "file"
    assert all(torch.equal(back.tensors[key], tensor) for key, tensor in some.tensors.items())


def test_alpha_in_diffusers_metadata(narrow: BaseReference, tmp_path: Path) -> None:
    some = trained(narrow, alpha=1.5)
    tensors = {f"transformer.{key}": tensor for key, tensor in some.tensors.items()}
    record = {"transformer.r": 3, "transformer.lora_alpha": 1.5, "transformer.use_rslora": False}
    path = tmp_path / "file.safetensors"
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(record)})
    assert lora.load_file(path, narrow).config.alpha == 1.5


def test_different_alphas_go_into_the_weights(narrow: BaseReference, tmp_path: Path) -> None:
    some = trained(narrow, alpha=3.0)
    tensors = lora.file_tensors(some)
    odd = "transformer_blocks.1.attn.to_k"
    tensors[f"transformer.{odd}.alpha"] = torch.tensor(0.5)
    save_file(tensors, tmp_path / "file.safetensors")
    back = lora.load_file(tmp_path / "file.safetensors", narrow)
    assert back.config.alpha == 3.0
    torch.testing.assert_close(change(back, odd), change(some, odd) / 6)
    torch.testing.assert_close(change(back, f"{SINGLE}.attn.to_q"), change(some, f"{SINGLE}.attn.to_q"))


def bfl_tensors(rank: int = 4) -> dict[str, Tensor]:
    """One double and one single block as kohya and ComfyUI name them: a low-rank pair for each fused layer."""
    sizes = {
        "double_blocks.0.img_attn.qkv": (3072, 9216),
        "double_blocks.0.txt_attn.qkv": (3072, 9216),
        "double_blocks.0.img_attn.proj": (3072, 3072),
        "double_blocks.0.txt_attn.proj": (3072, 3072),
        "double_blocks.0.img_mlp.0": (3072, 12288),
        "double_blocks.0.img_mlp.2": (12288, 3072),
        "double_blocks.0.txt_mlp.0": (3072, 12288),
        "double_blocks.0.txt_mlp.2": (12288, 3072),
        "single_blocks.0.linear1": (3072, 21504),
        "single_blocks.0.linear2": (15360, 3072),
    }
    generator = torch.Generator().manual_seed(0)
    return {
        f"{name}{part}": torch.randn(shape, generator=generator)
        for name, (size_in, size_out) in sizes.items()
        for part, shape in ((".lora_A.weight", (rank, size_in)), (".lora_B.weight", (size_out, rank)))
    }


@pytest.mark.parametrize(
    "spelling",
    [lambda key: f"lora_unet_{underscored(key)}", "diffusion_model.{}".format, "base_model.model.{}".format],
    ids=["kohya", "comfyui", "peft"],
)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_files_in_black_forest_labs_names(
    wide: BaseReference, tmp_path: Path, spelling: Callable[[str], str], alpha: float | None
) -> None:
    theirs = bfl_tensors()
    tensors = {spelling(key): tensor for key, tensor in theirs.items()}
    if alpha is not None:
        tensors |= {f"{key.partition('.lora_')[0]}.alpha": torch.tensor(alpha) for key in list(tensors)}
    save_file(tensors, tmp_path / "file.safetensors")
    back = lora.load_file(tmp_path / "file.safetensors", wide)
    assert (back.config.rank, back.config.alpha, back.config.targets) == (4, alpha or 4.0, "attention+mlp")

    def expected(layer: str, first: int = 0, last: int | None = None) -> Tensor:
        return effect(theirs[f"{layer}.lora_A.weight"], theirs[f"{layer}.lora_B.weight"][first:last], alpha or 4.0)

    for module, want in [
        ("transformer_blocks.0.attn.to_k", expected("double_blocks.0.img_attn.qkv", 3072, 6144)),
        ("transformer_blocks.0.attn.add_v_proj", expected("double_blocks.0.txt_attn.qkv", 6144)),
        ("transformer_blocks.0.ff_context.net.0.proj", expected("double_blocks.0.txt_mlp.0")),
        (f"{SINGLE}.attn.to_q", expected("single_blocks.0.linear1", 0, 3072)),
        (f"{SINGLE}.proj_mlp", expected("single_blocks.0.linear1", 9216)),
        (f"{SINGLE}.proj_out", expected("single_blocks.0.linear2")),
    ]:
        torch.testing.assert_close(change(back, module), want)


@pytest.mark.parametrize("expression", [".*", r".*\.attn\.to_k|single_transformer_blocks\.0\.proj_mlp"])
def test_diffusers_reads_our_fused_layers_as_their_parts(wide: BaseReference, tmp_path: Path, expression: str) -> None:
    """Without our metadata the parts come back through diffusers: each of its own rank, the empty ones left out."""
    some = trained(wide, rank=2, alpha=0.5, targets="regex", target_regex=expression)
    back = lora.load_file(lora.save(some, tmp_path / "file.safetensors", "kohya", metadata=False), wide)
    assert (back.config.rank, back.config.alpha) == (2, 0.5)
    assert_same_change(back, some)


def test_xlabs_files(wide: BaseReference, tmp_path: Path) -> None:
    qkv = {"down": torch.randn(4, 3072), "up": torch.randn(9216, 4)}
    proj = {"down": torch.randn(4, 3072), "up": torch.randn(3072, 4)}
    tensors = {f"double_blocks.0.processor.qkv_lora1.{part}.weight": tensor for part, tensor in qkv.items()}
    tensors |= {f"double_blocks.0.processor.proj_lora2.{part}.weight": tensor for part, tensor in proj.items()}
    save_file(tensors, tmp_path / "file.safetensors")
    back = lora.load_file(tmp_path / "file.safetensors", wide)
    value = effect(qkv["down"], qkv["up"][6144:], 4.0)
    torch.testing.assert_close(change(back, "transformer_blocks.0.attn.to_v"), value)
    out = effect(proj["down"], proj["up"], 4.0)
    torch.testing.assert_close(change(back, "transformer_blocks.0.attn.to_add_out"), out)
    assert back.config.targets == "regex"
    assert modules(lora.create(wide, back.config)) == modules(back)


def test_text_encoder_keys_are_left_out_and_told(
    narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = trained(narrow, alpha=3.0)
    text = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    tensors = lora.file_tensors(some) | {f"{text}.lora_down.weight": torch.ones(3, 8), f"{text}.alpha": torch.ones(())}
    save_file(tensors, tmp_path / "file.safetensors")
    back = lora.load_file(tmp_path / "file.safetensors", narrow)
    assert "2 keys of a text encoder" in caplog.text
    assert back.tensors.keys() == some.tensors.keys()


TO_Q, TO_K = "transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_k"


def pair(module: str, down: tuple[int, ...] = (2, 32), up: tuple[int, ...] = (32, 2)) -> dict[str, Tensor]:
    return {f"{module}.lora_A.weight": torch.ones(down), f"{module}.lora_B.weight": torch.ones(up)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"double_blocks.0.img_attn.qkv.weight": torch.ones(2, 2)}, ["no LoRA keys", "img_attn.qkv.weight"]),
        ({"model.diffusion_model.img_in.weight": torch.ones(2, 2)}, ["no LoRA keys"]),
        (
            {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2)},
            ["no LoRA keys for the transformer"],
        ),
        ({"lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight": torch.ones(2, 2)}, ["Stable Diffusion"]),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lokr_w1": torch.ones(2, 2)}, ["lokr_w1 only", "lokr_w2_a"]),
        ({"lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a": torch.ones(2, 2)}, ["hada_w1_a only", "hada_w1_b"]),
        (pair(TO_Q) | {f"{TO_Q}.dora_scale": torch.ones(32)}, ["DoRA"]),
        (pair(TO_Q) | {f"{TO_Q}.lora_magnitude_vector": torch.ones(32)}, ["DoRA"]),
        (pair(TO_Q) | {f"{TO_K}.diff": torch.ones(32, 32)}, ["whole difference of weights", f"{TO_K}.diff"]),
        (pair(TO_Q) | {f"{TO_Q}.lora_B.bias": torch.ones(32)}, ["a LoRA with biases", f"{TO_Q}.lora_B.bias"]),
        (pair(TO_Q) | {f"{TO_Q}.oft_blocks": torch.ones(2, 2)}, ["OFT", "oft_blocks"]),
        (pair(TO_Q) | {f"{TO_Q}.surprise": torch.ones(32)}, [f"{TO_Q}.surprise"]),
        ({f"{TO_Q}.lora_A.weight": torch.ones(2, 32)}, [TO_Q, "only"]),
        (pair(TO_Q, down=(2, 32, 3, 3)), [TO_Q, "(2, 32, 3, 3)"]),
        (pair(TO_Q, down=(2, 3072)), ["attn.to_q", "3072 -> 32", "32 -> 32", "another model"]),
        (pair("transformer.transformer_blocks.5.attn.to_q"), ["transformer_blocks.5.attn.to_q", "another model"]),
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", up=(9216, 2)), ["img_attn.qkv", "9216", "96"]),
        (pair("diffusion_model.double_stream_modulation_img.lin"), ["double_stream_modulation_img", "FLUX.2"]),
        (pair(TO_Q) | pair("lora_transformer_transformer_blocks_0_attn_to_q"), ["twice"]),
        ({**pair(TO_Q), f"{TO_Q}.lora_A.weight": torch.full((2, 32), torch.nan)}, ["NaN", TO_Q]),
        ({key: tensor * 0 for key, tensor in pair(TO_Q).items()}, ["zero"]),
        (pair(TO_Q, (2000, 32), (32, 2000)), ["rank", "1024"]),
    ],
)  # fmt: skip
def test_files_that_cannot_be_continued_are_refused(
    narrow: BaseReference, tmp_path: Path, tensors: dict[str, Tensor], words: list[str]
) -> None:
    path = tmp_path / "file.safetensors"
    save_file(tensors, path)
    with pytest.raises(LoRAError) as caught:
        lora.load_file(path, narrow)
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_is_no_safetensors_file_is_refused(narrow: BaseReference, tmp_path: Path) -> None:
    text = tmp_path / "page.safetensors"
    text.write_text("<html>404</html>")
    cut = lora.save(trained(narrow), tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-10])
    absent = tmp_path / "absent.safetensors"
    for path, words in [(text, "read as safetensors"), (cut, "read as safetensors"), (absent, "no LoRA file")]:
        with pytest.raises(LoRAError, match=words) as caught:
            lora.load_file(path, narrow)
        assert path.name in str(caught.value)


def test_overflow_and_nan_are_refused_and_the_old_file_stays(narrow: BaseReference, tmp_path: Path) -> None:
    some = trained(narrow)
    path = lora.save(some, tmp_path / "file.safetensors")
    before = path.read_bytes()
    key = "transformer_blocks.0.attn.to_q.lora_B.weight"
    for value, dtype, words in [(7e4, torch.float16, "too large"), (torch.nan, torch.float32, "NaN")]:
        broken = dataclasses.replace(some, tensors={**some.tensors, key: torch.full((32, 3), value)})
        for format in ("diffusers", "kohya"):
            with pytest.raises(LoRAError, match=words):
                lora.save(broken, path, format, dtype)
    assert path.read_bytes() == before
    large = dataclasses.replace(some, tensors={**some.tensors, key: torch.full((32, 3), 7e4)})
    lora.save(large, path, dtype=torch.bfloat16)


def test_names_and_permissions(narrow: BaseReference, tmp_path: Path) -> None:
    path = lora.save(trained(narrow), tmp_path / "new folder" / "version 1.5")
    assert path == tmp_path / "new folder" / "version 1.5.safetensors"
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    with pytest.raises(ValueError, match="format"):
        lora.file_tensors(trained(narrow), "lycoris")


def test_a_file_is_replaced_as_a_whole(narrow: BaseReference, tmp_path: Path) -> None:
    """Whoever has the old file open goes on reading the old file, not a half-written new one."""
    path = lora.save(trained(narrow), tmp_path / "file.safetensors")
    before = path.read_bytes()
    with open(path, "rb") as reader:
        lora.save(trained(narrow, seed=1), path)
        assert reader.read() == before
    assert path.read_bytes() != before


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A disk of 512 KiB at ``folder``; skips the test where this process may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def size_limit(folder: Path) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("disk", [full_disk, size_limit])
def test_a_full_disk(narrow: BaseReference, tmp_path: Path, disk: Callable) -> None:
    small, large = trained(narrow), trained(narrow, rank=96)
    with disk(tmp_path):
        path = lora.save(small, tmp_path / "file.safetensors")
        before = path.read_bytes()
        with pytest.raises(LoRAError, match="the disk is full|larger than this disk") as caught:
            lora.save(large, path)
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to(narrow: BaseReference, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    some = trained(narrow)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may write anywhere
    try:
        with pytest.raises(LoRAError, match="could not be written to .*: the system does not permit it"):
            lora.save(some, folder / "file.safetensors", metadata=False)
    finally:
        if root:
            os.seteuid(0)
    assert list(folder.iterdir()) == []
