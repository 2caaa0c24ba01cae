"""Which pictures a headless run trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fluxduel.headless.run_config import RunConfig
from fluxduel.headless.train_command import encoded_pictures
from fluxduel.training.config import TINY_BASE
from fluxduel.training.data.encoders import load_encoders


def test_what_runs_write_among_the_pictures_is_not_trained_on(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.gif", "out/grid.png", "kept/stray.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    config = RunConfig.from_values(
        {
            "images": {"folder": str(tmp_path), "caption_rule": "file name"},
            "output": {"folder": str(tmp_path / "out"), "cache": str(tmp_path / "kept")},
            "data": {"resolution": 64, "held_out_share": 0.5},
        }
    )
    encoders = load_encoders(config.encoders, TINY_BASE, "cpu")
    data, report = encoded_pictures(config, encoders, lambda done, total: None)
    assert [sample.name for sample in data.samples] == ["a.png", "b.gif"]
    assert "Folders of runs, outputs and caches, not read: 2 ('kept', 'out')." in report
