"""The adapter on a base: initial weights, targets, precision, replacement, state in and out, refusals."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer

from fluxduel.tests.engine.conftest import CONTEXT, LENGTH, POOLED
from fluxduel.training.base.base_model import CHECKPOINTING, BaseReference, FluxBase, load_base
from fluxduel.training.config import LoRAConfig
from fluxduel.training.lora import adapter as lora
from fluxduel.training.lora.adapter import FluxLoRA, LoRAError

log = logging.getLogger(__name__)

PRESETS = ("attention", "attention+mlp", "all")
LAYERS = {  # written out here, so that a preset that lost a layer is noticed
    "attention": (
        {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"}
        | {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"},
        {"attn.to_q", "attn.to_k", "attn.to_v"},
    ),
    "attention+mlp": (
        {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"},
        {"proj_mlp", "proj_out"},
    ),
    "all": ({"norm1.linear", "norm1_context.linear"}, {"norm.linear"}),
}


@pytest.fixture(params=["fp32", "bf16"])
def base(request: pytest.FixtureRequest, random_transformer: Path) -> FluxBase:
    return load_base(BaseReference(str(random_transformer), request.param), "cpu")


def velocity(base: FluxBase, adapter: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return base.velocity(
            torch.randn(2, 16, 4, 6, generator=generator),
            torch.tensor([0.25, 0.75]),
            torch.randn(2, LENGTH, CONTEXT, generator=generator),
            torch.randn(2, POOLED, generator=generator),
            3.5,
            adapter=adapter,
        )


def randomised(like: FluxLoRA, seed: int = 0) -> FluxLoRA:
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: torch.randn(t.shape, generator=generator) * 0.1 for key, t in like.tensors.items()}
    return dataclasses.replace(like, tensors=tensors)


def expected_modules(preset: str) -> set[str]:
    modules = set()
    for name in PRESETS[: PRESETS.index(preset) + 1]:
        double, single = LAYERS[name]
        modules |= {f"transformer_blocks.{i}.{layer}" for i in range(2) for layer in double}
        modules |= {f"single_transformer_blocks.{i}.{layer}" for i in range(2) for layer in single}
    return modules


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_adapt_what_they_say(base: FluxBase, preset: str) -> None:
    new = lora.create(base.reference, LoRAConfig(rank=2, targets=preset))
    assert {key.rpartition(".lora_")[0] for key in new.tensors} == expected_modules(preset)
    lora.attach(base, new)
    on_base = {name for name, module in base.transformer.named_modules() if isinstance(module, LoraLayer)}
    assert on_base == expected_modules(preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_fresh_adapter_leaves_the_output_bit_identical(base: FluxBase, preset: str) -> None:
    before = velocity(base)
    lora.attach(base, lora.create(base.reference, LoRAConfig(rank=2, alpha=7.0, targets=preset)))
    assert torch.equal(velocity(base), before)


def test_initial_weights(reference: BaseReference) -> None:
    """B zero; A uniform within 1/sqrt(in), drawn anew for each layer and seed, whatever else is adapted."""
    wide = lora.create(reference, LoRAConfig(rank=64, targets="all", seed=5))
    for key, tensor in wide.tensors.items():
        if key.endswith("lora_B.weight"):
            assert not tensor.any()
        else:
            bound = 1 / math.sqrt(tensor.shape[1])
            assert 0.98 * bound < tensor.abs().max() <= bound
            assert tensor.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    narrow = lora.create(reference, LoRAConfig(rank=64, targets="attention", seed=5))
    assert all(torch.equal(tensor, wide.tensors[key]) for key, tensor in narrow.tensors.items())
    downs = [t for key, t in narrow.tensors.items() if key.endswith("lora_A.weight")]
    assert not torch.equal(downs[0], downs[1])
    other = lora.create(reference, LoRAConfig(rank=64, targets="attention", seed=6))
    assert not torch.equal(other.tensors["transformer_blocks.0.attn.to_q.lora_A.weight"], downs[0])


def test_the_change_is_b_a_alpha_over_rank(random_transformer: Path) -> None:
    """Against diffusers' own model with the change added to its weights by hand."""
    reference = BaseReference(str(random_transformer), "fp32")
    base = load_base(reference, "cpu")
    some = randomised(lora.create(reference, LoRAConfig(rank=3, alpha=1.5, targets="all")))
    lora.attach(base, some)
    merged = load_base(reference, "cpu")
    for module in expected_modules("all"):
        change = some.tensors[f"{module}.lora_B.weight"] @ some.tensors[f"{module}.lora_A.weight"] * 0.5
        merged.transformer.get_submodule(module).weight.data += change
    torch.testing.assert_close(velocity(base), velocity(merged), rtol=1e-4, atol=1e-5)
    assert (velocity(base) - velocity(base, adapter=False)).abs().max() > 0.1


