"""LoRA files of FLUX.2: what is written, what comes back, and what other programs' layouts mean."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxduel.headless.inspect_command import describe_json
from fluxduel.tests.comfy_host import ROOT
from fluxduel.tests.true_width import write_published
from fluxduel.tests.unit.lora.foreign_layouts import TABLE, inputs, layouts
from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.families import FAMILIES
from fluxduel.training.base.families.modules import DIFFUSERS, ORIGINAL
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA, LoRAError
from fluxduel.training.lora.files import FORMATS, doubts, exact_format, file_metadata
from fluxduel.training.lora.packing import file_layers
from fluxduel.training.lora.value import base_layers, module_names

PROVENANCE = ({"stage": "diffusion", "config": {"steps": 30}, "steps_done": 30, "data": "d1", "resolution": 512},)
LAYOUTS = layouts()
PRESETS = ("attention", "attention+mlp", "all")
EVERYTHING = {"targets": "regex", "target_regex": ".*"}


def trained(reference: BaseReference, seed: int = 0, **options: object) -> FluxLoRA:
    new = lora.create(reference, LoRAConfig(**{"rank": 3, "alpha": 1.5, "targets": "all", "seed": 9} | options))
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in new.tensors.items()}
    return FluxLoRA(reference, new.config, tensors, PROVENANCE)


def change(of: FluxLoRA, module: str) -> Tensor:
    """What the LoRA adds to a layer's weight."""
    down, up = (of.tensors[f"{module}.lora_{part}.weight"].double() for part in "AB")
    return up @ down * of.config.alpha / of.config.rank


@pytest.mark.parametrize("model", [name for family in FAMILIES for name in family.published])
def test_the_layers_of_files_are_those_of_the_transformer(tmp_path: Path, model: str) -> None:
    reference = BaseReference(str(write_published(tmp_path / "base.safetensors", model)))
    family = next(each for each in FAMILIES if model in each.published)
    named = {name: layer.shape for name, layer in file_layers(family, reference.config, DIFFUSERS).items()}
    assert named == base_layers(reference)


@pytest.mark.parametrize(
    "options", [*({"targets": each} for each in PRESETS), EVERYTHING, {**EVERYTHING, "alpha": 7.0}]
)
@pytest.mark.parametrize("format", FORMATS)
def test_each_layer_of_a_file_changes_as_its_parts_do(
    narrow_flux2: BaseReference, format: str, options: dict[str, object]
) -> None:
    some = trained(narrow_flux2, **options)
    tensors = lora.file_tensors(some, format)
    adapted, seen = set(module_names(some.tensors)), set()
    for name, layer in file_layers(FAMILIES[1], narrow_flux2.config, ORIGINAL).items():
        if not adapted & {part.name for part in layer.parts}:
            continue
        if format == "kohya":
            key = f"lora_unet_{name.replace('.', '_')}"
            keys = [f"{key}.lora_down.weight", f"{key}.lora_up.weight", f"{key}.alpha"]
        else:
            keys = [f"diffusion_model.{name}.lora_A.weight", f"diffusion_model.{name}.lora_B.weight"]
        seen |= set(keys)
        down, up = tensors[keys[0]].double(), tensors[keys[1]].double()
        scale = float(tensors[keys[2]]) / down.shape[0] if format == "kohya" else 1.0
        found = up @ down * scale
        for part in layer.parts:
            rows = torch.cat([found[start:end] for start, end in part.rows])
            want = change(some, part.name) if part.name in adapted else torch.zeros_like(rows)
            torch.testing.assert_close(rows, want, rtol=1e-5, atol=1e-5)
    assert seen == set(tensors)


