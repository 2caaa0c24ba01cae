"""The folder of one run of one stage: what it was asked for, its statistics, its checkpoints and its result.

::

    diffusion-20261125-101500/
        run.json                   settings, fingerprint, and whether it is finished
        stats.jsonl                one line a step, and one for each note
        checkpoints/step-00000100/ all that the run goes on from; lora.safetensors in it is a LoRA to try
        lora.safetensors           the result
        discriminator.safetensors  what stage 2's discriminator became
        previews/
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic_file import make_folder, write_whole
from ..data.latent_cache import digest
from ..failure_words import in_words, reason
from ..lora.adapter import FluxLoRA, LoRAError, load_file
from .checkpoints import STATS_FILE, Checkpoints
from .fingerprints import Fingerprint, fingerprint, identity, planned_over_steps
from .output_check import RUN_FILES, check_writable
from .run_lock import LOCK, InUse, held

__all__ = ["Choice", "Fingerprint", "RunDirectory", "RunDirectoryError", "choose", "fingerprint"]

log = logging.getLogger(__name__)

MANIFEST, RESULT, CHECKPOINTS = "run.json", "lora.safetensors", "checkpoints"
_VERSION = 1


class RunDirectoryError(RuntimeError):
    """A run folder that cannot be used: it holds another run, or another process is at it. The message says which."""


@dataclass(frozen=True)
class Choice:
    """The folder that a run is to use, and in a sentence why. ``finished``: its result lies there already."""

    folder: Path
    text: str
    finished: bool = False


@dataclass(frozen=True)
class Finished:
    """What a finished run left. ``provenance``: what its stage says of itself; ``stats``: its statistics' text."""

    tensors: Mapping[str, Tensor]
    provenance: Mapping[str, Any]
    stats: str


def choose(parent: Path, wanted: Fingerprint) -> Choice:
    """The run folder below ``parent`` to use for the run ``wanted``; a new name where none fits.

    In this order: a finished run of the same, an unfinished one of the same, one with fewer steps. Of several the
    newest. The folder of a new run is not made yet. A run that cannot be read is passed over.

    Raises ``OSError`` where ``parent`` itself cannot be read.
    """
    known = _runs(parent, wanted.stage)
    same = [(folder, manifest) for folder, manifest in known if manifest["parts"] == dict(wanted.parts)]
    answers = [(folder, manifest) for folder, manifest in same if _answers(manifest, wanted)]
    if answers:
        # Rather one that went all the way.
        folder, manifest = max(answers, key=lambda run: _early(run[1]) is None)
        return Choice(folder, _used(folder, manifest, wanted), True)
    unread = ""
    for folder, manifest in same:
        try:
            furthest = Checkpoints(folder / CHECKPOINTS).furthest()
        except OSError as error:
            unread = unread or f"A new run: {folder.name} cannot be read ({reason(error)})."
            continue
        if manifest["finished"] is None and furthest <= wanted.total:
            more = "" if manifest["steps"] == wanted.steps else f", steps now {wanted.steps}"
            return Choice(folder, f"Going on with {folder.name} from update {furthest}{more}.")
    shorter = [run for run in same if run[1]["finished"] is not None and _done(run[1]) < wanted.steps]
    if shorter:
        folder, manifest = max(shorter, key=lambda run: _done(run[1]))
        return Choice(folder, f"Extending {folder.name}: steps was {_done(manifest)}, now {wanted.steps}.")
    return Choice(_new_name(parent, wanted.stage), unread or _why_new(known, same, wanted))


def _early(manifest: Mapping[str, Any]) -> int | None:
    """With which update the user has had a finished run end early; ``None`` where that was its last one."""
    return (manifest["finished"] or {}).get("early")


def _done(manifest: Mapping[str, Any]) -> int:
    """The steps that a finished run has made."""
    early = _early(manifest)
    return manifest["steps"] if early is None else early


def _answers(manifest: Mapping[str, Any], wanted: Fingerprint) -> bool:
    """Whether the result of this run is what is ``wanted``, of which all but the number of steps is the same.

    What was finished early is the result for the number of steps that was asked for, and, where no schedule had that in
    view, for the number that was made.
    """
    if manifest["finished"] is None:
        return False
    return wanted.steps == manifest["steps"] or (
        wanted.steps == _early(manifest) and not planned_over_steps(wanted.parts)
    )


