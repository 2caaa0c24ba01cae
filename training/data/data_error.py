"""Data that cannot be trained on, and names in messages about it."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Pictures, captions, masks or their encodings cannot be trained on. The message names the culprit."""


# More lines than anybody reads in one go.
MOST_PROBLEMS = 100


def raise_together(problems: Sequence[DataError]) -> None:
    """Raise the one problem as it is, several as one with a line for each; nothing where there is none."""
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = [f"{len(problems)} problems with files or pictures:", *(f"- {each}" for each in problems[:MOST_PROBLEMS])]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"- and {len(problems) - MOST_PROBLEMS} more.")
    raise type(problems[0])("\n".join(lines)) from problems[0]


class ImageFolderError(DataError):
    """A folder cannot be read as a training set. The message names the folder or files and says what to do."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def quoted(caption: str, longest: int = 60) -> str:
    if not caption:
        return "'' (the empty prompt)"
    return f"'{caption}'" if len(caption) <= longest else f"'{caption[:longest]}…'"
