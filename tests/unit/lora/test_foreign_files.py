"""What other programs' LoRA files do to each weight, against the formulas of their kinds in float64."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxduel.training.base.base_model import BaseReference
from fluxduel.training.base.families.flux1 import FLUX1
from fluxduel.training.base.families.modules import ORIGINAL
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA, LoRAError
from fluxduel.training.lora.packing import file_layers
from fluxduel.training.lora.value import base_layers

Parts = dict[str, Tensor]
TO_Q, TO_K = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k"
MLP = "transformer_blocks.1.ff.net.0.proj"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(name: str, rank: int = 3, size_in: int = 32, size_out: int = 32, seed: int = 0) -> Parts:
    return {
        f"{name}.lora_A.weight": drawn(rank, size_in, seed=seed),
        f"{name}.lora_B.weight": drawn(size_out, rank, seed=seed + 1),
    }


def product(tensors: Parts, name: str) -> Tensor:
    """``up @ down`` of a plain pair, in float64."""
    return tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double()


def change(of: FluxLoRA, module: str) -> Tensor:
    """What the LoRA adds to a layer's weight, in float64."""
    return product(dict(of.tensors), module) * of.config.alpha / of.config.rank


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def written(path: Path, tensors: Parts, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


# Alpha beside the tensors


def peft(**settings: object) -> str:
    return json.dumps({"r": 3, "lora_alpha": 1.5} | settings)


@pytest.mark.parametrize(
    ("metadata", "sidecar"),
    [
        ({"ss_network_alpha": "1.5"}, None),
        ({"lora_alpha": "1.5"}, None),
        ({"network_alpha": "1.5"}, None),
        ({"networkAlpha": "1.5"}, None),
        ({"lora_adapter_metadata": peft()}, None),
        ({"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 1.5, "text_encoder.lora_alpha": 9})}, None),
        ({}, peft()),
        ({}, "\ufeff" + peft()),
        # A LoHa's or LoKr's settings, by PEFT.
        ({}, json.dumps({"r": 3, "alpha": 1.5})),
        ({"ss_network_alpha": "None"}, peft()),
    ],
)
def test_alpha_beside_the_tensors_is_used_and_told(
    narrow: BaseReference,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    metadata: dict[str, str],
    sidecar: str | None,
) -> None:
    tensors = pair(TO_Q)
    if sidecar is not None:
        (tmp_path / "adapter_config.json").write_text(sidecar, encoding="utf-8")
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors, metadata), narrow)
    assert back.config.alpha == 1.5
    assert_same(change(back, TO_Q), product(tensors, TO_Q) / 2)
    assert "alpha 1.5 comes from" in caplog.text and "ComfyUI does not look there" in caplog.text


def test_settings_beside_several_files_belong_to_pefts_own(narrow: BaseReference, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(peft())
    for name, alpha in [("adapter_model", 1.5), ("my style", 3.0)]:
        written(tmp_path / "other.safetensors", pair(TO_Q))
        path = written(tmp_path / f"{name}.safetensors", pair(TO_Q))
        assert lora.load_file(path, narrow).config.alpha == alpha


def test_alpha_that_is_nowhere_is_told(narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    back = lora.load_file(written(tmp_path / "my.safetensors", pair(TO_Q)), narrow)
    assert back.config.alpha == 3.0
    assert "names no alpha for 1 layers" in caplog.text and "my.safetensors" in caplog.text


def test_contradictions_are_told_and_the_tensors_are_right(
    narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = pair(TO_Q) | {f"{TO_Q}.alpha": torch.tensor(6.0)}
    path = written(tmp_path / "my.safetensors", tensors, {"ss_network_alpha": "1.5"})
    assert lora.load_file(path, narrow).config.alpha == 6.0
    assert "ss_network_alpha says alpha 1.5, its tensors say otherwise" in caplog.text
    caplog.clear()
    path = written(tmp_path / "my.safetensors", pair(TO_Q), {"ss_network_alpha": "2", "lora_adapter_metadata": peft()})
    assert lora.load_file(path, narrow).config.alpha == 1.5
    assert "alpha is 1.5 after its metadata lora_adapter_metadata and 2 after" in caplog.text
    caplog.clear()
    path = written(tmp_path / "my.safetensors", tensors, {"ss_network_alpha": "6"})
    lora.load_file(path, narrow)
    assert caplog.text == ""


def test_rank_stabilised_loras_and_alphas_by_layer(narrow: BaseReference, tmp_path: Path) -> None:
    tensors = pair(TO_Q, 4) | pair(TO_K, 4, seed=5)
    path = tmp_path / "my.safetensors"
    record = peft(r=4, use_rslora=True)
    back = lora.load_file(written(path, tensors, {"lora_adapter_metadata": record}), narrow)
    assert_same(change(back, TO_Q), product(tensors, TO_Q) * 1.5 / math.sqrt(4))
    record = peft(r=4, alpha_pattern={r"to_k": 0.5})
    back = lora.load_file(written(path, tensors, {"lora_adapter_metadata": record}), narrow)
    assert_same(change(back, TO_Q), product(tensors, TO_Q) * 1.5 / 4)
    assert_same(change(back, TO_K), product(tensors, TO_K) * 0.5 / 4)


@pytest.mark.parametrize(
    ("metadata", "sidecar", "words"),
    [
        ({"lora_adapter_metadata": "{"}, None, ["lora_adapter_metadata", "no JSON"]),
        ({"lora_adapter_metadata": "[" * 100000}, None, ["lora_adapter_metadata", "no JSON"]),
        ({"lora_adapter_metadata": "[1]"}, None, ["no JSON object"]),
        ({"lora_adapter_metadata": peft(lora_alpha="much")}, None, ["lora_alpha is 'much'"]),
        ({"lora_adapter_metadata": peft(lora_alpha=math.nan)}, None, ["lora_alpha is nan"]),
        ({"lora_adapter_metadata": peft(alpha_pattern=[1])}, None, ["alpha_pattern"]),
        ({"lora_adapter_metadata": peft(alpha_pattern={"(": 1})}, None, ["alpha_pattern '('"]),
        ({}, "no JSON", ["adapter_config.json", "no JSON"]),
        ({}, peft(lora_alpha=0), ["zero"]),
    ],
)
def test_settings_that_cannot_be_read_are_refused(
    narrow: BaseReference, tmp_path: Path, metadata: dict[str, str], sidecar: str | None, words: list[str]
) -> None:
    if sidecar is not None:
        (tmp_path / "adapter_config.json").write_text(sidecar)
    with pytest.raises(LoRAError) as caught:
        lora.load_file(written(tmp_path / "my.safetensors", pair(TO_Q), metadata), narrow)
    assert all(word in str(caught.value) for word in ["my.safetensors", *words]), caught.value


# Kinds and ranks


def test_a_layer_of_lower_rank_is_widened_without_changing_it(narrow: BaseReference, tmp_path: Path) -> None:
    tensors = pair(TO_Q, 2) | pair(TO_K, 5, seed=4) | pair(MLP, 3, size_out=128, seed=9)
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow)
    assert (back.config.rank, back.config.alpha) == (5, 5.0)
    for module in (TO_Q, TO_K, MLP):
        assert_same(change(back, module), product(tensors, module))
    down, up = (back.tensors[f"{TO_Q}.{part}.weight"] for part in ("lora_A", "lora_B"))
    # Where both are zero nothing is ever learned.
    assert down[2:].abs().min() > 0 and not up[:, 2:].any()
    again = lora.load_file(tmp_path / "my.safetensors", narrow)
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in back.tensors.items())


def plain(shape: tuple[int, int], rank: int, seed: int, scale: float) -> tuple[Parts, Tensor]:
    down, up = drawn(rank, shape[1], seed=seed), drawn(shape[0], rank, seed=seed + 1)
    return {"lora_down.weight": down, "lora_up.weight": up}, up.double() @ down.double() * scale


def loha(shape: tuple[int, int], rank: int, seed: int, scale: float) -> tuple[Parts, Tensor]:
    sizes = {"w1_a": (shape[0], rank), "w1_b": (rank, shape[1]), "w2_a": (shape[0], rank), "w2_b": (rank, shape[1])}
    parts = {f"hada_{name}": drawn(*size, seed=seed + i) for i, (name, size) in enumerate(sizes.items())}
    w1_a, w1_b, w2_a, w2_b = (part.double() for part in parts.values())
    return parts, (w1_a @ w1_b) * (w2_a @ w2_b) * scale


def lokr(shape: tuple[int, int], rank: int, seed: int, scale: float) -> tuple[Parts, Tensor]:
    factors = (4, 4), (shape[0] // 4, shape[1] // 4)
    parts: Parts = {}
    whole = []
    for number, (rows, columns) in enumerate(factors, 1):
        if number == 1 and seed % 2:
            parts["lokr_w1"] = drawn(rows, columns, seed=seed)
            whole.append(parts["lokr_w1"].double())
        else:
            # Alpha is over the second factor's rank; the first may have another one.
            inner = rank + 2 - number
            a, b = drawn(rows, inner, seed=seed + number), drawn(inner, columns, seed=seed + number + 7)
            parts |= {f"lokr_w{number}_a": a, f"lokr_w{number}_b": b}
            whole.append(a.double() @ b.double())
    return parts, torch.kron(*whole) * scale


KINDS: dict[str, Callable[[tuple[int, int], int, int, float], tuple[Parts, Tensor]]] = {
    "LoRA": plain,
    "LoHa": loha,
    "LoKr": lokr,
}


@pytest.mark.parametrize("seed", range(40))
def test_every_mixture_of_kinds_ranks_alphas_and_names(narrow: BaseReference, tmp_path: Path, seed: int) -> None:
    """A corpus from a seed: layers of diffusers' or black-forest-labs' model, each with a kind and rank of its own."""
    chance = random.Random(seed)
    layers = base_layers(narrow)
    fused = {name.replace(".", "_"): layer for name, layer in file_layers(FLUX1, narrow.config, ORIGINAL).items()}
    tensors: Parts = {}
    expected: dict[str, Tensor] = {}
    kinds = list(KINDS) if seed % 2 else ["LoRA"]
    for number, (flat, part) in enumerate(chance.sample(sorted(fused.items()), 6)):
        names, prefix = tuple(each.name for each in part.parts), "lora_unet_"
        if not seed % 3:
            names, prefix = names[:1], "lycoris_"
        name = prefix + (flat if seed % 3 else names[0].replace(".", "_"))
        shape = (sum(layers[module][0] for module in names), layers[names[0]][1])
        rank, kind = chance.randint(1, 4), chance.choice(kinds)
        alpha = chance.choice([None, 0.5, 1.0, 8.0, -2.0])
        parts, want = KINDS[kind](shape, rank, 100 * seed + 10 * number, 1.0 if alpha is None else alpha / rank)
        scalar = chance.choice([None, 0.25])
        if scalar is not None:
            parts["scalar"], want = torch.tensor([scalar]), want * scalar
        tensors |= {f"{name}.{key}": tensor for key, tensor in parts.items()}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        if len(names) == 1 and names[0] == "norm_out.linear" and seed % 3:
            want = torch.cat(want.chunk(2)[::-1])
        rows = want.split([layers[module][0] for module in names])
        expected |= dict(zip(names, rows, strict=True))
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow)
    assert {key.rpartition(".lora_")[0] for key in back.tensors} == set(expected)
    for module, want in expected.items():
        assert_same(change(back, module), want)


def test_a_lokr_of_two_whole_factors_has_no_rank_to_divide_alpha_by(narrow: BaseReference, tmp_path: Path) -> None:
    parts = {"lokr_w1": drawn(2, 2), "lokr_w2": drawn(16, 16, seed=1), "alpha": torch.tensor(7.0)}
    tensors = {f"lycoris_{TO_Q.replace('.', '_')}.{key}": tensor for key, tensor in parts.items()}
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow)
    assert back.config.rank == 32
    assert_same(change(back, TO_Q), torch.kron(parts["lokr_w1"].double(), parts["lokr_w2"].double()))


def test_what_has_too_high_a_rank_is_refused(wide: BaseReference, tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_proj"
    kinds = {
        "LoKr whose change has rank 3072": {"lokr_w1": torch.ones(16, 16), "lokr_w2": torch.ones(192, 192)},
        "LoHa whose change has rank 1600": {
            f"hada_{part}": torch.ones((3072, 40) if part.endswith("a") else (40, 3072))
            for part in ("w1_a", "w1_b", "w2_a", "w2_b")
        },
    }
    for words, parts in kinds.items():
        path = written(tmp_path / "my.safetensors", {f"{name}.{key}": tensor for key, tensor in parts.items()})
        with pytest.raises(LoRAError, match=f"my.safetensors: {name} is a {words}.*1024 is the most"):
            lora.load_file(path, wide)


@pytest.mark.parametrize(("inner", "warned"), [(16, False), (17, True)])
def test_a_loha_that_becomes_a_lora_of_high_rank_is_warned_of(
    wide: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture, inner: int, warned: bool
) -> None:
    """16 * 16 = 256 is the most that is taken without a word. One layer, 3072 wide: 289 * 6144 numbers of 16 bytes."""
    sizes = {"w1_a": (3072, inner), "w1_b": (inner, 3072), "w2_a": (3072, inner), "w2_b": (inner, 3072)}
    tensors = {f"lora_unet_double_blocks_0_img_attn_proj.hada_{part}": drawn(*size) for part, size in sizes.items()}
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors), wide)
    assert back.config.rank == inner**2
    text = f"my.safetensors: as a LoRA it has rank 289. Training it takes {289 * 6144 * 16 / 1e9:.1f} GB"
    assert (text in caplog.text) is warned


