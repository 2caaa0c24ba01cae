"""Checkpoints of a stage: folders that are complete or not there, checked when written and when read, and rotated."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from ..atomic_file import check_space, flush_folder, make_folder, write_flushed
from ..failure_words import reason

log = logging.getLogger(__name__)

STATE_FILE, STATS_FILE = "state.json", "stats.jsonl"
_NAME = re.compile(r"step-(\d{8})(-unmeasured)?")
_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: damaged, incomplete, or of another version. The message says which and how."""


@dataclass(frozen=True)
class Snapshot:
    """All that a stage goes on from after ``step`` calls of its ``step()``.

    ``tensors``: part -> name -> tensor on the CPU. ``numbers``: the rest, as JSON. ``stats``: the text of
    ``stats.jsonl`` up to here. ``unmeasured``: the measurement that belongs to this step is still to be made.
    ``score``: the held-out measure of this very step, lower is better, where it was taken.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]
    stats: str = ""
    unmeasured: bool = False
    score: float | None = None

    @property
    def name(self) -> str:
        """Of the checkpoint's folder."""
        return f"step-{self.step:08}" + ("-unmeasured" if self.unmeasured else "")


class Checkpoints:
    """The checkpoints in one folder, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The complete ones, the furthest last."""
        if not self.folder.is_dir():
            return []
        found = [match for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        found.sort(key=lambda match: (int(match[1]), match[2] is None))
        return [match[0] for match in found]

    def furthest(self) -> int:
        """The step of the furthest one, sound or not; 0 where there is none."""
        names = self.names()
        return _step(names[-1]) if names else 0

    def save(self, snapshot: Snapshot, extra: Mapping[str, bytes]) -> Path:
        """Write ``snapshot``, with files of ``extra`` beside it for people, and read it back.

        Where this step has a checkpoint already, it is kept as it is. Raises ``OSError`` where the disk is full or
        fails, and ``CheckpointError`` where what was written is not what can be read; then there is no new one.
        """
        final = self.folder / snapshot.name
        if final.exists():
            return final
        make_folder(self.folder)
        self.sweep()
        self._forget_damaged()
        stats = snapshot.stats.encode()
        size = len(stats) + sum(len(content) for content in extra.values())
        check_space(self.folder, size + sum(t.nbytes for part in snapshot.tensors.values() for t in part.values()))
        unfinished = self.folder / f".{snapshot.name}.{uuid.uuid4().hex[:8]}.tmp"
        os.mkdir(unfinished)
        try:
            sums = {}
            # One part after the other, so that no more than one of them is in memory twice.
            for part, tensors in snapshot.tensors.items():
                content = serialise({name: tensor.contiguous() for name, tensor in tensors.items()})
                sums[f"{part}.safetensors"] = _write(unfinished / f"{part}.safetensors", content)
            for name, content in {**extra, STATS_FILE: stats}.items():
                sums[name] = _write(unfinished / name, content)
            state = {
                "version": _VERSION,
                "step": snapshot.step,
                "unmeasured": snapshot.unmeasured,
                "score": snapshot.score,
                "parts": list(snapshot.tensors),
                "numbers": snapshot.numbers,
                "checksums": sums,
            }
            text = json.dumps(state)
            _write(unfinished / STATE_FILE, json.dumps({"checksum": _checksum(text.encode()), "state": text}).encode())
            flush_folder(unfinished)
            self._verify(unfinished)
            os.replace(unfinished, final)
            flush_folder(self.folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return final

    def load(self, name: str) -> Snapshot:
        """Read the checkpoint ``name``. Raises ``CheckpointError`` where it is damaged, ``OSError`` where the disk does
        not let it be read, which says nothing about what is in it."""
        folder = self.folder / name
        try:
            state = _state(folder)
            tensors = {}
            for part in state["parts"]:
                file = f"{part}.safetensors"
                tensors[part] = deserialise(_checked(folder / file, state["checksums"][file]))
            stats = _checked(folder / STATS_FILE, state["checksums"][STATS_FILE]).decode()
            return Snapshot(
                state["step"], tensors, state["numbers"], stats, state["unmeasured"], state["score"]
            )
        except FileNotFoundError as error:
            raise CheckpointError(f"{folder} cannot be read: {Path(error.filename).name} is missing.") from error
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} cannot be read: {error}.") from error

    def newest(self, most: int | None = None) -> tuple[Snapshot | None, list[str]]:
        """The furthest sound checkpoint, of at most ``most`` steps, and a sentence for each damaged one on the way.

        Damaged ones are put aside under another name, to be looked at; a later save removes them. Raises ``OSError``
        where one cannot be read, or not be put aside: in its place it would pass for the checkpoint of its step.
        """
        words = []
        for name in reversed(self.names()):
            if most is not None and _step(name) > most:
                continue
            try:
                return self.load(name), words
            except CheckpointError as error:
                words.append(f"The checkpoint of update {_step(name)} is damaged and is not used ({error})")
                os.replace(self.folder / name, self.folder / f".damaged-{name}-{uuid.uuid4().hex[:8]}")
        return None, words

    def rotate(self, keep_last: int, keep_every: int) -> None:
        """Remove all but the last ``keep_last``, the best measured one, and those at multiples of ``keep_every``.

        What cannot be removed stays, with a logged warning.
        """
        try:
            names = self.names()
        except OSError as error:
            log.warning("Old checkpoints in %s cannot be removed: %s.", self.folder, reason(error))
            return
        kept = set(names[-keep_last:])
        if keep_every:
            kept |= {name for name in names if _step(name) % keep_every == 0}
        scores = {name: score for name in names if (score := self._score(name)) is not None}
        if scores:
            # Of equals the earliest, which is the one that has been kept so far.
            kept.add(min(scores, key=lambda name: scores[name]))
        for name in names:
            if name not in kept:
                self._remove(self.folder / name)

    def _score(self, name: str) -> float | None:
        try:
            return _state(self.folder / name)["score"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _verify(self, folder: Path) -> None:
        try:
            for file, checksum in _state(folder)["checksums"].items():
                _checked(folder / file, checksum)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"What was written is not what is read: {error}.") from error

    def _remove(self, folder: Path) -> None:
        """Renamed first, so that no half of it is ever taken for a checkpoint."""
        try:
            gone = folder.with_name(f".removed-{folder.name}-{uuid.uuid4().hex[:8]}")
            os.replace(folder, gone)
            shutil.rmtree(gone)
        except OSError as error:
            log.warning("The old checkpoint %s cannot be removed: %s.", folder, reason(error))

    def sweep(self) -> None:
        """Remove what an earlier process left half: one run has one writer at a time."""
        for pattern in (".step-*", ".removed-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def _forget_damaged(self) -> None:
        for path in self.folder.glob(".damaged-*"):
            shutil.rmtree(path, ignore_errors=True)


def _step(name: str) -> int:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1])


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def _write(path: Path, content: bytes) -> str:
    write_flushed(path, content)
    return _checksum(content)


def _checked(path: Path, checksum: str) -> bytes:
    content = path.read_bytes()
    if _checksum(content) != checksum:
        raise ValueError(f"{path.name} has another content than was written (wrong checksum)")
    return content


def _state(folder: Path) -> dict[str, Any]:
    """The content of ``state.json``, checked. Raises ``ValueError`` where it is damaged or of another version."""
    outer = json.loads((folder / STATE_FILE).read_bytes())
    text = outer["state"]
    if _checksum(text.encode()) != outer["checksum"]:
        raise ValueError(f"{STATE_FILE} has another content than was written (wrong checksum)")
    state = json.loads(text)
    if state["version"] != _VERSION:
        raise ValueError(f"it is of version {state['version']}, this FluxDuel reads {_VERSION}")
    return state
