"""The frozen base: its layout against diffusers, gradients under checkpointing, the adapter's switch, and refusals."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import CheckpointError, checkpoint

from fluxduel.tests.engine.small import CONTEXT, LENGTH, SMALL_FLUX_1, Small, each_family, small_of
from fluxduel.training import flow
from fluxduel.training.base.base_model import (
    CHECKPOINTING,
    BaseModelError,
    BaseReference,
    FluxBase,
    empty_base,
    empty_transformer,
    load_base,
    read_transformer_config,
)
from fluxduel.training.base.families import flux1
from fluxduel.training.base.families.latent_space import FLUX_1
from fluxduel.training.config import TINY_BASE
from fluxduel.training.lora import adapter as lora

log = logging.getLogger(__name__)

SIZES = [(2, 2), (4, 6), (10, 4), (64, 48)]


def inputs(dtype: torch.dtype = torch.float32, batch: int = 2, small: Small = SMALL_FLUX_1) -> dict[str, Any]:
    """Arguments of ``velocity``: latents of 4x6, so that rows and columns are told apart."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)

    return {
        "x_t": draw(batch, small.channels, 4, 6),
        "sigma": torch.tensor([0.25, 0.75], dtype=dtype)[:batch],
        "prompt_embeds": draw(batch, LENGTH, CONTEXT),
        "pooled_prompt_embeds": draw(batch, small.pooled),
        "guidance": 3.5,
    }


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_layout_is_that_of_diffusers(height: int, width: int) -> None:
    latents = torch.randn(2, 16, height, width)
    tokens = FLUX_1.pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, height, width))
    assert torch.equal(FLUX_1.unpack(tokens, height, width), latents)
    theirs = FluxPipeline._unpack_latents(tokens, height * FLUX_1.factor, width * FLUX_1.factor, FLUX_1.factor)
    assert torch.equal(FLUX_1.unpack(tokens, height, width), theirs)
    ids = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(flux1.image_ids(height, width, torch.device("cpu")), ids)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_velocity_is_a_direct_call_of_the_transformer(random_transformer: Path, precision: str) -> None:
    base = load_base(BaseReference(str(random_transformer), precision), "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = FluxTransformer2DModel.from_pretrained(random_transformer, torch_dtype=dtype)
    given = inputs()
    with torch.no_grad():
        tokens = model(
            hidden_states=FluxPipeline._pack_latents(given["x_t"], 2, 16, 4, 6).to(dtype),
            encoder_hidden_states=given["prompt_embeds"].to(dtype),
            pooled_projections=given["pooled_prompt_embeds"].to(dtype),
            timestep=given["sigma"],
            guidance=torch.full((2,), 3.5),
            img_ids=FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32),
            txt_ids=torch.zeros(LENGTH, 3),
        ).sample
        velocity = base.velocity(**given)
    assert velocity.dtype == torch.float32
    assert torch.equal(velocity, FluxPipeline._unpack_latents(tokens.float(), 32, 48, 8))


def test_guidance_matters_only_where_the_base_has_it(random_transformer: Path, tmp_path: Path) -> None:
    base = load_base(BaseReference(str(random_transformer), "fp32"), "cpu")
    config = {**base.transformer.config, "guidance_embeds": False}
    FluxTransformer2DModel.from_config(config).save_pretrained(tmp_path)
    without = load_base(BaseReference(str(tmp_path), "fp32"), "cpu")
    assert (base.guidance_embeds, without.guidance_embeds) == (True, False)
    given = inputs()
    other = {**given, "guidance": 1.0}
    with torch.no_grad():
        assert not torch.equal(base.velocity(**given), base.velocity(**other))
        assert torch.equal(without.velocity(**given), without.velocity(**other))


