"""Hosts of these tests run on one thread: between many small operations, waiting for a second one costs more."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
