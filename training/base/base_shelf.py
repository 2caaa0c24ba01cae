"""A loaded base that is kept for whoever wants the same one next."""

from __future__ import annotations

import gc
import logging
from typing import NamedTuple

import torch
from torch import nn

from .base_model import BaseLoader, BaseReference, FluxBase, load_base
from .streaming import streamer_of

log = logging.getLogger(__name__)


class BaseShelf:
    """Loads bases as ``load_base`` does, and keeps the last one: one at a time, for each is as large as a card.

    A base is the caller's until ``take_back`` or the next ``load``. Then adapter, streaming, recomputation and whatever
    else was put on it go, so that its weights are the file's, bit for bit. What cannot be brought back is not kept.
    """

    def __init__(self, load: BaseLoader | None = None) -> None:
        """``load``: where a base comes from that is not kept, ``load_base`` by default."""
        self._load = load
        self._base: FluxBase | None = None
        self._identity: tuple[BaseReference, str] | None = None
        self._as_loaded: dict[str, _Part] = {}

    def __call__(
        self, reference: BaseReference, device: torch.device | str, home: torch.device | str | None = None
    ) -> FluxBase:
        """As ``load_base``: the kept base where it is that one, else from the file, which must not have changed."""
        identity = (reference, reference.fingerprint())
        self.take_back()
        if self._base is not None and self._identity == identity:
            log.info("%s (%s) is still loaded.", reference.name, reference.precision)
            # The caller before may still hold the object that it had.
            self._base = FluxBase(self._base.transformer.to(home or device), reference)
            return self._base
        self.clear()
        log.info("Loading %s (%s).", reference.name, reference.precision)
        base = (self._load or load_base)(reference, device, home)
        self._base, self._identity, self._as_loaded = base, identity, _parts(base.transformer)
        return base

    def take_back(self) -> None:
        """End the use of the base that was handed out, and keep it where it is as it was loaded."""
        # Whatever fails here, nobody gets this base again.
        base, self._base = self._base, None
        if base is not None and _brought_back(base, self._as_loaded):
            self._base = base

    def clear(self) -> None:
        """Keep nothing: the memory is free as soon as nobody else uses the base."""
        loaded = self._identity is not None
        self._base, self._identity, self._as_loaded = None, None, {}
        if loaded:
            # A stage that is over and its watch hold each other, and with them the base, until they are looked for.
            gc.collect()

    def kept_bytes(self, device: torch.device | str) -> int:
        """Of the kept base on ``device``: what the next call can use again, or frees before it loads."""
        return self.sizes().get(torch.empty(0, device=device).device, 0)

    def sizes(self) -> dict[torch.device, int]:
        """How many bytes of the kept base lie on which device; empty where there is none."""
        found: dict[torch.device, int] = {}
        if self._base is None:
            return found
        for tensor in (*self._base.transformer.parameters(), *self._base.transformer.buffers()):
            found[tensor.device] = found.get(tensor.device, 0) + tensor.nbytes
        return found


def kept_bytes(load: BaseLoader | None, device: torch.device | str) -> int:
    """Of the base that ``load`` keeps on ``device``; nothing is kept by what is no shelf."""
    return load.kept_bytes(device) if isinstance(load, BaseShelf) else 0


class _Part(NamedTuple):
    """What a module is made of, its submodules apart."""

    kind: type
    attributes: frozenset[str]
    hooks: tuple[tuple[str, int], ...]
    tensors: tuple[tuple[str, type, torch.dtype, torch.Size], ...]


def _part(module: nn.Module) -> _Part:
    own = vars(module)
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return _Part(
        type(module),
        frozenset(own),
        tuple((name, len(hooks)) for name, hooks in sorted(own.items()) if name.endswith("_hooks")),
        tuple((name, type(tensor), tensor.dtype, tensor.shape) for name, tensor in tensors),
    )


def _parts(transformer: nn.Module) -> dict[str, _Part]:
    return {name: _part(module) for name, module in transformer.named_modules()}


def _brought_back(base: FluxBase, as_loaded: dict[str, _Part]) -> bool:
    """Take off what was put on ``base``; whether it then is as it was loaded."""
    streamer = streamer_of(base)
    if streamer is not None:
        streamer.release()
    base.remove_adapter()
    base.checkpointing = "none"
    for name, module in base.transformer.named_modules():
        # As compiling puts a ``forward`` in front of the class's own.
        for added in vars(module).keys() - as_loaded[name].attributes if name in as_loaded else ():
            delattr(module, added)
    if _parts(base.transformer) == as_loaded:
        return True
    log.info("%s is not kept: it is no longer as it was loaded.", base.reference.name)
    return False
