"""Run inside a host's own modules: the base that is kept, as one of the host's models.

    python host_kept_base.py <ComfyUI folder> <base directory> <report.json>

Each function puts plain values into the report; ``test_kept_base.py`` judges them.
"""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from typing import Any

Report = dict[str, Any]


def use(fail: bool = False) -> Any:
    """A weak reference to the transformer that a node computes with."""
    from fluxduel.nodes import host
    from fluxduel.training.base.base_model import BaseReference
    from fluxduel.training.config import TINY_BASE, LoRAConfig
    from fluxduel.training.lora import adapter as lora

    seen = []

    def work(device: Any, load: Any) -> None:
        base = load(BaseReference(TINY_BASE, "fp32"), device)
        lora.attach(base, lora.create(base.reference, LoRAConfig(rank=1, alpha=1.0)))
        seen.append(weakref.ref(base.transformer))
        if fail:
            raise ValueError("in the midst of it")

    try:
        host.with_device(work)
    except ValueError:
        assert fail
    return seen[0]


def ours() -> list[Any]:
    """The host's models that are a kept base."""
    import comfy.model_management as memory

    return [each for each in memory.loaded_models() if type(each.model).__name__ == "FluxDuelBase"]


def other_model() -> Any:
    """Some model of the host's, loaded."""
    import comfy.model_management as memory
    import torch
    from comfy.model_patcher import ModelPatcher

    other = ModelPatcher(torch.nn.Linear(4, 4), memory.get_torch_device(), torch.device("cpu"))
    memory.load_models_gpu([other])
    return other


def kept(report: Report) -> None:
    """Two uses after each other, with a model of the host's between them, and a use that fails."""
    import comfy.model_management as memory

    first = use()
    report["listed"] = len(ours())
    report["size"] = [ours()[0].model_size(), ours()[0].loaded_size()]
    weights = [*first().parameters(), *first().buffers()]
    report["bytes"] = sum(each.nbytes for each in weights)
    other = other_model()
    second = use()
    report["same"] = first() is second()
    report["others_left"] = other in memory.loaded_models()
    report["same_after_failure"] = use(fail=True)() is use()() is first()
    report["listed_once"] = len(ours())


def given_back(report: Report) -> None:
    """What the host does where it wants memory: it takes ours only where it has to, and then all of it."""
    import comfy.model_management as memory

    device = memory.get_torch_device()
    held = use()
    memory.free_memory(1, device)
    report["kept_where_there_is_room"] = held() is not None and len(ours()) == 1
    memory.free_memory(memory.get_free_memory(device) + 2**30, device)
    report["gone_where_there_is_none"] = held() is None and not ours()
    for name, unload in (
        ("unload_all_models", memory.unload_all_models),
        ("cleanup", lambda: memory.free_memory(1e30, device)),
    ):
        held = use()
        unload()
        report[name] = held() is None and not ours()
    # A part would do, as of a model that is larger than what is wanted.
    held = use()
    (entry,) = [each for each in memory.current_loaded_models if each.model in ours()]
    report["whole"] = entry.model_unload(1) and held() is None
    memory.current_loaded_models.remove(entry)
    report["loaded_anew"] = use()() is not None and len(ours()) == 1


def beside_the_hosts(report: Report) -> None:
    """The host loads a model of its own while ours is kept: there is room, so both stay."""
    import comfy.model_management as memory

    held = use()
    other = other_model()
    report["both"] = held() is not None and set(map(id, (other, *ours()))) <= set(map(id, memory.loaded_models()))


def not_kept(report: Report) -> None:
    """Hosts that are told to keep nothing on the card."""
    import comfy.model_management as memory

    from fluxduel.nodes.host import kept_base

    memory.DISABLE_SMART_MEMORY = True
    report["smart_memory_off"] = use()() is None and not ours()
    memory.DISABLE_SMART_MEMORY = False
    before, memory.vram_state = memory.vram_state, memory.VRAMState.NO_VRAM
    report["novram"] = use()() is None and not ours()
    memory.vram_state = memory.VRAMState.LOW_VRAM
    report["lowvram"] = use()() is not None and len(ours()) == 1
    memory.vram_state = before
    free = memory.get_free_memory(memory.torch.device("cpu"))
    report["room"] = [kept_base.may_stay(taken) for taken in (0, free // 4, free * 2)]


def main() -> None:
    from fluxduel.tests.launch_comfy import enter

    host, base, report_file = sys.argv[1:]
    enter(host, base)
    import torch

    report: Report = {}
    with torch.inference_mode():
        for check in (kept, given_back, beside_the_hosts, not_kept):
            check(report)
    Path(report_file).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
