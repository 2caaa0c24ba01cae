"""What the inspector says of files whose contents are known."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.headless.inspect_command import describe, describe_json
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.config import (
    TINY_BASE,
    AdversarialStageConfig,
    DiffusionStageConfig,
    DiscriminatorConfig,
    LoRAConfig,
)
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA, LoRAError
from fluxduel.training.lora.sampling_advice import UNCHANGED
from fluxduel.training.stages import discriminator_files

PROVENANCE = (
    {"stage": "diffusion", "config": asdict(DiffusionStageConfig(steps=30)), "steps_done": 20, "data": "d"},
    {
        "stage": "adversarial",
        "config": asdict(AdversarialStageConfig(steps=7, target="two_samplers", learning_rate=3e-5)),
        "steps_done": 7,
        "data": "d",
        "discriminator": asdict(DiscriminatorConfig(loss="hinge")),
        "few_step_phrase": "quick",
    },
)
PAIRS = {
    "diffusers": ("transformer.", ".lora_A.weight", ".lora_B.weight"),
    "kohya": ("lora_unet_", ".lora_down.weight", ".lora_up.weight"),
    "diffusion_model": ("diffusion_model.", ".lora_A.weight", ".lora_B.weight"),
}


def trained(**options: Any) -> FluxLoRA:
    new = lora.create(
        BaseReference(TINY_BASE, "fp32"), LoRAConfig(**{"rank": 3, "alpha": 1.5, "targets": "all"} | options)
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in new.tensors.items()}
    return FluxLoRA(new.base, new.config, tensors, PROVENANCE)


def product_norm(of: FluxLoRA, names: list[str]) -> float:
    """By the products themselves."""
    total = 0.0
    for name in names:
        product = of.tensors[f"{name}.lora_B.weight"].double() @ of.tensors[f"{name}.lora_A.weight"].double()
        total += float((product * of.config.alpha / of.config.rank).square().sum())
    return total**0.5


def modules(of: FluxLoRA) -> list[str]:
    return sorted({key.rpartition(".lora_")[0] for key in of.tensors})


def foreign(path: Path, layers: dict[str, tuple[Tensor, Tensor, float | None]], style: str, **metadata: str) -> Path:
    prefix, down, up = PAIRS[style]
    tensors = {}
    for name, (a, b, alpha) in layers.items():
        tensors |= {f"{prefix}{name}{down}": a, f"{prefix}{name}{up}": b}
        if alpha is not None:
            tensors[f"{prefix}{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata=metadata or None)
    return path


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_file_of_our_own(tmp_path: Path, format: str) -> None:
    some = trained()
    path = lora.save(some, tmp_path / "mine.safetensors", format)
    told = describe_json(path)
    assert (told["kind"], told["format"], told["title"]) == ("lora", format, "mine")
    assert told["bytes"] == path.stat().st_size
    assert told["base"] == {"name": some.base.name, "fingerprint": some.base.fingerprint()}
    assert told["lora_config"] == asdict(some.config)
    assert told["stages"] == json.loads(json.dumps(PROVENANCE))
    assert told["dtypes"] == {"float32": 2 * sum(told["layers"].values())}
    assert told["trigger_phrase"] == "quick" and "begin the prompt with 'quick, '" in told["usage_hint"]
    assert "sampler euler, scheduler simple, strength 1.0" in told["usage_hint"]
    assert f"How to sample: {told['usage_hint']}" in describe(path)
    assert (told["non_finite"], told["untrained"], told["other_tensors"]) == (0, [], [])
    # kohya fuses q, k and v: the change of the weights is the same, the layers are fewer.
    assert told["norm"] == pytest.approx(product_norm(some, modules(some)), rel=1e-9)
    if format == "diffusers":
        assert (told["ranks"], told["alphas"]) == ({"3": len(modules(some))}, {"1.5": len(modules(some))})


def test_norms_by_group_are_those_of_the_products(tmp_path: Path) -> None:
    some = trained()
    told = describe_json(lora.save(some, tmp_path / "mine.safetensors"))
    kinds = {
        "double blocks, attention": lambda name: name.startswith("transformer_blocks") and ".attn." in name,
        "double blocks, MLP": lambda name: name.startswith("transformer_blocks") and ".ff" in name,
        "double blocks, modulation": lambda name: name.startswith("transformer_blocks") and ".norm" in name,
        "single blocks, attention": lambda name: name.startswith("single") and ".attn." in name,
        "single blocks, MLP": lambda name: name.endswith("proj_mlp"),
        "single blocks, output": lambda name: name.startswith("single") and name.endswith("proj_out"),
        "single blocks, modulation": lambda name: name.startswith("single") and ".norm" in name,
    }
    assert set(told["norms"]) == set(kinds)
    for group, belongs in kinds.items():
        members = [name for name in modules(some) if belongs(name)]
        assert told["layers"][group] == len(members)
        assert told["norms"][group] == pytest.approx(product_norm(some, members), rel=1e-9)
    largest = max(modules(some), key=lambda name: product_norm(some, [name]))
    assert told["largest"][0]["layer"] == f"transformer.{largest}"
    assert told["largest"][0]["norm"] == pytest.approx(product_norm(some, [largest]), rel=1e-9)
    assert len(told["largest"]) == 5


@pytest.mark.parametrize(
    "style, name, group",
    [
        ("kohya", "double_blocks_3_img_attn_qkv", "double blocks, attention"),
        ("kohya", "double_blocks_3_txt_mlp_0", "double blocks, MLP"),
        ("kohya", "double_blocks_3_img_mod_lin", "double blocks, modulation"),
        ("kohya", "single_blocks_12_linear1", "single blocks, attention and MLP in one"),
        ("kohya", "single_blocks_12_linear2", "single blocks, output"),
        ("kohya", "single_blocks_12_modulation_lin", "single blocks, modulation"),
        ("kohya", "final_layer_linear", "outside the blocks"),
        ("diffusion_model", "double_blocks.3.img_attn.proj", "double blocks, attention"),
        ("diffusion_model", "single_blocks.3.linear1", "single blocks, attention and MLP in one"),
        ("diffusion_model", "single_stream_modulation.lin", "outside the blocks"),
        ("diffusers", "single_transformer_blocks.0.proj_mlp", "single blocks, MLP"),
        ("diffusers", "transformer_blocks.0.attn.to_out.0", "double blocks, attention"),
        ("diffusers", "single_transformer_blocks.0.attn.to_qkv_mlp_proj", "single blocks, attention and MLP in one"),
        ("diffusers", "single_transformer_blocks.0.attn.to_out", "single blocks, output"),
        ("diffusers", "x_embedder", "outside the blocks"),
    ],
)
def test_layers_of_other_programs_find_their_group(tmp_path: Path, style: str, name: str, group: str) -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 20, generator=generator), torch.randn(30, 4, generator=generator)
    told = describe_json(foreign(tmp_path / "a.safetensors", {name: (down, up, 2.0)}, style))
    assert (told["format"], told["layers"]) == (style, {group: 1})
    assert told["norms"][group] == pytest.approx(float((up.double() @ down.double()).norm()) * 2 / 4)


def test_what_other_programs_write_into_metadata(tmp_path: Path) -> None:
    pair = (torch.ones(4, 8), torch.ones(6, 4), None)
    metadata = {"ss_sd_model_name": "flux1-dev.safetensors", "ss_steps": "1200", "ss_learning_rate": "0.0004"}
    metadata |= {"ss_unet_lr": "None", "modelspec.trigger_phrase": "ohwx", "ss_output_name": "hers"}
    path = foreign(tmp_path / "a.safetensors", {"double_blocks_0_img_mlp_0": pair}, "kohya", **metadata)
    told = describe_json(path)
    assert told["base"]["name"] == "flux1-dev.safetensors" and told["stages"] == []
    assert told["trained_elsewhere"] == {"steps": "1200", "learning_rate": "0.0004"}
    assert (told["title"], told["trigger_phrase"]) == ("hers", "ohwx")
    # Without an alpha it is the rank.
    assert told["alphas"] == {"4": 1} and told["norm"] == pytest.approx(4 * 48**0.5)
    text = describe(path)
    assert "Training: steps 1200, learning_rate 0.0004." in text and "Trigger phrase: ohwx" in text
    assert "How to sample: the file does not say." in text


def test_the_alpha_that_diffusers_writes_once_counts_for_all_layers(tmp_path: Path) -> None:
    pair = (torch.ones(4, 8), torch.ones(6, 4), None)
    record = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2.0})
    layers = {"transformer_blocks.0.ff.net.2": pair}
    told = describe_json(foreign(tmp_path / "a.safetensors", layers, "diffusers", lora_adapter_metadata=record))
    assert told["alphas"] == {"2": 1} and told["norm"] == pytest.approx(2 * 48**0.5)


def test_several_ranks_and_types_are_counted(tmp_path: Path) -> None:
    layers = {
        "double_blocks_0_img_mlp_0": (torch.ones(4, 8), torch.ones(6, 4), 4.0),
        "double_blocks_0_img_mlp_2": (torch.ones(2, 8).bfloat16(), torch.ones(6, 2).bfloat16(), 1.0),
    }
    path = foreign(tmp_path / "a.safetensors", layers, "kohya")
    told = describe_json(path)
    assert (told["ranks"], told["alphas"]) == ({"2": 1, "4": 1}, {"1": 1, "4": 1})
    assert told["dtypes"] == {"float32": 2, "bfloat16": 2}
    assert "Rank 2 (1 times), 4 (1 times)" in describe(path)


def test_a_new_lora_is_called_untrained(tmp_path: Path) -> None:
    new = lora.create(BaseReference(TINY_BASE, "fp32"), LoRAConfig(rank=2, alpha=2.0))
    path = lora.save(new, tmp_path / "new.safetensors")
    assert len(describe_json(path)["untrained"]) == len(modules(new))
    assert "This LoRA is untrained" in describe(path)
    some = trained()
    name = modules(some)[4]
    some.tensors[f"{name}.lora_B.weight"].zero_()
    path = lora.save(some, tmp_path / "partly.safetensors")
    assert describe_json(path)["untrained"] == [f"transformer.{name}"]
    assert f"1 layers are zero and change nothing, such as transformer.{name}" in describe(path)


def test_values_that_are_not_finite_are_counted_and_json_can_hold_the_answer(tmp_path: Path) -> None:
    up = torch.ones(6, 4)
    up[0, 0], up[1, 1] = float("nan"), float("inf")
    layers = {
        "double_blocks_0_img_mlp_0": (torch.ones(4, 8), up, 4.0),
        "single_blocks_0_linear2": (torch.ones(4, 8), torch.ones(6, 4), 4.0),
    }
    path = foreign(tmp_path / "a.safetensors", layers, "kohya")
    told = describe_json(path)
    assert told["non_finite"] == 2
    assert told["norms"] == {"double blocks, MLP": None, "single blocks, output": pytest.approx(4 * 48**0.5)}
    assert [layer["layer"] for layer in told["largest"]] == ["lora_unet_single_blocks_0_linear2"]
    json.loads(json.dumps(told, allow_nan=False))
    assert "2 values are NaN or infinite" in describe(path) and "not finite" in describe(path)


def test_tensors_that_are_no_plain_lora_are_named(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.safetensors", {"x": (torch.ones(4, 8), torch.ones(6, 4), 4.0)}, "kohya")
    save_file(load_file(path) | {"lora_unet_y.lokr_w1": torch.ones(2), "lora_unet_z.alpha": torch.ones(())}, path)
    assert describe_json(path)["other_tensors"] == ["lora_unet_y.lokr_w1", "lora_unet_z.alpha"]
    assert "2 tensors are no part of a plain LoRA, such as lora_unet_y.lokr_w1" in describe(path)


def test_the_text_says_how_it_was_made_and_how_to_sample(tmp_path: Path) -> None:
    path = lora.save(trained(), tmp_path / "mine.safetensors", "kohya", torch.bfloat16)
    text = describe(path)
    lines = text.splitlines()
    assert lines[0].startswith(f"{path}: a LoRA in kohya format, ")
    assert "Number type: bfloat16." in lines
    assert "Made with rank 3, alpha 1.5, targets all." in lines
    first, second = (next(line for line in lines if line.startswith(f"Stage {number}")) for number in (1, 2))
    assert first.startswith("Stage 1: diffusion, 20 steps of 30, learning_rate 0.0001,")
    assert second.startswith("Stage 2: adversarial, 7 steps, learning_rate 3e-05,")
    for setting in ("target two_samplers", "discriminator loss hinge", "few_step_phrase quick", "objective hybrid"):
        assert setting in second
    assert any(line.startswith("How to sample: With 4 steps: begin the prompt with 'quick, '") for line in lines)
    assert "Warning" not in text


def test_damaged_metadata_is_a_warning(tmp_path: Path) -> None:
    pair = (torch.ones(4, 8), torch.ones(6, 4), None)
    path = foreign(tmp_path / "a.safetensors", {"x": pair}, "kohya", fluxduel='{"lora_config": 3}')
    assert describe_json(path)["stages"] == []
    assert "Warning: FluxDuel's metadata cannot be read" in describe(path)


def test_a_discriminator(tmp_path: Path) -> None:
    path = tmp_path / "discriminator.safetensors"
    weights = {"a": torch.ones(3, 5), "b": torch.ones(7)}
    discriminator_files.save(weights, DiscriminatorConfig(architecture="cnn", width=8), "the base", path)
    told = describe_json(path)
    assert (told["kind"], told["architecture"], told["values"]) == ("discriminator", "cnn", 22)
    assert told["base"] == {"name": "the base"} and told["config"]["width"] == 8
    assert "architecture cnn" in describe(path) and "22 in float32" in describe(path)
    with safe_open(path, framework="pt") as file:
        assert discriminator_files.METADATA_KEY in file.metadata()
    save_file(weights, path, metadata={discriminator_files.METADATA_KEY: "{}"})
    with pytest.raises(LoRAError, match="a discriminator whose metadata cannot be read"):
        describe(path)


def test_a_folder_of_a_run_stands_for_its_lora_or_that_of_its_last_checkpoint(tmp_path: Path) -> None:
    for step in (100, 200):
        checkpoint = tmp_path / "checkpoints" / f"step-{step:08}"
        checkpoint.mkdir(parents=True)
        if step == 100:
            lora.save(trained(), checkpoint / "lora.safetensors")
        else:
            lora.save(trained(rank=2), checkpoint / "lora.safetensors")
    assert describe_json(checkpoint.with_name("step-00000100"))["lora_config"]["rank"] == 3
    assert describe_json(tmp_path)["lora_config"]["rank"] == 2
    lora.save(trained(rank=5), tmp_path / "lora.safetensors")
    assert describe_json(tmp_path)["lora_config"]["rank"] == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoRAError, match="empty holds no lora.safetensors"):
        describe(tmp_path / "empty")
    lora.save(trained(rank=4), tmp_path / "empty" / "my_style.safetensors")
    assert describe_json(tmp_path / "empty")["lora_config"]["rank"] == 4
    lora.save(trained(), tmp_path / "empty" / "other.safetensors")
    with pytest.raises(LoRAError, match="empty holds no lora.safetensors"):
        describe(tmp_path / "empty")


def test_what_is_no_lora_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoRAError, match="There is no file .*missing"):
        describe(tmp_path / "missing.safetensors")
    path = tmp_path / "model.safetensors"
    save_file({"conv.weight": torch.ones(3)}, path)
    with pytest.raises(LoRAError, match="neither a LoRA nor a discriminator.*such as conv.weight.*no FLUX.1"):
        describe(path)
    save_file({"x.lora_down.weight": torch.ones(3, 4)}, path)
    with pytest.raises(LoRAError, match="of no layer both factors are there, such as x.lora_down.weight"):
        describe(path)
    save_file({}, path)
    with pytest.raises(LoRAError, match="it holds no tensors"):
        describe(path)
    for down, up in (((4, 8), (6, 3)), ((4,), (6, 4)), ((0, 8), (6, 0)), ((4, 8), (6, 4, 3, 3))):
        foreign(path, {"x": (torch.ones(down), torch.ones(up), None)}, "kohya")
        with pytest.raises(LoRAError, match="lora_unet_x (is|has)"):
            describe(path)


def test_convolutions_count_as_matrices(tmp_path: Path) -> None:
    pair = (torch.ones(4, 8, 3, 3), torch.ones(6, 4, 1, 1), 4.0)
    told = describe_json(foreign(tmp_path / "a.safetensors", {"x": pair}, "kohya"))
    assert told["norm"] == pytest.approx(4 * (6 * 72) ** 0.5)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = lora.save(trained(), tmp_path / "mine.safetensors")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4], b"", b"<html>not found</html>" * 9):
        path.write_bytes(content)
        with pytest.raises(LoRAError, match="mine.safetensors cannot be read as safetensors.*Download it again"):
            describe(path)


def test_a_stage_that_delivered_its_start_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    last = PROVENANCE[1] | UNCHANGED
    lora.save(dataclasses.replace(trained(), provenance=(PROVENANCE[0], last)), file, "diffusers", torch.float32)
    first, second = (line for line in describe(file).splitlines() if "learning_rate" in line)
    assert second.endswith("delivered the weights that it started from.") and "delivered" not in first
    assert "Sample as with the base alone" in describe(file)