def test_a_linear_layer_written_as_a_convolution(narrow: BaseReference, tmp_path: Path) -> None:
    tensors = pair(TO_Q)
    written(tmp_path / "my.safetensors", {key: tensor[:, :, None, None] for key, tensor in tensors.items()})
    back = lora.load_file(tmp_path / "my.safetensors", narrow)
    assert_same(change(back, TO_Q), product(tensors, TO_Q))


@pytest.mark.parametrize(
    "spelling",
    [
        "transformer.base_model.model.{}",
        "base_model.model.transformer.{}",
        "model.diffusion_model.{}",
        "diffusion_model.{}",
    ],
)
def test_prefixes_and_names_of_adapters(narrow: BaseReference, tmp_path: Path, spelling: str) -> None:
    tensors = pair(TO_Q)
    named = {spelling.format(key.replace(".weight", ".default_0.weight")): t for key, t in tensors.items()}
    back = lora.load_file(written(tmp_path / "my.safetensors", named), narrow)
    assert_same(change(back, TO_Q), product(tensors, TO_Q))


def test_embeddings_beside_a_lora_are_left_out_and_told(
    narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = pair(TO_Q) | {"bundle_emb.cat.clip_l": torch.ones(2, 8)}
    assert len(lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow).tensors) == 2
    assert "1 keys of an embedding, such as bundle_emb.cat.clip_l" in caplog.text