def test_only_the_adapter_trains_and_in_fp32(base: FluxBase) -> None:
    some = randomised(lora.create(base.reference, LoRAConfig(rank=2)))
    lora.attach(base, some)
    parameters = lora.parameters(base)
    assert len(parameters) == len(some.tensors)
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in parameters)
    training = {id(p) for p in base.transformer.parameters() if p.requires_grad}
    assert training == {id(p) for p in parameters}
    assert {p.dtype for p in base.transformer.parameters() if not p.requires_grad} == {base.dtype}


def test_training_leaves_the_value_as_it_was(base: FluxBase) -> None:
    some = randomised(lora.create(base.reference, LoRAConfig(rank=2)))
    copy = {key: tensor.clone() for key, tensor in some.tensors.items()}
    lora.attach(base, some)
    with torch.no_grad():
        for parameter in lora.parameters(base):
            parameter.add_(1)
    assert all(torch.equal(some.tensors[key], tensor) for key, tensor in copy.items())


def test_an_adapter_replaces_the_one_before(base: FluxBase) -> None:
    before = velocity(base)
    first = randomised(lora.create(base.reference, LoRAConfig(rank=4, alpha=2.0, targets="all")))
    second = randomised(lora.create(base.reference, LoRAConfig(rank=2, alpha=8.0, targets="attention")), seed=1)
    lora.attach(base, second)
    alone = velocity(base)
    lora.attach(base, first)
    assert not torch.equal(velocity(base), alone)
    lora.attach(base, second)
    assert torch.equal(velocity(base), alone)
    assert torch.equal(velocity(base, adapter=False), before)
    assert lora.snapshot(base).keys() == second.tensors.keys()
    assert sum(isinstance(module, LoraLayer) for module in base.transformer.modules()) == len(second.tensors) // 2


def test_a_value_made_in_inference_mode_can_be_trained(base: FluxBase) -> None:
    """The host runs its nodes in inference mode, and autograd refuses tensors that were made there."""
    with torch.inference_mode():
        some = randomised(lora.create(base.reference, LoRAConfig(rank=2)))
    lora.attach(base, some)
    sum(parameter.square().sum() for parameter in lora.parameters(base)).backward()
    x_t, prompt, pooled = torch.zeros(1, 16, 2, 2), torch.zeros(1, LENGTH, CONTEXT), torch.zeros(1, POOLED)
    base.velocity(x_t, torch.tensor([0.5]), prompt, pooled, 1.0).sum().backward()
    lora.restore(base, some.tensors)


