"""Hosts of these tests run on one thread: with many small operations, waiting for each other costs more than it gains."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
