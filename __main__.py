"""``python -m fluxduel``: training, sampling and evaluation without ComfyUI."""

from __future__ import annotations

import sys

from .headless.command_line import main

if __name__ == "__main__":
    sys.exit(main())