def test_a_fused_layer_that_learned_nothing_keeps_its_rank(narrow: BaseReference, tmp_path: Path) -> None:
    one, other = (f"lora_unet_double_blocks_{i}_img_attn_qkv" for i in range(2))
    tensors = pair(one, 6, 32, 96) | pair(other, 6, 32, 96, seed=3)
    tensors[f"{other}.lora_B.weight"].zero_()
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow)
    assert (back.config.rank, back.config.alpha) == (6, 6.0)
    # With a third of the rank it would have a third of the directions to learn in.
    assert all(
        back.tensors[f"transformer_blocks.1.attn.{name}.lora_A.weight"].equal(tensors[f"{other}.lora_A.weight"])
        for name in ("to_q", "to_k", "to_v")
    )
    assert_same(change(back, "transformer_blocks.0.attn.to_k"), product(tensors, one)[32:64])
    assert not change(back, "transformer_blocks.1.attn.to_v").any()


# ComfyUI's own files


def test_differences_of_biases_and_norms_are_left_out_and_told(
    narrow: BaseReference, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of ComfyUI's Save LoRA and Extract LoRA: they write a difference of each bias."""
    name = "diffusion_model.double_blocks.0.img_attn.proj"
    tensors = {
        f"{name}.lora_up.weight": drawn(32, 2),
        f"{name}.lora_down.weight": drawn(2, 32, seed=1),
        f"{name}.alpha": torch.tensor(2.0),
        f"{name}.diff_b": torch.zeros(32),
        "diffusion_model.double_blocks.0.img_mlp.0.diff": torch.zeros(128, 32),
    }
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow)
    assert caplog.text == ""
    want = tensors[f"{name}.lora_up.weight"].double() @ tensors[f"{name}.lora_down.weight"].double()
    assert_same(change(back, "transformer_blocks.0.attn.to_out.0"), want)
    tensors[f"{name}.diff_b"] += 1
    tensors["diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff"] = torch.ones(16)
    again = lora.load_file(written(tmp_path / "my.safetensors", tensors), narrow)
    assert "2 differences of biases and norms" in caplog.text
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in back.tensors.items())


