"""Captions and masks find their pictures by name."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from .data_error import ImageFolderError


class Companions:
    """Files of one role, such as captions, and the pictures that they belong to.

    A file belongs to the pictures of its folder that have its stem, or whose whole name is its stem (``cat.jpg.txt``).
    A picture without such a file takes one whose name differs in upper and lower case or in the form of its Unicode
    letters alone, as names do that came from another system, unless that is another picture's own.
    """

    def __init__(self, plural: str, singular: str) -> None:
        self.plural, self.singular = plural, singular
        self._exact: dict[tuple[Path, str], list[tuple[int, Path]]] = defaultdict(list)
        self._loose: dict[tuple[Path, str], list[tuple[int, Path]]] = defaultdict(list)
        self._files: dict[Path, tuple[Path, str]] = {}

    def add(self, file: Path, folder: Path, stem: str, rank: int, whole: str = "") -> None:
        """``file`` belongs to pictures called ``stem`` in ``folder``; those of a low ``rank`` come first.

        A picture whose whole name is ``whole`` is nearer to it than one that has but the stem.
        """
        self._files[file] = (folder, stem)
        self._exact[folder, stem].append((2 * rank + 1, file))
        self._loose[folder, _loose(stem)].append((2 * rank + 1, file))
        if whole:
            self._exact[folder, whole].append((2 * rank, file))

    @property
    def files(self) -> list[Path]:
        return list(self._files)

    def of(
        self, pictures: Sequence[Path], name: Callable[[Path], str]
    ) -> tuple[dict[Path, Path], list[Path], list[ImageFolderError]]:
        """The file of each picture that has one; the files that were found in the loose way; where two are equal.

        ``name`` gives a file's name for messages.
        """
        chosen: dict[Path, Path] = {}
        problems: list[ImageFolderError] = []
        for picture in pictures:
            stem, whole = self._exact.get((picture.parent, picture.stem)), (picture.parent, picture.name)
            self._choose(picture, [*(stem or ()), *self._exact.get(whole, ())], chosen, problems, name)
        taken = set(chosen.values())
        left = [picture for picture in pictures if picture not in chosen]
        loose = []
        for picture in left:
            near = {
                entry
                for key in (picture.stem, picture.name)
                for entry in self._loose.get((picture.parent, _loose(key)), ())
                if entry[1] not in taken
            }
            self._choose(picture, sorted(near), chosen, problems, name)
            if picture in chosen:
                loose.append(chosen[picture])
        return chosen, loose, problems

    def without_picture(self, pictures: Sequence[Path]) -> list[Path]:
        """The files whose name, in the loose sense too, is none of ``pictures``'."""
        names = {(path.parent, _loose(key)) for path in pictures for key in (path.stem, path.name)}
        return [file for file, (folder, stem) in self._files.items() if (folder, _loose(stem)) not in names]

    def _choose(
        self,
        picture: Path,
        candidates: Sequence[tuple[int, Path]],
        chosen: dict[Path, Path],
        problems: list[ImageFolderError],
        name: Callable[[Path], str],
    ) -> None:
        if not candidates:
            return
        first = min(rank for rank, _ in candidates)
        best = sorted({file for rank, file in candidates if rank == first})
        exact = [file for file in best if self._files[file][1] == picture.stem]
        best = exact or best
        if len(best) > 1:
            problems.append(
                ImageFolderError(
                    f"The picture '{name(picture)}' has more than one {self.singular}: "
                    f"{' and '.join(repr(name(file)) for file in best)}. Remove or rename all but one."
                )
            )
        chosen[picture] = best[0]


def _loose(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
