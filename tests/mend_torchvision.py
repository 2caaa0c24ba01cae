"""Make a torchvision without operators importable in this environment, for transformers, which imports it anywhere.

Writes a .pth file, which Python runs at every start, into the environment's own packages. ``make`` calls it in the
``.venv`` that it has made, and only where ``import torchvision`` fails there.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

SCHEMAS = "from fluxduel.tests.launch_comfy import TorchvisionSchemas"
LINE = f"import sys; {SCHEMAS}; sys.meta_path.insert(0, TorchvisionSchemas())"

if __name__ == "__main__":
    Path(sysconfig.get_path("purelib"), "torchvision_without_operators.pth").write_text(LINE + "\n")
