"""The captioned pictures that come with the pack, as a training folder."""

from __future__ import annotations

from pathlib import Path

DEMO_LABEL = "demo pictures (built in)"
DEMO_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "demo_pictures" / "train"
