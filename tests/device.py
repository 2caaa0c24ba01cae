"""Where tests of the engine train: the CPU, or what FLUXDUEL_TEST_DEVICE names, as ``cuda``.

Those that compare with numbers of their own computing bring both sides to one device.
"""

from __future__ import annotations

import os

DEVICE = os.environ.get("FLUXDUEL_TEST_DEVICE", "cpu")