# Other models


def attention(blocks: range, prefix: str = "transformer.transformer_blocks") -> Parts:
    """Attention of double blocks in diffusers' names, of FLUX.1's width, on the meta of one small pair each."""
    return {
        f"{prefix}.{i}.attn.to_q.{part}.weight": torch.ones(shape)
        for i in blocks
        for part, shape in (("lora_A", (1, 3072)), ("lora_B", (3072, 1)))
    }


ONE = attention(range(1))


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        (ONE, {"ss_base_model_version": "flux2_klein_4b"}, ["FLUX.2", "ss_base_model_version"]),
        (ONE, {"modelspec.architecture": "Flux.2-klein-base-4B/lora"}, ["FLUX.2", "modelspec.architecture"]),
        (ONE, {"ss_network_module": "networks.lora_flux_2"}, ["FLUX.2"]),
        (ONE, {"base_model": "FLUX 3 Image Klein"}, ["FLUX.3"]),
        (ONE, {"modelspec.architecture": "chroma/lora"}, ["Chroma"]),
        (ONE, {"ss_base_model_version": "qwen_image"}, ["Qwen-Image"]),
        (ONE, {"ss_base_model_version": "sdxl_base_v1-0"}, ["Stable Diffusion XL"]),
        (ONE, {"lora_adapter_metadata": peft(base_model_name_or_path="black-forest-labs/FLUX.2-klein-4B")}, ["FLUX.2"]),
        (ONE | pair("diffusion_model.distilled_guidance_layer.in_proj"), {}, ["Chroma", "distilled_guidance_layer"]),
        (pair("transformer.transformer_blocks.0.img_mlp.net.0.proj"), {}, ["Qwen-Image", "img_mlp"]),
        (pair("lora_unet_transformer_blocks_3_txt_mod_1"), {}, ["Qwen-Image"]),
        (pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"), {}, ["FLUX.2", "to_qkv_mlp_proj"]),
        (pair("transformer.single_transformer_blocks.0.attn.to_out"), {}, ["FLUX.2"]),
        (pair("transformer.transformer_blocks.0.ff.linear_in"), {}, ["FLUX.2"]),
        (pair("diffusion_model.single_blocks.0.linear1", 1, 3072, 27648), {}, ["FLUX.2", "3072 -> 27648"]),
        (pair("lora_unet_single_blocks_0_linear2", 1, 12288, 3072), {}, ["FLUX.2", "12288 -> 3072"]),
        (pair("diffusion_model.double_blocks.0.img_mlp.0", 1, 3072, 18432), {}, ["FLUX.2"]),
        (pair("lora_unet_double_blocks_0_txt_mlp_2", 1, 9216, 3072), {}, ["FLUX.2"]),
        (pair("diffusion_model.content_mode_blocks.image.0.q_proj"), {}, ["FLUX.3"]),
        (attention(range(5)), {}, ["FLUX.2 klein 4B", "double blocks 0 to 4"]),
        (attention(range(5), "diffusion_model.transformer_blocks"), {}, ["FLUX.2 klein 4B"]),
        (attention(range(60)), {}, ["transformer_blocks.19.attn.to_q", "another model"]),
        (pair("diffusion_model.layers.0.attention.qkv"), {}, ["Z-Image"]),
        (pair("diffusion_model.blocks.0.self_attn.q"), {}, ["Wan"]),
        (pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"), {}, ["for Stable Diffusion ("]),
        (pair("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"), {}, ["for Stable Diffusion ("]),
        (pair("transformer.transformer_blocks.0.attn1.to_q"), {}, ["LTX-Video or PixArt"]),
        (pair("lora_unet_joint_blocks_0_x_block_attn_qkv"), {}, ["Stable Diffusion 3"]),
    ],
)  # fmt: skip
def test_loras_for_other_models_are_refused_by_name(
    deep: BaseReference, tmp_path: Path, tensors: Parts, metadata: dict[str, str], words: list[str]
) -> None:
    path = written(tmp_path / "my.safetensors", tensors, metadata)
    with pytest.raises(LoRAError) as caught:
        lora.load_file(path, deep)
    assert all(word in str(caught.value) for word in ["my.safetensors", *words]), caught.value


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        (ONE, {"modelspec.architecture": "flux-1-dev/lora", "ss_network_module": "networks.lora_flux"}),
        (ONE, {"modelspec.architecture": "Flux.1-schnell/lora", "ss_base_model_version": "flux1"}),
        (ONE, {"base_model": "black-forest-labs/FLUX.1-Kontext-dev"}),
        (ONE, {"ss_network_module": "lycoris.kohya", "ss_base_model_version": "flux_dev"}),
        (attention(range(5)), {"base_model": "FLUX.1-dev"}),
        (attention(range(4)), {}),
        (attention(range(19)), {}),
        (attention(range(5)) | attention(range(1), "transformer.single_transformer_blocks"), {}),
    ],
)
def test_loras_for_flux_1_are_not_taken_for_others(
    deep: BaseReference, tmp_path: Path, tensors: Parts, metadata: dict[str, str]
) -> None:
    back = lora.load_file(written(tmp_path / "my.safetensors", tensors, metadata), deep)
    assert len(back.tensors) == len(tensors)


def test_an_alpha_beyond_what_a_lora_may_have_goes_into_the_weights(narrow: BaseReference, tmp_path: Path) -> None:
    tensors = pair(TO_Q)
    path = written(tmp_path / "my.safetensors", tensors | {f"{TO_Q}.alpha": torch.tensor(9000.0)})
    back = lora.load_file(path, narrow)
    assert back.config.alpha == 3.0
    assert_same(change(back, TO_Q), product(tensors, TO_Q) * 3000)


def test_a_folder_or_a_pickle_is_told_from_a_damaged_file(narrow: BaseReference, tmp_path: Path) -> None:
    with pytest.raises(LoRAError, match="is a folder. Name the LoRA's .safetensors file in it"):
        lora.load_file(tmp_path, narrow)
    for name in ("a.pt", "a.ckpt", "A.BIN", "a.pth"):
        torch.save(pair(TO_Q), tmp_path / name)
        with pytest.raises(LoRAError, match="may run a program when it is read.*the same LoRA as .safetensors"):
            lora.load_file(tmp_path / name, narrow)