def test_attaching_draws_nothing_at_random(base: FluxBase) -> None:
    some = lora.create(base.reference, LoRAConfig(rank=2))
    state = torch.random.get_rng_state()
    lora.attach(base, some)
    lora.create(base.reference, LoRAConfig(rank=2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_snapshot_and_restore_are_bit_exact(base: FluxBase) -> None:
    first = randomised(lora.create(base.reference, LoRAConfig(rank=2)))
    second = randomised(first, seed=1)
    lora.attach(base, first)
    parameters = lora.parameters(base)
    saved, output = lora.snapshot(base), velocity(base)
    assert saved.keys() == first.tensors.keys()
    assert all(torch.equal(saved[key], first.tensors[key]) for key in saved)
    lora.restore(base, second.tensors)
    assert not torch.equal(velocity(base), output)
    lora.restore(base, saved)
    assert torch.equal(velocity(base), output)
    assert all(a is b for a, b in zip(parameters, lora.parameters(base), strict=True))
    lora.restore(base, second.tensors)
    assert all(torch.equal(saved[key], first.tensors[key]) for key in saved), "a snapshot is no view of the weights"


def test_restore_refuses_other_tensors_and_writes_nothing(base: FluxBase) -> None:
    some = randomised(lora.create(base.reference, LoRAConfig(rank=2)))
    lora.attach(base, some)
    other = dict(randomised(some, seed=1).tensors)
    last = list(other)[-1]
    with pytest.raises(LoRAError, match=last):
        lora.restore(base, {key: tensor for key, tensor in other.items() if key != last})
    with pytest.raises(LoRAError, match=last):
        lora.restore(base, other | {last: torch.zeros(1, 2)})
    assert all(torch.equal(tensor, some.tensors[key]) for key, tensor in lora.snapshot(base).items())


def test_a_rank_above_the_layers_own_is_allowed(base: FluxBase) -> None:
    some = randomised(lora.create(base.reference, LoRAConfig(rank=96)))
    before = velocity(base)
    lora.attach(base, some)
    assert not torch.equal(velocity(base), before)


def test_an_expression_names_whole_layers(base: FluxBase) -> None:
    """``proj_out`` outside the blocks is one layer, though each single block has one of that name as well."""
    for expression, modules in [
        ("proj_out", {"proj_out"}),
        (r"single_transformer_blocks\.1\.proj_(mlp|out)",
         {"single_transformer_blocks.1.proj_mlp", "single_transformer_blocks.1.proj_out"}),
    ]:  # fmt: skip
        some = lora.create(base.reference, LoRAConfig(rank=2, targets="regex", target_regex=expression))
        assert {key.rpartition(".lora_")[0] for key in some.tensors} == modules
        lora.attach(base, some)
        assert lora.snapshot(base).keys() == some.tensors.keys()


def test_an_expression_without_a_match_is_refused(reference: BaseReference) -> None:
    with pytest.raises(LoRAError) as caught:
        lora.create(reference, LoRAConfig(targets="regex", target_regex=r"to_q"))
    assert "'to_q'" in str(caught.value)
    assert "transformer_blocks.0." in str(caught.value)


def test_create_reads_no_weights(random_transformer: Path, tmp_path: Path) -> None:
    """A checkpoint of FLUX.1-dev's size whose weights are a hole in the file: headers are all that is there."""
    from fluxduel.tests.true_width import write_headers

    path = write_headers(tmp_path / "flux1-dev.safetensors")
    new = lora.create(BaseReference(str(path)), LoRAConfig(rank=1, targets="attention"))
    assert len(new.tensors) == 2 * (19 * 8 + 38 * 3)
    assert new.tensors["single_transformer_blocks.37.attn.to_v.lora_B.weight"].shape == (3072, 1)


def test_an_adapter_of_another_model_is_refused(base: FluxBase) -> None:
    some = randomised(lora.create(base.reference, LoRAConfig(rank=2, targets="attention")))
    lora.attach(base, some)
    output = velocity(base)
    key = "transformer_blocks.0.attn.to_q.lora_A.weight"
    wider = dataclasses.replace(some, tensors={**some.tensors, key: torch.zeros(2, 3072)})
    deeper = dataclasses.replace(
        some,
        tensors={name.replace("blocks.1.", "blocks.7."): tensor for name, tensor in some.tensors.items()},
    )
    for other, words in [
        (wider, [key, "(2, 3072)", "(rank, 32)"]),
        (deeper, ["transformer_blocks.7.attn", "no linear layer"]),
    ]:
        with pytest.raises(LoRAError) as caught:
            lora.attach(base, other)
        assert all(word in str(caught.value) for word in words), caught.value
    assert torch.equal(velocity(base), output)


def test_a_value_is_checked_when_it_is_made(start: FluxLoRA) -> None:
    down, up = list(start.tensors)[:2]
    for tensors, words in [
        ({down: start.tensors[down]}, "lora_B"),
        ({**start.tensors, down: torch.zeros(4, 32)}, "rank 3"),
        ({**start.tensors, up: start.tensors[up].bfloat16()}, "fp32"),
        ({"transformer_blocks.0.attn.to_q.weight": torch.zeros(2, 2)}, "no LoRA tensor"),
    ]:
        with pytest.raises(LoRAError, match=words):
            dataclasses.replace(start, tensors=tensors)


def test_without_an_adapter_there_is_nothing_to_read(base: FluxBase) -> None:
    for use in (lora.snapshot, lora.parameters):
        with pytest.raises(LoRAError, match="No LoRA is attached"):
            use(base)


def test_diffusers_loads_the_file(start: FluxLoRA, tmp_path: Path, random_transformer: Path) -> None:
    """diffusers' own loader, with its own reading of alpha, gives the same model."""
    from safetensors.torch import load_file

    base = load_base(start.base, "cpu")
    lora.attach(base, start)
    expected = velocity(base)
    theirs = FluxTransformer2DModel.from_pretrained(random_transformer)
    file = load_file(lora.save(start, tmp_path / "file.safetensors"))
    alphas = {key: tensor for key, tensor in file.items() if key.endswith(".alpha")}
    weights = {key: tensor for key, tensor in file.items() if not key.endswith(".alpha")}
    theirs.load_lora_adapter(weights, network_alphas=alphas, prefix="transformer")
    # diffusers 0.35 multiplies in another order; a wrong alpha would differ in the first digit.
    torch.testing.assert_close(velocity(FluxBase(theirs, start.base)), expected, rtol=1e-5, atol=1e-5)


# The type it computes in


def gradients(base: FluxBase) -> dict[str, torch.Tensor]:
    """A velocity, and the gradient of its mean square from something, by all of the adapter's tensors; fp64 vectors.

    What is given is exact in bf16, levels and guidance times 1000 included.
    """
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(base.dtype)

    sigma = torch.tensor([0.25, 0.5]).to(base.dtype)
    got = base.velocity(draw(2, 16, 8, 12), sigma, draw(2, LENGTH, CONTEXT), draw(2, POOLED), 1.0)
    target = draw(*got.shape).to(got)
    for weight in lora.parameters(base):
        weight.grad = None
    (got - target).square().mean().backward()
    found = {key: weight.grad for key, weight in lora._weights(base).items()}
    assert all(gradient is not None and gradient.dtype != torch.bfloat16 for gradient in found.values())
    return {
        "velocity": got.detach().double().flatten(),
        "gradient": torch.cat([gradient.double().flatten() for gradient in found.values()]),
    }


def in_fp32(base: FluxBase) -> None:
    """The adapter as PEFT computes it: each layer's input is copied to fp32, and its factors compute in that."""
    for _, layer in lora._lora_layers(base):
        layer.cast_input_dtype_enabled = True


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_computing_in_bf16_is_as_exact_as_a_bf16_base_allows(random_transformer: Path, checkpointing: str) -> None:
    """The factors in bf16 add less to the error than the base in bf16 already has; masters and gradients stay fp32.

    Measured against fp64 with the same weights: velocity 0.0114 (factors in fp32: 0.0113), gradient 0.0148 (0.0136).
    """
    reference = BaseReference(str(random_transformer), "bf16")
    value = randomised(lora.create(reference, LoRAConfig(rank=3, alpha=6.0, targets="all")))
    found = {}
    for name in ("bf16", "factors in fp32", "fp64"):
        base = load_base(reference, "cpu")
        lora.attach(base, value)
        base.checkpointing = checkpointing
        if name == "factors in fp32":
            in_fp32(base)
        if name == "fp64":
            base.transformer.to(torch.float64)
            base.dtype = torch.float64
        found[name] = gradients(base)
    for kind in ("velocity", "gradient"):
        truth = found["fp64"][kind]
        ours, theirs = (
            float((found[name][kind] - truth).norm() / truth.norm()) for name in ("bf16", "factors in fp32")
        )
        apart = float((found["bf16"][kind] - found["factors in fp32"][kind]).norm() / truth.norm())
        log.info("%s: error %.4f, with factors in fp32 %.4f, between them %.4f", kind, ours, theirs, apart)
        assert 0 < ours < 1.25 * theirs and 0 < apart < 1.25 * theirs


def test_a_base_in_bf16_keeps_no_activations_in_fp32_for_the_adapter(random_transformer: Path) -> None:
    """What a pass saves for its backward pass, besides the factors themselves, is no larger than without an adapter."""
    reference = BaseReference(str(random_transformer), "bf16")
    rank = 3
    base = load_base(reference, "cpu")
    lora.attach(base, randomised(lora.create(reference, LoRAConfig(rank=rank, alpha=6.0))))

    def saved() -> int:
        """Bytes of distinct fp32 tensors that a pass keeps and that are as large as its 64 tokens."""
        kept = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dtype == torch.float32 and tensor.numel() >= 64 * base.width:
                kept[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            base.velocity(
                torch.randn(1, 16, 16, 16),
                torch.tensor([0.5]),
                torch.randn(1, LENGTH, CONTEXT),
                torch.randn(1, POOLED),
                3.5,
            )
        return sum(tensor.nbytes for tensor in kept.values())

    ours = saved()
    in_fp32(base)
    theirs = saved()
    log.info("fp32 activations of a pass: %d bytes, with factors in fp32 %d", ours, theirs)
    assert ours < theirs / 3


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_a_base_in_fp32_computes_as_before_bit_for_bit(
    reference: BaseReference, start: FluxLoRA, checkpointing: str
) -> None:
    found = []
    for plain in (False, True):
        base = load_base(reference, "cpu")
        lora.attach(base, start)
        base.checkpointing = checkpointing
        if plain:
            in_fp32(base)
            for _, layer in lora._lora_layers(base):
                for part in (layer.lora_A, layer.lora_B):
                    linear = torch.nn.Linear(*reversed(part["default"].weight.shape), bias=False)
                    linear.weight = part["default"].weight
                    part["default"] = linear
        found.append(gradients(base))
    assert all(torch.equal(found[0][kind], found[1][kind]) for kind in found[0])