def reopen(folder: Path) -> None:
    """Take back that the run in ``folder`` was finished early: the same settings go on from there to the last update.

    Raises ``RunDirectoryError`` where it was not, or another process is at it; ``OSError`` where it cannot be written.
    """
    path = folder / MANIFEST
    try:
        with held(folder):
            manifest = _read_manifest(path)
            if _early(manifest) is None:
                raise RunDirectoryError(f"{folder} was not finished early.")
            write_whole(path, _json(manifest | {"finished": None}))
    except InUse as error:
        raise RunDirectoryError(str(error)) from error
    except ValueError as error:
        raise RunDirectoryError(f"{path} cannot be used: {error}") from error


def _used(folder: Path, manifest: Mapping[str, Any], wanted: Fingerprint) -> str:
    early = _early(manifest)
    if early is None or early == wanted.steps:
        return f"The same run is finished in {folder.name}; its result is used."
    return (
        f"The same run was finished early in {folder.name}, as asked, at update {wanted.warmup + early} of "
        f"{wanted.total}; its result is used. With any other steps above {early} it goes on from there, and another "
        "seed begins anew."
    )


def _why_new(
    known: Sequence[tuple[Path, dict[str, Any]]], same: Sequence[tuple[Path, dict[str, Any]]], wanted: Fingerprint
) -> str:
    if same:
        folder, manifest = same[0]
        if _early(manifest) == wanted.steps:
            schedules = " and ".join(planned_over_steps(wanted.parts))
            return (
                f"A new run: {folder.name} was finished early with {wanted.steps} steps made, but its {schedules} had "
                f"{manifest['steps']} in view."
            )
        return f"A new run: {folder.name} has {_done(manifest)} steps, {wanted.steps} are asked for."
    if not known:
        return "A new run."
    # The one that is most alike tells best what was changed.
    folder, manifest = min(known, key=lambda run: len(wanted.differences(run[1]["parts"])))
    return f"A new run. Different from {folder.name}: {', '.join(wanted.differences(manifest['parts']))}."


def settings_of_runs(parent: Path, stage: str) -> list[Mapping[str, Any]]:
    """What the runs of ``stage`` below ``parent`` say of their settings, the newest first. Raises ``OSError``."""
    return [manifest["settings"] for _, manifest in _runs(parent, stage)]


def _runs(parent: Path, stage: str) -> list[tuple[Path, dict[str, Any]]]:
    """The runs of ``stage`` below ``parent`` whose ``run.json`` can be read, the newest first."""
    found = []
    for folder in sorted(parent.iterdir(), reverse=True) if parent.is_dir() else ():
        manifest = _manifest(folder / MANIFEST)
        if manifest is not None and manifest["stage"] == stage:
            found.append((folder, manifest))
    return sorted(found, key=lambda run: run[1]["created"], reverse=True)


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        return _read_manifest(path)
    except (FileNotFoundError, NotADirectoryError):  # no run
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is passed over: %s.", path, reason(error))
        return None


def _read_manifest(path: Path) -> dict[str, Any]:
    """Raises ``OSError``, and ``ValueError`` where it is damaged or of another version."""
    try:
        manifest = json.loads(path.read_bytes())
        version, checksum = manifest["version"], manifest.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is damaged: a part of it is missing.") from error
    if version != _VERSION:
        raise ValueError(f"it is of version {version}, this FluxDuel reads {_VERSION}.")
    if checksum != digest(json.dumps(manifest)):
        raise ValueError("it is damaged (wrong checksum).")
    return manifest


def _new_name(parent: Path, stage: str) -> Path:
    name = f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        if not (parent / (name + suffix)).exists():
            return parent / (name + suffix)
    raise RunDirectoryError(f"{parent} already holds a thousand runs named {name}. Remove some.")


