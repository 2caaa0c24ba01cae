"""The frozen FLUX transformer: loading it, and its velocity with the adapter on or off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import flow
from ..config import AUTO, TINY_BASE
from . import checkpoint_files
from .attention import without_cudnn_attention
from .checkpoint_files import (
    TINY_BASE_FOLDER,
    BaseModelError,
    read_transformer_config,
)
from .families import family_of
from .families.family import Prompted, Shift
from .feed_forward import narrow
from .formats import PRECISIONS, place
from .weights import read_weights, whole_config

__all__ = [
    "TINY_BASE_FOLDER",
    "BaseLoader",
    "BaseModelError",
    "BaseReference",
    "FluxBase",
    "empty_base",
    "empty_transformer",
    "load_base",
    "read_transformer_config",
]

# What the backward pass computes anew: nothing, the hidden layers of the feed-forward parts, or every block. Each keeps
# less than the one before it and takes longer; the gradients are the same to the last bit.
CHECKPOINTING = ("none", "feed_forward", "blocks")

Keeping = Callable[[nn.Module, AbstractContextManager], tuple[AbstractContextManager, AbstractContextManager]]


@dataclass(frozen=True)
class BaseReference:
    """Which base a LoRA belongs to. ``path``: a .safetensors file, a diffusers folder, or ``TINY_BASE``.

    ``precision``: one of ``formats.PRECISIONS``, in which the frozen weights are held and computed with, or ``AUTO``:
    whoever loads the base then decides first which one.
    """

    path: str
    precision: str = "bf16"

    def __post_init__(self) -> None:
        known = (*PRECISIONS, AUTO)
        if self.precision not in known:
            raise ValueError(f"BaseReference.precision must be one of {', '.join(known)}, got {self.precision!r}.")

    @property
    def name(self) -> str:
        """A name for people: the file's, without folders."""
        return "fluxduel-tiny-base" if self.path == TINY_BASE else Path(self.path).name

    @cached_property
    def config(self) -> dict[str, Any]:
        """diffusers' configuration of the transformer, read once, so that a LoRA can be saved when its base is gone.

        Raises ``BaseModelError`` where the base is missing or of no family.
        """
        return whole_config(self.path)

    def fingerprint(self) -> str:
        """Identity of the checkpoint's content, 16 hex digits. Raises ``BaseModelError`` where it is gone."""
        return checkpoint_files.fingerprint(self.path)


