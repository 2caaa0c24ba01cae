"""Run a ComfyUI checkout as ``python main.py`` does, where torch's companions do not fit the installed torch.

    python launch_comfy.py <ComfyUI folder> [arguments of main.py]

torchvision: a wheel that was built for another build of torch loads without its compiled operators, and its
import then fails with "operator torchvision::nms does not exist". ComfyUI needs none of these operators, so
their schemas are enough. They are defined only where torchvision has just found itself without operators,
and only at that moment: torch must not be imported before main.py has chosen the device.

torchaudio: newer hosts import it at start-up, and its wheels do not even load beside another build of torch.
Where it is not installed, empty modules stand in; only audio nodes would call it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
from pathlib import Path


class TorchvisionSchemas(importlib.abc.MetaPathFinder):
    """Defines the schemas that ``torchvision._meta_registrations`` is about to register fakes for."""

    def __init__(self) -> None:
        self._library: object | None = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name != "torchvision._meta_registrations" or self._library is not None:
            return
        if sys.modules["torchvision.extension"]._has_ops():
            return
        import torch
        from torch.library import Library

        if hasattr(torch.ops.torchvision, "nms"):
            return
        library = Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        self._library = library  # the definitions live as long as this object


def stand_in_for_torchaudio() -> None:
    if importlib.util.find_spec("torchaudio") is not None:
        return
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        spec = importlib.machinery.ModuleSpec(name, None, is_package=name == "torchaudio")
        sys.modules[name] = importlib.util.module_from_spec(spec)
    for part in ("functional", "transforms"):
        setattr(sys.modules["torchaudio"], part, sys.modules[f"torchaudio.{part}"])


def enter(host: str, base: str | None = None) -> None:
    """Make the modules of ``host`` those of this process, on the CPU; its files lie in ``base``, where one is given."""
    sys.meta_path.insert(0, TorchvisionSchemas())
    stand_in_for_torchaudio()
    sys.path[0] = host
    # The host reads them when it is imported.
    sys.argv = sys.argv[:1]
    # As main.py does: importing the host's nodes puts another `utils` in front of this one.
    importlib.import_module("utils.install_util")
    arguments = importlib.import_module("comfy.cli_args").args
    arguments.cpu = True
    if base is not None:
        arguments.base_directory = base


def main() -> None:
    host = Path(sys.argv[1]).resolve()
    main_file = host / "main.py"
    sys.meta_path.insert(0, TorchvisionSchemas())
    stand_in_for_torchaudio()
    sys.path[0] = str(host)  # where `python main.py` has its own folder, and this file's folder is now
    sys.argv = [str(main_file), *sys.argv[2:]]
    runpy.run_path(str(main_file), run_name="__main__")


if __name__ == "__main__":
    main()
