"""The base's blocks compiled by torch: one function for all double blocks and one for all single ones."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ..failure_words import reason
from .base_model import FluxBase
from .int8 import rotation

# By kind of device. Elsewhere torch's compiler gains nothing or is not ready.
BACKENDS = {"cuda": "inductor", "xpu": "inductor"}
# Of one kind of block. A graph of its own have: a pass with a gradient and one without, with the adapter and without,
# of one picture and of several. Sizes are variables.
MOST_GRAPHS = 16

log = logging.getLogger(__name__)


class CompiledBlocks:
    """The compiled blocks of one base, by ``compile_blocks``."""

    def __init__(self, base: FluxBase, backend: str) -> None:
        self._base = base
        self._counter = _Counter(backend)
        self._plain: dict[type, Callable[..., Any]] = {type(block): type(block).forward for block in base.blocks}
        self._compiled = {kind: _compiled(forward, self._counter) for kind, forward in self._plain.items()}
        self._left_out: set[tuple[Any, ...]] = set()
        self._notes: list[str] = []
        # Not the first of a chain, whose inputs have other gradients or another layout than those that a block of its
        # kind gives: graphs of its own would be many for little.
        for chain in base.family.chains(base.transformer):
            for block in chain[1:]:
                # In front of the class's own, and not the call: the hook that streams a block is not to be compiled.
                block.forward = functools.partial(self._call, block)
        base.compiled = True

    @property
    def graphs(self) -> int:
        """How many have been made so far, of both kinds of block."""
        return self._counter.graphs

    def take_notes(self) -> list[str]:
        """What was noticed since the last call, in sentences for the user."""
        told, self._notes = self._notes, []
        return told

    def _call(self, block: nn.Module, *given: Any, **named: Any) -> Any:
        kind = type(block)
        bound = inspect.signature(self._plain[kind]).bind(block, *given, **named)
        given = tuple(bound.args[1:])
        layers, adapted = self._base.switch(block)
        tensors = [each for each in given if isinstance(each, Tensor)]
        # A block that none asks for a gradient (FLUX.3's of the prompt, without the adapter) runs as in a pass without.
        asked = bool(layers and adapted) or any(each.requires_grad for each in tensors)
        gradient = torch.is_grad_enabled() and asked
        # By this a block that is computed anew is known to be the same case as before.
        case = (kind, gradient, adapted, *((each.shape, each.requires_grad) for each in tensors))
        if case in self._left_out:
            return self._plain[kind](block, *given)
        try:
            with torch.set_grad_enabled(gradient), _most_graphs():
                return self._compiled[kind](block, *given)
        except _failures() as problem:
            self._leave_out(case, problem)
            return self._plain[kind](block, *given)

    def _leave_out(self, case: tuple[Any, ...], problem: Exception) -> None:
        log.warning("A block could not be compiled: %s", reason(problem))
        if not self._left_out:
            self._notes.append(
                f"compile_blocks: torch could not compile some of the base's passes ({_first_line(problem)}) after "
                f"{self.graphs} graphs. They run as they are, which is slower."
            )
        self._left_out.add(case)


def compile_blocks(base: FluxBase, split: bool = False) -> tuple[CompiledBlocks | None, str]:
    """Have the blocks of ``base`` compiled when they are called, or say in a sentence why not.

    ``split``: the base is split over cards. The adapter has to be attached already. Streaming, every level of
    ``base.checkpointing`` and the adapter's switch work as without, but that "feed_forward" computes whole blocks anew.
    """
    if split:
        return None, "compile_blocks: blocks of a base that is split over cards (base.shard) run as they are."
    backend = BACKENDS.get(base.device.type)
    if backend is None:
        return None, f"compile_blocks: on {base.device.type} blocks are not compiled, and run as they are."
    problem = _problem(backend, base.device, base.dtype)
    if problem:
        return None, (
            f"compile_blocks: torch cannot compile here ({problem}). Blocks run as they are. On a GPU it needs the "
            "package triton (triton-windows on Windows) and a C compiler."
        )
    # Else the compiler would have it made anew, number by number, wherever a block takes it.
    torch.compiler.assume_constant_result(rotation)
    return CompiledBlocks(base, backend), ""


class _Counter:
    """A backend of torch's compiler that counts. It holds nothing of a base: torch keeps backends for good."""

    def __init__(self, backend: str) -> None:
        self.graphs = 0
        self._make = torch._dynamo.lookup_backend(backend)

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        # torch breaks the first of a kind off, and has it made anew, once it knows which numbers have to be constants.
        made = self._make(graph, inputs)
        self.graphs += 1
        return made


class _RunsPlainError(RuntimeError):
    """torch runs what was to be compiled without compiling it, and has not said why."""


def _compiled(forward: Callable[..., Any], backend: _Counter) -> Callable[..., Any]:
    def run(block: nn.Module, *given: Any) -> Any:
        if not torch.compiler.is_compiling():
            raise _RunsPlainError("it was run as it is")
        return forward(block, *given)

    # torch keeps graphs, and counts them, by code: with a code of its own a base shares neither with anyone.
    own = FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)
    return torch.compile(own, backend=backend, dynamic=True, fullgraph=True)


def _most_graphs() -> AbstractContextManager:
    config = torch._dynamo.config
    # Its name before torch 2.6.
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    return config.patch({name: MOST_GRAPHS})


def _failures() -> tuple[type[Exception], ...]:
    errors = torch._dynamo.exc
    # Of a limit that is reached; it is not among the others.
    limit = getattr(errors, "FailOnRecompileLimitHit", errors.TorchDynamoException)
    return (errors.TorchDynamoException, limit, _RunsPlainError)


@functools.cache
def _problem(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why nothing can be compiled there, found by compiling a small function and its gradient; empty: it can."""

    def run(x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x @ x).sum()

    try:
        counter = _Counter(backend)
        x = torch.ones(32, 32, device=device, dtype=dtype, requires_grad=True)
        torch.compile(run, backend=counter, fullgraph=True)(x).backward()
    # Whatever a compiler does that is not there or not whole.
    except Exception as problem:
        log.warning("torch.compile with %s does not work on %s: %s", backend, device, reason(problem))
        return _first_line(problem)
    return ""


def _first_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(problem).__name__