@pytest.mark.parametrize("targets", [*PRESETS, r".*attn\.to_k|.*to_qkv_mlp_proj", ".*"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("alpha", [1.5, 3.0, 1.1])
def test_own_files_come_back(
    narrow_flux2: BaseReference, tmp_path: Path, format: str, targets: str, alpha: float
) -> None:
    options = {"targets": targets} if targets in PRESETS else {"targets": "regex", "target_regex": targets}
    some = trained(narrow_flux2, alpha=alpha, **options)
    back = lora.load_file(lora.save(some, tmp_path / "file.safetensors", format), narrow_flux2)
    assert (back.config, back.provenance, back.base) == (some.config, some.provenance, narrow_flux2)
    assert list(back.tensors) == list(some.tensors)
    for key, tensor in some.tensors.items():
        if format == "diffusers" and alpha == 1.1:
            torch.testing.assert_close(back.tensors[key], tensor, rtol=3e-7, atol=0)
        else:
            assert torch.equal(back.tensors[key], tensor)


def test_a_run_keeps_its_result_in_a_format_that_changes_no_bit(
    narrow: BaseReference, narrow_flux2: BaseReference
) -> None:
    assert [exact_format(trained(base)) for base in (narrow, narrow_flux2)] == ["diffusers", "kohya"]


@pytest.mark.parametrize("metadata", [True, False])
def test_what_another_program_changed_or_left_out_is_read_for_what_it_does(
    narrow_flux2: BaseReference, tmp_path: Path, metadata: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where layers differ in rank, and alpha is in the weights alone. What is added lies beside the blocks."""
    some = trained(narrow_flux2)
    path = lora.save(some, tmp_path / "file.safetensors", metadata=metadata)
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
    tensors = {key: tensor + 2 if "lora_B" in key else tensor for key, tensor in load_file(path).items()}
    save_file(tensors, path, notes)
    back = lora.load_file(path, narrow_flux2)
    assert ("was changed by another program" in caplog.text) is metadata
    assert "alpha" not in caplog.text, "a warning of an alpha that is not missing"
    for name, layer in file_layers(FAMILIES[1], narrow_flux2.config, ORIGINAL).items():
        key = f"diffusion_model.{name}.lora_"
        if f"{key}A.weight" in tensors:
            does = tensors[f"{key}B.weight"].double() @ tensors[f"{key}A.weight"].double()
            parts = [change(back, part.name) for part in layer.parts]
            torch.testing.assert_close(torch.cat(parts), does, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "name", "version"),
    [
        ("FLUX.2 klein 4B", "Flux.2-klein-4b/lora", "flux_2_klein_4b"),
        ("FLUX.2 klein 9B", "Flux.2-klein-9b/lora", "flux_2_klein_9b"),
        ("FLUX.2 dev", "Flux.2-dev/lora", "flux_2_dev"),
        ("FLUX.1", "flux-1-dev/lora", "flux1"),
        ("FLUX.3 Image Klein", "Flux.3-image-klein/lora", "flux_3_image_klein"),
    ],
)
def test_metadata_name_the_model(tmp_path: Path, model: str, name: str, version: str) -> None:
    reference = BaseReference(str(write_published(tmp_path / "base.safetensors", model)))
    config = LoRAConfig(rank=1, alpha=1.0, targets="regex", target_regex=r"single_transformer_blocks\.0\..*attn\.to_.*")
    some = FluxLoRA(reference, config, lora.create(reference, config).tensors, PROVENANCE)
    metadata = file_metadata(some, "title")
    assert (metadata["modelspec.architecture"], metadata["ss_base_model_version"]) == (name, version)
    # A reader that finds it here would apply it once more.
    assert ("ss_network_alpha" in metadata) is (model == "FLUX.1")
    assert file_metadata(some, "title", "kohya")["ss_network_alpha"] == "1.0"


def test_a_lora_outlives_its_base(tmp_path: Path) -> None:
    path = write_published(tmp_path / "base.safetensors", "FLUX.2 klein 4B")
    config = LoRAConfig(rank=1, alpha=1.0, targets="regex", target_regex=r"transformer_blocks\.0\.attn\.to_q")
    some = lora.create(BaseReference(str(path)), config)
    path.unlink()
    assert all(key.startswith("diffusion_model.double_blocks.0.img_attn.qkv") for key in lora.file_tensors(some))
    assert lora.save(some, tmp_path / "file.safetensors").is_file()


def test_layers_that_another_program_leaves_out_or_gets_wrong_are_told(narrow_flux2: BaseReference) -> None:
    plain, all_ = trained(narrow_flux2, targets="attention+mlp"), trained(narrow_flux2)
    final = trained(narrow_flux2, targets="regex", target_regex=r"norm_out\.linear")
    assert doubts(plain, "kohya") == doubts(plain, "diffusers") == doubts(all_, "diffusers") == []
    (said,) = doubts(all_, "kohya")
    assert "3, such as double_stream_modulation_img.linear" in said and "diffusers leaves them out" in said
    assert "swaps their halves" in doubts(final, "diffusers")[0]


@pytest.mark.parametrize("letter", [name for name, layout in LAYOUTS.items() if not layout.refused])
def test_other_programs_layouts_are_read_exactly(klein: BaseReference, tmp_path: Path, letter: str) -> None:
    tensors, expected = LAYOUTS[letter].made
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "my.safetensors")
    back = lora.load_file(tmp_path / "my.safetensors", klein)
    assert set(module_names(back.tensors)) == set(expected)
    for module, want in expected.items():
        down, up = (back.tensors[f"{module}.lora_{part}.weight"].double() for part in "AB")
        found = up @ (down @ inputs(down.shape[1])) * back.config.alpha / back.config.rank
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("letter", [name for name, layout in LAYOUTS.items() if layout.refused])
def test_what_fits_no_klein_is_refused_by_name(klein: BaseReference, tmp_path: Path, letter: str) -> None:
    save_file(LAYOUTS[letter].made[0], tmp_path / "my.safetensors")
    with pytest.raises(LoRAError) as caught:
        lora.load_file(tmp_path / "my.safetensors", klein)
    layer = next(iter(LAYOUTS[letter].made[0])).split(".lo")[0]
    assert all(words in str(caught.value) for words in ("my.safetensors", LAYOUTS[letter].refused, layer)), caught.value


def test_the_documentation_has_the_table() -> None:
    rows = "\n".join([TABLE, *(layout.row for layout in LAYOUTS.values())])
    assert rows in (ROOT / "docs" / "REFERENCE.md").read_text()


def attention(blocks: range) -> dict[str, Tensor]:
    return {
        f"transformer.transformer_blocks.{i}.attn.to_q.{part}.weight": torch.ones(shape)
        for i in blocks
        for part, shape in (("lora_A", (1, 3072)), ("lora_B", (3072, 1)))
    }


@pytest.mark.parametrize(
    ("metadata", "model"),
    [
        ({"ss_base_model_version": "flux1"}, "FLUX.1"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "FLUX.1"),
        ({"base_model": "FLUX.3 Image Klein"}, "FLUX.3"),
        ({"modelspec.architecture": "chroma/lora"}, "Chroma"),
        ({"ss_base_model_version": "qwen_image"}, "Qwen-Image"),
    ],
)
def test_what_says_that_it_is_for_another_model_is_refused(
    klein: BaseReference, tmp_path: Path, metadata: dict[str, str], model: str
) -> None:
    path = tmp_path / "my.safetensors"
    save_file(attention(range(5)), path, metadata)
    with pytest.raises(LoRAError, match=rf"my.safetensors is a LoRA for {model} \(metadata .*Choose one for FLUX.2"):
        lora.load_file(path, klein)


@pytest.mark.parametrize(
    ("blocks", "metadata", "doubted"),
    [
        (range(5), {}, False),
        (range(4), {}, True),
        (range(4), {"ss_base_model_version": "flux_2_klein_4b"}, False),
        (range(4), {"modelspec.architecture": "Flux.2-klein-base-4B/lora"}, False),
    ],
)
def test_layers_that_two_families_share_are_told(
    klein: BaseReference,
    deep: BaseReference,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    blocks: range,
    metadata: dict[str, str],
    doubted: bool,
) -> None:
    path = tmp_path / "my.safetensors"
    save_file(attention(blocks), path, metadata)
    assert len(lora.load_file(path, klein).tensors) == 2 * len(blocks)
    assert ("the same in FLUX.2 and in FLUX.1" in caplog.text) is doubted
    if doubted:
        caplog.clear()
        lora.load_file(path, deep)
        assert "the same in FLUX.1 and in FLUX.2 klein 4B" in caplog.text


def test_own_files_of_another_size_are_refused_by_name(klein: BaseReference, tmp_path: Path) -> None:
    larger = BaseReference(str(write_published(tmp_path / "base.safetensors", "FLUX.2 klein 9B")))
    some = trained(larger, rank=1, targets="attention")
    for format in FORMATS:
        path = lora.save(some, tmp_path / "mine.safetensors", format)
        with pytest.raises(LoRAError, match=r"mine.safetensors is a LoRA for FLUX.2 klein 9B \("):
            lora.load_file(path, klein)


def test_ranks_are_written_where_they_differ(narrow_flux2: BaseReference, tmp_path: Path) -> None:
    """For diffusers 0.37 to 0.39, which scale layers of another rank wrongly without."""
    some = trained(narrow_flux2, targets="attention")
    with safe_open(lora.save(some, tmp_path / "a.safetensors", metadata=False), framework="pt") as file:
        record = json.loads(file.metadata()["lora_adapter_metadata"])
    assert record["transformer.rank_pattern"] == record["transformer.alpha_pattern"]
    ranks = {record["transformer.r"], record["transformer.lora_alpha"], *record["transformer.rank_pattern"].values()}
    assert ranks == {3, 9}
    only = dataclasses.replace(trained(narrow_flux2, targets="regex", target_regex=r".*to_qkv_mlp_proj"))
    for lora_, format in ((only, "diffusers"), (some, "kohya")):
        with safe_open(lora.save(lora_, tmp_path / "b.safetensors", format, metadata=False), framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("metadata", [True, False])
def test_inspect_finds_the_same_change_in_both_formats(
    narrow_flux2: BaseReference, tmp_path: Path, metadata: bool
) -> None:
    some = trained(narrow_flux2)
    told = [
        describe_json(lora.save(some, tmp_path / f"{format}.safetensors", format, metadata=metadata))
        for format in FORMATS
    ]
    assert [each["format"] for each in told] == ["diffusion_model", "kohya"]
    assert told[0]["norms"] == pytest.approx(told[1]["norms"], rel=1e-5)