class FluxBase:
    """The frozen transformer and the switch of the adapter that sits on it.

    The adapter's state belongs to a call, not to the model: ``velocity(..., adapter=False)`` is the frozen base
    also in the blocks that the backward pass computes anew.
    """

    def __init__(self, transformer: nn.Module, reference: BaseReference) -> None:
        self.transformer = transformer.requires_grad_(False).eval()
        self.reference = reference
        self.dtype: torch.dtype = transformer.dtype
        self.device: torch.device = transformer.device
        config = transformer.config
        self.family = family_of({"_class_name": type(transformer).__name__})
        self.guidance_embeds = self.family.guidance_embeds(config)
        self.latent_channels = int(config["in_channels"]) // self.family.space.patch**2
        self.width = int(config["num_attention_heads"] * config["attention_head_dim"])
        self.context_dim = int(config["joint_attention_dim"])
        self.pooled_dim = self.family.pooled_dim(config)
        # How blocks attend, also where they are computed anew; a rehearsal without numbers has a way of its own.
        self.attention: Callable[[], AbstractContextManager] = without_cudnn_attention
        # What is done around a call of a block, and around computing it anew. A base that is streamed has its own way.
        self.keeping: Keeping = nothing_kept
        self.checkpointing = "none"
        # Whether the blocks' own code is compiled. What a part of such a block keeps cannot be chosen from outside: the
        # level "feed_forward" then is "blocks", so that no more is kept than the level says.
        self.compiled = False
        self.find_adapter()

    def find_adapter(self) -> None:
        """Look up the adapter's layers anew; called after an adapter was attached or removed."""
        self._layers = _adapter_layers(self.transformer)
        self._block_layers = {id(block): _adapter_layers(block) for block in self.blocks}

    def remove_adapter(self) -> None:
        """Have the layers that are adapted as they were before, if there are any."""
        for name, layer in [(n, m) for n, m in self.transformer.named_modules() if isinstance(m, BaseTunerLayer)]:
            parent, _, child = name.rpartition(".")
            setattr(self.transformer.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(self.transformer, "peft_config"):
            del self.transformer.peft_config
        self.find_adapter()

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks in the order in which they run."""
        return self.family.blocks(self.transformer)

    @property
    def checkpointing(self) -> str:
        """What the backward pass computes anew, one of ``CHECKPOINTING``."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, level: str) -> None:
        if level not in CHECKPOINTING:
            raise ValueError(f"checkpointing must be one of {', '.join(CHECKPOINTING)}, got {level!r}.")
        self._checkpointing = level
        if level == "none":
            self.transformer.disable_gradient_checkpointing()
        else:
            self.transformer.enable_gradient_checkpointing(self._with_gradient)

    def _with_gradient(self, block: nn.Module, *args: Any) -> Any:
        if self.checkpointing == "blocks" or (self.checkpointing == "feed_forward" and self.compiled):
            return self._checkpoint(block, *args)
        if self.checkpointing == "feed_forward":
            layers, enabled = self.switch(block)
            parts = self.family.hidden_parts(block)
            return narrow(block, *args, parts=parts, computing=lambda: _adapter_switched(layers, enabled))
        return block(*args)

    def _checkpoint(self, block: nn.Module, *args: Any) -> Any:
        layers, enabled = self.switch(block)

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return self.keeping(block, _computing(self.attention, layers, enabled))

        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    def switch(self, block: nn.Module) -> tuple[list[BaseTunerLayer], bool]:
        """The adapter's layers in ``block``, and whether they take part now."""
        # Read when a block is called: by the time of the backward pass another call may have left the switch in another
        # state, and the recomputation would then run, without any error, with the wrong one.
        layers = self._block_layers[id(block)]
        return layers, not (layers and layers[0].disable_adapters)

    def _run(self, block: nn.Module, *args: Any) -> Any:
        return self._with_gradient(block, *args) if torch.is_grad_enabled() else block(*args)

    def shift(self, height: int, width: int) -> Shift:
        """The shift of levels for latents of this size."""
        return Shift(self.family, self.family.space.num_tokens(height, width))

    def seen_sigma(self, sigma: Tensor) -> Tensor:
        """The sigma that this transformer sees when handed ``sigma``; build ``x_t`` with it."""
        return flow.seen_sigma(sigma, self.dtype)

    def velocity(
        self,
        x_t: Tensor,
        sigma: Tensor,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        guidance: float | Tensor,
        *,
        adapter: bool = True,
    ) -> Tensor:
        """The predicted ``noise - x0`` (batch, C, h, w), in fp32.

        ``x_t`` (batch, C, h, w) in model space, ``sigma`` (batch,) in [0, 1], ``prompt_embeds`` (batch, length,
        context_dim), ``pooled_prompt_embeds`` (batch, pooled_dim). ``guidance``, one value or (batch,), is ignored by a
        base without a guidance embedding. ``adapter=False`` leaves the LoRA out; gradients still flow through to
        ``x_t``.
        """
        space, size = self.family.space, tuple(x_t.shape[-2:])
        with _computing(self.attention, self._layers, adapter):
            given = self._prompted(sigma, prompt_embeds, pooled_prompt_embeds, guidance)
            tokens = self.family.forward(self.transformer, space.pack(x_t).to(self.dtype), size, given)
        return space.unpack(tokens.to(torch.promote_types(self.dtype, torch.float32)), *size)

    def features(
        self,
        latents: Tensor,
        sigma: Tensor,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        guidance: float | Tensor,
        taps: Sequence[int],
    ) -> list[Tensor]:
        """What the frozen base, adapter off, makes of ``latents``: the image tokens after each block of ``taps``.

        Arguments as of ``velocity``; ``taps``, rising, number the blocks that can be tapped. Each feature map is
        (batch, width, h / p, w / p) for patches of p x p, in the base's type: whoever computes with it enlarges it when
        its turn comes. Blocks after the last tap do not run. Gradients flow through to ``latents``.
        """
        space, size = self.family.space, tuple(latents.shape[-2:])
        maps = []
        with _computing(self.attention, self._layers, False):
            given = self._prompted(sigma, prompt_embeds, pooled_prompt_embeds, guidance)
            tokens = space.pack(latents).to(self.dtype)
            for index, image in enumerate(self.family.trunk(self.transformer, tokens, size, given, self._run)):
                if index in taps:
                    maps.append(space.token_map(image, *size))
                if index == taps[-1]:
                    break
        return maps

    def _prompted(
        self, sigma: Tensor, prompt_embeds: Tensor, pooled_prompt_embeds: Tensor, guidance: float | Tensor
    ) -> Prompted:
        strength = None
        if self.guidance_embeds:
            strength = torch.as_tensor(guidance, dtype=sigma.dtype, device=sigma.device).expand_as(sigma)
        return Prompted(sigma, prompt_embeds.to(self.dtype), pooled_prompt_embeds.to(self.dtype), strength)


def nothing_kept(
    block: nn.Module, computing: AbstractContextManager
) -> tuple[AbstractContextManager, AbstractContextManager]:
    """``FluxBase.keeping`` where the whole of ``block`` is computed anew, within ``computing``."""
    return nullcontext(), computing


def _adapter_layers(module: nn.Module) -> list[BaseTunerLayer]:
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


@contextmanager
def _computing(
    attention: Callable[[], AbstractContextManager], layers: Sequence[BaseTunerLayer], adapter: bool
) -> Iterator[None]:
    with attention(), _adapter_switched(layers, adapter):
        yield


@contextmanager
def _adapter_switched(layers: Sequence[BaseTunerLayer], enabled: bool) -> Iterator[None]:
    before = [layer._disable_adapters for layer in layers]
    # PEFT's own enable_adapters() also changes requires_grad, which must not happen between a forward pass and its
    # backward pass; so its flag is set directly.
    for layer in layers:
        layer._disable_adapters = not enabled
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def empty_transformer(config: dict[str, Any]) -> nn.Module:
    """A transformer of this configuration without memory for its weights (on the meta device).

    Raises ``BaseModelError`` where the diffusers that is installed is too old for its family.
    """
    family = family_of(config)
    # Of this thread alone: accelerate's init_empty_weights would take the weights of whatever another thread makes.
    with torch.device("meta"):
        return family.without_unused(family.transformer_class().from_config(config))


def empty_base(reference: BaseReference, **changes: int) -> FluxBase:
    """The base in its precision on the meta device: shapes and types are true, and there are no numbers.

    ``changes`` to its configuration, such as another depth. Raises ``BaseModelError`` as ``load_base`` does for what
    the checkpoint's header shows.
    """
    transformer = empty_transformer(read_transformer_config(reference.path) | changes)
    precision = PRECISIONS[reference.precision]
    for name, weight in transformer.state_dict().items():
        place(transformer, name, weight, precision, "meta")
    return FluxBase(transformer, reference)


class BaseLoader(Protocol):
    """``load_base``, or what stands in for it. The base is the caller's until the next call of the same loader."""

    def __call__(
        self, reference: BaseReference, device: torch.device | str, home: torch.device | str | None = None
    ) -> FluxBase: ...


def load_base(
    reference: BaseReference, device: torch.device | str, home: torch.device | str | None = None
) -> FluxBase:
    """Load the frozen transformer onto ``device``, or, decoded there, onto ``home``.

    Raises ``BaseModelError`` for a checkpoint that is missing, damaged, of no family or in a format without a reader.
    """
    transformer = empty_transformer(read_transformer_config(reference.path))
    precision = PRECISIONS[reference.precision]
    for name, weight in read_weights(reference.path, device):
        place(transformer, name, weight, precision, home or device)
    return FluxBase(transformer, reference)
