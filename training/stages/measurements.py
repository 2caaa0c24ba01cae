"""What is measured beside the training: one that memory does not suffice for costs itself, and not the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .ranks import Ranks

Value = TypeVar("Value")


class Stopped(Exception):
    """The reporter asked to stop in the middle of a measurement or a preview."""


class Measurements:
    """Takes the measurements of one stage, on all ``ranks`` alike, and keeps ``notes`` of those it could not take."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.notes: list[str] = []

    def take(self, name: str, measure: Callable[[], Value], otherwise: str) -> Value | None:
        """What ``measure`` gives; ``None``, on every rank and with a note, where one of them is out of memory.

        ``otherwise``: what the user can do about it, as the second half of "Lower batch_size, or ...". ``measure`` may
        exchange with the other ranks by ``Ranks.any`` alone, as polling for a stop does, after equal parts of the work.
        Where the ranks hold parts of the base, running out of memory is raised: the others then wait within a pass.
        """
        failure, value = "", None
        stopped: Stopped | None = None
        try:
            value = measure()
            # Pairs with the exchange of a rank that has failed in its last part.
            interrupted = self.ranks.any(False)
        except Stopped as error:
            stopped, interrupted = error, True
        except RuntimeError as error:
            if not out_of_memory(error) or (self.ranks.shard and self.ranks.count > 1):
                raise
            failure = str(error).strip().partition("\n")[0]
            # Pairs with the others' next poll, which they take for a request to stop until the exchange below.
            interrupted = self.ranks.any(True)
        if interrupted and self.ranks.any(bool(failure)):
            self.notes.append(
                f"No {name} this time: out of memory ({failure or 'on another GPU'}). Training goes on without it. "
                f"Lower batch_size, or {otherwise}."
            )
            return None
        if stopped is not None:
            raise stopped
        return value

    def take_notes(self) -> list[str]:
        """The notes since the last call."""
        notes, self.notes = self.notes, []
        return notes


def out_of_memory(error: BaseException | None) -> bool:
    """CUDA's has a type of its own (``torch.OutOfMemoryError``); those of other devices are known by their words."""
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


def share_of_time(
    measurements: Sequence[Mapping[str, int]], training: float, update: float, of: str, fewer: bool
) -> str:
    """In words, what measurements cost beside training, all counted in evaluations of the base for one picture.

    ``measurements``: what each takes, by the names of its parts; one at least. ``training``: what all updates beside
    them take, and ``update`` one of them. ``of``: whose time that is. ``fewer``: whether ``validate_every`` can make
    them fewer.
    """
    sizes = [sum(parts.values()) for parts in measurements]
    total, largest = sum(sizes), max(sizes)
    names = ", ".join(f"{name} {count}" for name, count in measurements[sizes.index(largest)].items())
    worth = round(largest / update)
    updates = f"{worth} update{'s'[: worth != 1]}" if worth else "less than one update"
    several = f"there are {len(sizes)}, and each" if len(sizes) > 1 else "there is one, and it"
    return (
        f"Measurements take about {total / (total + training):.0%} of {of}: {several} evaluates the base for "
        f"{'' if min(sizes) == largest else 'up to '}{largest} pictures ({names}), as training does in {updates}."
        f"{' A larger validate_every lowers that.' if fewer else ''}"
    )