class RunDirectory:
    """One run's folder, held by one process at a time; made by ``opened``."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.stage: str = manifest["stage"]
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        self._manifest = manifest

    @property
    def precision(self) -> str:
        """Of the base: as asked for, or what ``settle`` wrote down."""
        return _precision(self._manifest)

    def settle(self, precision: str) -> None:
        """Note in which precision the run trains, where it was left open. Raises ``OSError``."""
        if self.precision != precision:
            settings = {**self._manifest["settings"], "precision": precision}
            self._manifest = {**self._manifest, "settings": settings}
            write_whole(self.folder / MANIFEST, _json(self._manifest))

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, wanted: Fingerprint, settings: Mapping[str, Any]) -> Iterator[RunDirectory]:
        """``folder`` for the run ``wanted``; made where it is missing. ``settings`` are written down for people.

        A new folder whose run is refused before it begins is removed again. Raises ``RunDirectoryError`` where the
        folder holds another run, with what differs, or is in use by another process; ``OSError`` where it cannot be
        written.
        """
        new = not folder.exists()
        make_folder(folder)
        with ExitStack() as stack:
            try:
                stack.enter_context(held(folder))
            except InUse as error:
                raise RunDirectoryError(str(error)) from error
            except OSError:
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
                raise
            try:
                directory = cls(folder, cls._claimed(folder, wanted, settings))
                directory._sweep()
                if directory._manifest["finished"] is None:
                    directory._check()
                yield directory
            except BaseException:
                if new:
                    _remove_unbegun(folder)
                raise
            directory._sweep()

    def _check(self) -> None:
        """Raises ``RunDirectoryError`` where a checkpoint, or a preview, could not be written."""
        try:
            check_writable(self.folder, RUN_FILES)
        except OSError as error:
            raise RunDirectoryError(f"{self.folder} cannot be used for this run. {in_words(error)}") from error

    def _sweep(self) -> None:
        """Remove what a process that lost its power, or a disk that failed, left half: nobody else writes here."""
        with contextlib.suppress(OSError):  # it can wait
            self.checkpoints.sweep()
            for path in self.folder.glob(".*.tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @staticmethod
    def _claimed(folder: Path, wanted: Fingerprint, settings: Mapping[str, Any]) -> dict[str, Any]:
        path = folder / MANIFEST
        try:
            found = _read_manifest(path) if path.exists() else None
        except ValueError as error:
            # What lies beside it may be somebody's run: nothing is written over it.
            raise RunDirectoryError(
                f"{path} cannot be used: {error} Put it back as it was, or choose another folder."
            ) from error
        if found is None and Checkpoints(folder / CHECKPOINTS).names():
            raise RunDirectoryError(
                f"{folder} holds checkpoints, but no {MANIFEST} that says of which run. Put it back, or choose another "
                "folder."
            )
        if found is not None and (differing := wanted.differences(found["parts"])):
            raise RunDirectoryError(
                f"{folder} holds another run. Different are {', '.join(differing)}. Choose another folder."
            )
        if found is not None and (found["steps"] == wanted.steps or _answers(found, wanted)):
            return found
        if found is not None:
            # What was left open is not decided anew.
            settings = {**settings, "precision": _precision(found)}
        manifest = {
            "version": _VERSION,
            "stage": wanted.stage,
            "created": time.time() if found is None else found["created"],
            "steps": wanted.steps,
            "finished": None,
            "parts": dict(wanted.parts),
            "settings": settings,
        }
        write_whole(path, _json(manifest))
        return manifest

    def finished(self, start: FluxLoRA) -> Finished | None:
        """The result, where the run is finished and the result is sound; it started from ``start``."""
        told = self._manifest["finished"]
        if told is None:
            return None
        try:
            tensors = load_file(self.folder / RESULT, start.base).tensors
            stats = (self.folder / STATS_FILE).read_text(encoding="utf-8")
        except (LoRAError, OSError, UnicodeDecodeError) as error:
            log.warning("The result of %s is made anew from its checkpoint: %s.", self.folder, reason(error))
            return None
        if (identity(tensors), digest(stats)) != (told["lora"], told["stats"]):
            log.warning("The result of %s is made anew from its checkpoint: its files were changed.", self.folder)
            return None
        return Finished(tensors, told["provenance"], stats)

    @property
    def finished_early(self) -> int | None:
        """The update after which the user has had the run end, where that was before the last one."""
        return _early(self._manifest)

    def finish(
        self, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any], stats: str, early: int | None = None
    ) -> None:
        """Note that the run is finished with this result, whose file lies there already.

        ``early``: the update that was the last one, because the user asked for that. Raises ``OSError``.
        """
        told = {"lora": identity(tensors), "provenance": dict(provenance), "stats": digest(stats)}
        if early is not None:
            told["early"] = early
        finished = self._manifest | {"finished": told}
        write_whole(self.folder / MANIFEST, _json(finished))
        self._manifest = finished


def _precision(manifest: Mapping[str, Any]) -> str:
    # Settings are for people, and whoever opens a finished run gives none.
    return manifest["settings"].get("precision", manifest["parts"]["precision"])


def _remove_unbegun(folder: Path) -> None:
    """Remove ``folder``, which this process has made and holds, where nothing is in it but what its run was to be."""
    with contextlib.suppress(OSError):  # an open file cannot be removed on Windows
        if {path.name for path in folder.iterdir()} <= {MANIFEST, LOCK}:
            (folder / MANIFEST).unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps({**value, "checksum": digest(json.dumps(value))}, indent=1).encode()
