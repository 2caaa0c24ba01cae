"""LoRAs measured against real pictures, without ComfyUI: the job behind ``python -m fluxduel evaluate``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..training.atomic_file import write_whole
from ..training.config import LoRAConfig
from ..training.data.encoders import load_encoders
from ..training.evidence.evaluation import evaluate
from ..training.evidence.evaluation_plot import picture_sheet, plot_evaluation
from ..training.evidence.picture_files import single_pictures
from ..training.lora.adapter import create, load_file
from ..training.runs.output_check import check_writable, leaving_nothing
from .launched import joined
from .run_config import RunConfig
from .terminal import Progress, say
from .train_command import base_reference, cache_folder, encoded_pictures, sampling_reference

REPORT, NUMBERS, CHART, PICTURES = "report.md", "evaluation.json", "chart.png", "pictures.png"


def evaluate_loras(
    config: RunConfig,
    files: Sequence[Path],
    *,
    bare_base: bool,
    step_counts: Sequence[int],
    count: int,
    pictures: int,
    seed: int,
    guidance: float,
    cfg: float,
    sampler: str,
    neighbours: str,
    folder: Path,
) -> None:
    """Measure the LoRAs on the configuration's pictures; write report, numbers, chart and pictures to ``folder``.

    The last file is the one to judge; with ``bare_base`` the base without a LoRA comes first. See
    ``evaluation.evaluate`` for the rest, and for what it raises. Raises ``OSError`` before that where ``folder`` cannot
    be written to.
    """
    if not config.images.folder:
        raise ValueError("images.folder is empty. Name the folder of training pictures: --images.folder FOLDER")
    base, sampling = base_reference(config), sampling_reference(config)
    loras = [(name, load_file(file, base)) for name, file in row_names([file.expanduser() for file in files])]
    if bare_base:
        loras.insert(0, ("base", create(base, LoRAConfig(rank=1, alpha=1.0))))
    folder = folder.expanduser()
    with leaving_nothing(folder, cache_folder(config)), joined(config.base.device) as place:
        check_writable(folder, (REPORT, NUMBERS, CHART, PICTURES))
        encoders = load_encoders(config.encoders, config.base.checkpoint, place.device)
        encoding, measuring = Progress("encoding"), Progress("evaluating")
        data, _ = encoded_pictures(config, encoders, lambda done, total: encoding.update(done, total, {}))
        encoding.close()
        evaluation = evaluate(
            loras,
            data,
            step_counts=step_counts,
            count=count,
            seed=seed,
            guidance=guidance,
            cfg=cfg,
            device=place.device,
            keep=pictures,
            solver=sampler,
            neighbours=neighbours,
            sampling_base=sampling,
            after_step=lambda done, total: measuring.update(done, total, {}),
        )
        measuring.close()
        sheet = picture_sheet(evaluation, lambda result: single_pictures(encoders.decode(result.latents)))
    parts = (f"Base: {base.name}.", evaluation.report(), sheet.note)
    report = "\n\n".join(part for part in parts if part)
    write_whole(folder / REPORT, f"{report}\n".encode())
    write_whole(folder / NUMBERS, (json.dumps(evaluation.as_json(), indent=2) + "\n").encode())
    plot_evaluation(evaluation).save(folder / CHART)
    sheet.picture.save(folder / PICTURES)
    say(f"{report}\n\nWrote {REPORT}, {NUMBERS}, {CHART} and {PICTURES} to {folder}")


def row_names(files: Sequence[Path]) -> list[tuple[str, Path]]:
    """Each file with a name of its own: its stem, or its whole path where several have that stem."""
    stems = Counter(file.stem for file in files)
    return [(file.stem if stems[file.stem] == 1 and file.stem != "base" else str(file), file) for file in files]