def generator_gradients(base: FluxBase, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Gradients of a loss on the adapter's velocity, plus one on the frozen base's view of the x0 that it implies.

    Both passes are alive when the backward pass starts, and the frozen one comes last: a recomputation that does not
    know whose it is takes the wrong switch for one of them.
    """
    given = inputs(dtype, small=small_of(base))
    for name in ("x_t", "prompt_embeds"):
        given[name].requires_grad_()  # without it the older kind of checkpoint would give no gradient at all
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2, *given["x_t"].shape, generator=generator).to(dtype)
    velocity = base.velocity(**given)
    x0 = flow.x0_from_velocity(given["x_t"], velocity, given["sigma"])
    level = torch.full((2,), 0.4, dtype=dtype)
    frozen = base.velocity(**{**given, "x_t": flow.interpolate(x0, weight[0], level), "sigma": level}, adapter=False)
    loss = (velocity * weight[0]).square().mean() + (frozen * weight[1]).square().mean()
    for parameter in lora.parameters(base):
        parameter.grad = None
    loss.backward()
    return {key: p.grad for key, p in zip(lora.snapshot(base), lora.parameters(base), strict=True)}


def relative_error(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest, over tensors, of the norm of the difference over the norm of ``b``'s."""
    return max(float((a[key] - b[key]).norm() / b[key].norm()) for key in b)


def base_with(start: lora.FluxLoRA, kind: type[FluxBase] = FluxBase, dtype: torch.dtype = torch.float32) -> FluxBase:
    base = load_base(start.base, "cpu")
    base = kind(base.transformer, start.base)
    lora.attach(base, start)
    base.transformer.to(dtype)
    base.dtype = dtype
    return base


def checkpointing_error(
    start: lora.FluxLoRA, kind: type[FluxBase] = FluxBase, dtype: torch.dtype = torch.float32
) -> float:
    base = base_with(start, kind, dtype)
    base.checkpointing = "none"
    plain = generator_gradients(base, dtype)
    assert all(bool(g.any()) for g in plain.values())
    base.checkpointing = "blocks"
    return relative_error(generator_gradients(base, dtype), plain)


@each_family
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_checkpointed_gradients_are_the_plain_ones(start: lora.FluxLoRA, dtype: torch.dtype, limit: float) -> None:
    error = checkpointing_error(start, dtype=dtype)
    log.info("checkpointed against plain gradients, %s: relative error %.2e", dtype, error)
    assert error <= limit


class SwitchNotBound(FluxBase):
    """The mistake: checkpointed blocks look up the switch when they are recomputed."""

    def _checkpoint(self, block: torch.nn.Module, *args: Any) -> Any:
        return checkpoint(block, *args, use_reentrant=False)


class SwitchNotBoundUnchecked(FluxBase):
    """The same mistake in the older kind of checkpoint, which does not compare what it recomputes."""

    def _checkpoint(self, block: torch.nn.Module, *args: Any) -> Any:
        return checkpoint(block, *args, use_reentrant=True)


@each_family
def test_a_switch_that_is_not_bound_to_the_call_is_caught(start: lora.FluxLoRA) -> None:
    with pytest.raises(CheckpointError):
        checkpointing_error(start, SwitchNotBound)
    error = checkpointing_error(start, SwitchNotBoundUnchecked)
    log.info("with the switch not bound: relative error %.2e", error)
    assert error > 1e-2


@each_family
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_a_pass_without_the_adapter_gives_it_no_gradient(start: lora.FluxLoRA, checkpointing: str) -> None:
    base = base_with(start)
    base.checkpointing = checkpointing
    given = inputs(small=small_of(base))
    x_t = given["x_t"].requires_grad_()
    base.velocity(**given, adapter=False).square().sum().backward()
    assert bool(x_t.grad.any())
    assert all(parameter.grad is None for parameter in base.transformer.parameters())


@each_family
@pytest.mark.parametrize("enabled", [True, False])
def test_no_attention_of_the_base_may_take_cudnns_kernel(
    start: lora.FluxLoRA, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    """In forward, in features and where blocks are computed anew in backward; the host's own choice comes back."""
    attention, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    base = base_with(start)
    base.checkpointing = "blocks"
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        given = inputs(small=small_of(base))
        velocity = base.velocity(**given)
        maps = base.features(
            velocity, given["sigma"], given["prompt_embeds"], given["pooled_prompt_embeds"], 1.0, taps=[1]
        )
        forward = len(seen)
        (velocity.square().sum() + maps[0].square().sum()).backward()
        assert torch.backends.cuda.cudnn_sdp_enabled() == enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
    # Those of the prompt alone have no gradient where the base is frozen.
    prompts = len(base.blocks) - 4
    assert forward == len(base.blocks) + prompts + 2 and len(seen) - forward == len(base.blocks) + 2
    assert not any(seen)


@each_family
def test_the_switch_survives_an_exception(start: lora.FluxLoRA) -> None:
    base = base_with(start)
    given = inputs(small=small_of(base))
    with torch.no_grad():
        on, off = base.velocity(**given), base.velocity(**given, adapter=False)
        assert not torch.equal(on, off)
        broken = {**given, "prompt_embeds": torch.zeros(2, LENGTH, CONTEXT + 1)}
        with pytest.raises(RuntimeError):
            base.velocity(**broken, adapter=False)
        # Every call of `velocity` sets the switch itself; a direct call of the transformer takes it as it was left.
        assert not any(m.disable_adapters for m in base.transformer.modules() if isinstance(m, LoraLayer))
        assert torch.equal(base.velocity(**given), on)


def single_file(folder: Path, **changes: tuple[int, ...] | None) -> Path:
    """A checkpoint in black-forest-labs' layout, right in names and shapes alone; ``None`` leaves a key out."""
    shapes: dict[str, tuple[int, ...] | None] = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (1, 4096),
        "time_in.in_layer.weight": (1, 256),
        "vector_in.in_layer.weight": (1, 768),
        "guidance_in.in_layer.weight": (1, 256),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
        **{f"double_blocks.{i}.img_attn.qkv.weight": (1, 1) for i in range(19)},
        **{f"single_blocks.{i}.linear1.weight": (1, 1) for i in range(38)},
        "final_layer.linear.weight": (64, 1),
    } | changes
    path = folder / "checkpoint.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in shapes.items() if shape is not None}, path)
    return path


def test_configuration_of_a_single_file_comes_from_its_shapes(tmp_path: Path) -> None:
    config = read_transformer_config(str(single_file(tmp_path)))
    dev = {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        "axes_dims_rope": [16, 56, 56],
    }
    assert config == dev
    transformer = empty_transformer(config)
    assert all(weight.is_meta for weight in transformer.parameters())
    assert sum(weight.numel() for weight in transformer.parameters()) == 11_901_408_320
    schnell = single_file(tmp_path, **{"guidance_in.in_layer.weight": None})
    assert read_transformer_config(str(schnell))["guidance_embeds"] is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"double_stream_modulation_img.lin.weight": (1, 1)}, "FLUX.2"),
        ({"double_blocks.0.img_attn.qkv.qweight": (1, 1)}, "a Nunchaku file"),
        ({"distilled_guidance_layer.in_proj.weight": (1, 1)}, "is Chroma"),
        ({"controlnet_x_embedder.weight": (1, 1)}, "a ControlNet"),
        ({"img_in.weight": (3072, 384)}, "384 input channels"),
        ({"img_in.weight": (2000, 64)}, "width 2000"),
        ({"double_blocks.0.img_attn.norm.query_norm.scale": (64,)}, "heads of 64"),
        ({"double_blocks.7.img_attn.qkv.weight": None}, r"double_blocks\.7 are missing"),
        ({"final_layer.linear.weight": None}, "final_layer.linear.weight is missing"),
    ],
)
def test_single_files_that_cannot_be_the_base_are_refused(
    tmp_path: Path, changes: dict[str, tuple[int, ...] | None], words: str
) -> None:
    with pytest.raises(BaseModelError, match=words):
        read_transformer_config(str(single_file(tmp_path, **changes)))


