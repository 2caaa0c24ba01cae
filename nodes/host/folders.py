"""The host's folders. What a graph names is looked up in the host's own listing again: no path comes from outside."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import folder_paths
from comfy.cli_args import args

from ...training.config import TINY_BASE
from ...training.data.demo_pictures import DEMO_FOLDER, DEMO_LABEL
from ...training.failure_words import reason

log = logging.getLogger(__name__)
TINY_BASE_LABEL = "tiny base (built in)"
WEIGHT_SUFFIXES = (".safetensors", ".sft")
# Of the pack that reads such files for the host's own sampling.
GGUF_KIND = "unet_gguf"

Listed = TypeVar("Listed")


def checkpoints() -> dict[str, str]:
    """Label -> path of each transformer that may be a base."""
    found = {TINY_BASE_LABEL: TINY_BASE}
    kinds = {"diffusion_models": WEIGHT_SUFFIXES, "checkpoints": WEIGHT_SUFFIXES}
    if GGUF_KIND in folder_paths.folder_names_and_paths:
        kinds[GGUF_KIND] = (".gguf",)
    for kind, suffixes in kinds.items():
        for label, path in _weights(kind, suffixes).items():
            found[label if label not in found else f"{label} [{kind}]"] = path
    return found | _pipelines()


def _pipelines() -> dict[str, str]:
    """Label -> path of each diffusers pipeline whose transformer may be a base, where the host looks for such."""
    found = {}
    for root in folder_paths.folder_names_and_paths.get("diffusers", ([], set()))[0]:
        for folder, below, files in os.walk(root):
            if "model_index.json" not in files:
                continue
            # Its parts are no pipelines of their own, and hold many files.
            below.clear()
            if (Path(folder) / "transformer" / "config.json").is_file():
                found[f"{Path(folder).relative_to(root).as_posix()} [diffusers]"] = folder
    return dict(sorted(found.items()))


def lora_files() -> dict[str, Path]:
    """Label -> path of each LoRA file that the host lists."""
    return {label: Path(path) for label, path in _weights("loras").items()}


def written_folders() -> list[Path]:
    """Where the host and this pack write pictures, which are never to be trained on."""
    return [Path(folder_paths.get_output_directory()), Path(folder_paths.get_temp_directory())]


def _weights(kind: str, suffixes: tuple[str, ...] = WEIGHT_SUFFIXES) -> dict[str, str]:
    names = [name for name in folder_paths.get_filename_list(kind) if name.endswith(suffixes)]
    return {name: path for name in names if (path := folder_paths.get_full_path(kind, name)) is not None}


def training_folders() -> dict[str, Path]:
    """Label -> path of each folder below the host's input folder, and below its datasets folder where it has one.

    The first is that of the demo pictures, which come with the pack.
    """
    inputs = Path(folder_paths.get_input_directory())
    found = {DEMO_LABEL: DEMO_FOLDER}
    for name in folder_paths.get_input_subfolders():
        found[name if name not in found else f"{name} [input]"] = inputs / name
    for root in folder_paths.folder_names_and_paths.get("datasets", ([], set()))[0]:
        for parent, folders, _ in os.walk(root):
            for folder in sorted(folders):
                path = Path(parent) / folder
                found[f"{path.relative_to(root).as_posix()} [datasets]"] = path
    return found


def training_folder_problem(label: str) -> str | None:
    """What is wrong with the choice of a training folder; ``None`` when nothing is."""
    if label in training_folders():
        return None
    own = Path(folder_paths.get_input_directory()) / "NAME"
    return (
        f"Load Dataset Images: folder: the host lists no {label!r} (any more). Choose {DEMO_LABEL!r} to try the "
        f"graph, or put your pictures into {own}, press R to have the lists read anew, and choose that."
    )


def choose(choices: Mapping[str, Listed], name: str, where: str) -> Listed:
    """``choices[name]``. Raises ``ValueError`` that names the input where the host lists no such thing (any more)."""
    if name not in choices:
        raise ValueError(
            f"{where}: the host lists no {name!r} (any more). Press R to have its lists read anew, and choose again."
        )
    return choices[name]


def file_identity(path: Path) -> str:
    """Changes when the file does."""
    status = path.stat()
    return f"{path}/{status.st_size}/{status.st_mtime_ns}"


def cache_folder() -> Path:
    """Where encodings are kept, by content."""
    return runs_folder() / "cache"


def discriminator_files() -> dict[str, Path]:
    """Label -> path of each discriminator that a run of stage 2 left, the newest first."""
    parent = runs_folder()
    # A link may lead nowhere, and a file that cannot be asked for its age would take the whole node off the host.
    found = [path for path in parent.glob("*/discriminator.safetensors") if path.is_file()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {path.relative_to(parent).as_posix(): path for path in found}


def runs_folder() -> Path:
    """Where the runs of stages are kept, each in a folder of its own (see ``training.runs.run_directory``)."""
    return Path(folder_paths.get_output_directory()) / "fluxduel"


def interrupted_file(run: str) -> Path:
    """Where the LoRA of a run that did not finish goes: a folder whose files the host's LoRA loaders list."""
    folder = Path(folder_paths.get_output_directory()) / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / interrupted_name(run)


def remove_interrupted_file(run: str) -> None:
    """Remove what ``interrupted_file`` of a run holds that is finished now: people would load it by mistake."""
    path = Path(folder_paths.get_output_directory()) / "loras" / interrupted_name(run)
    try:
        path.unlink()
        log.info("%s is removed: its run is finished.", path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s is of a run that is finished now, and cannot be removed: %s.", path, reason(error))


def interrupted_name(run: str) -> str:
    return f"fluxduel-interrupted-{run}.safetensors"


def prefix_problem(prefix: str) -> str | None:
    """What is wrong with a file prefix below the output folder; ``None`` when nothing is."""
    output = Path(folder_paths.get_output_directory()).resolve()
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        return f"Save FLUX LoRA: prefix {prefix!r} has no file name. Give one such as loras/fluxduel."
    if not (output / prefix).resolve().is_relative_to(output):
        return f"Save FLUX LoRA: prefix {prefix!r} leaves the output folder {output}. Give one such as loras/fluxduel."
    return None


def next_file(prefix: str, suffix: str) -> Path:
    """The next free numbered file for a prefix below the output folder, as the host names its own files."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


def metadata_allowed() -> bool:
    """False where the host was started with --disable-metadata."""
    return not args.disable_metadata