def test_other_files_are_refused(tmp_path: Path) -> None:
    sdxl = tmp_path / "sdxl.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}, sdxl)
    text = tmp_path / "text.safetensors"
    text.write_text("<html>404 not found</html>")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(single_file(tmp_path).read_bytes()[:-100])
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"\x80\x04")
    for path, words in [
        (sdxl, "no FLUX.1 checkpoint"),
        (text, "cannot be read as safetensors"),
        (cut, "cannot be read as safetensors"),
        (pickled, "no safetensors file"),
        (tmp_path / "absent.safetensors", "does not exist"),
    ]:
        for use in (read_transformer_config, lambda p: load_base(BaseReference(p), "cpu")):
            with pytest.raises(BaseModelError, match=words) as caught:
                use(str(path))
            assert path.name in str(caught.value)


def test_folders_that_cannot_be_the_base_are_refused(random_transformer: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(random_transformer, tmp_path / name))

    weights = next(random_transformer.glob("*.safetensors")).name
    without_config, without_weights, other_class, incomplete = map(copy, ("config", "weights", "class", "incomplete"))
    (without_config / "config.json").unlink()
    (without_weights / weights).unlink()
    config = json.loads((other_class / "config.json").read_text())
    (other_class / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
    for folder, words in [
        (without_config, "config.json"),
        (without_weights, "safetensors"),
        (other_class, "UNet2DConditionModel"),
    ]:
        with pytest.raises(BaseModelError, match=words):
            read_transformer_config(str(folder))
    state = FluxTransformer2DModel.from_pretrained(random_transformer).state_dict()
    del state["single_transformer_blocks.1.proj_out.weight"]
    save_file(state, incomplete / weights)
    with pytest.raises(BaseModelError, match=r"single_transformer_blocks\.1\.proj_out\.weight"):
        load_base(BaseReference(str(incomplete), "fp32"), "cpu")


def test_a_pipeline_folder_is_its_transformer(random_transformer: Path, tmp_path: Path) -> None:
    shutil.copytree(random_transformer, tmp_path / "transformer")
    inner = load_base(BaseReference(str(tmp_path), "fp32"), "cpu")
    outer = load_base(BaseReference(str(random_transformer), "fp32"), "cpu")
    with torch.no_grad():
        assert torch.equal(inner.velocity(**inputs()), outer.velocity(**inputs()))


def test_an_empty_base_leaves_what_another_thread_loads_alone() -> None:
    """A graph is checked with empty bases while another one runs: what that loads must have its numbers."""
    done = threading.Event()

    def check() -> None:
        while not done.is_set():
            empty_base(BaseReference(TINY_BASE, "fp32"))

    checking = threading.Thread(target=check)
    checking.start()
    try:
        for _ in range(20):
            base = load_base(BaseReference(TINY_BASE, "fp32"), "cpu")
            assert not [name for name, weight in base.transformer.named_parameters() if weight.is_meta]
    finally:
        done.set()
        checking.join()


def test_fingerprint_is_of_the_content(random_transformer: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(random_transformer, tmp_path / "twin"))
    assert BaseReference(str(twin)).fingerprint() == BaseReference(str(random_transformer)).fingerprint()
    weights = next(twin.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert BaseReference(str(twin)).fingerprint() != BaseReference(str(random_transformer)).fingerprint()
