"""What can be told of a folder before hours of training: whether all that a run writes can be written there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..atomic_file import make_folder, write_flushed

# The longest names that a run of either stage makes in its folder.
RUN_FILES = (
    "checkpoints/.step-00000000-unmeasured.00000000.tmp/discriminator_optimiser.safetensors",
    "previews/step-000000.png",
)
# The longest name that a run's folder is given.
RUN_NAME = "adversarial-00000000-000000-000"


def check_writable(folder: Path, names: Iterable[str]) -> None:
    """Make ``folder``, and for a moment files of these names below it, as long as theirs are going to be.

    Raises ``OSError`` that names the file that could not be written.
    """
    make_folder(folder)
    made: list[Path] = []
    try:
        for name in names:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / name))
            top, _, below = name.rpartition("/")[0].partition("/")
            # As long as the folder that is meant, where a path is nearly too long.
            made.append(folder / f"{f'.{uuid.uuid4().hex}'[: max(len(top), 12) - 4]}.tmp")
            probe = made[-1] / below / name.rpartition("/")[2]
            try:
                make_folder(probe.parent)
                write_flushed(probe, b"a file that can be written")
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(folder / name)) from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


@contextlib.contextmanager
def leaving_nothing(*folders: Path) -> Iterator[None]:
    """Where an exception leaves the block, those of ``folders``, and above, that it made and left empty are removed."""
    new = {above for folder in folders for above in (folder, *folder.parents) if not os.path.exists(above)}
    try:
        yield
    except BaseException:
        for folder in sorted(new, key=lambda each: len(each.parts), reverse=True):
            with contextlib.suppress(OSError):  # not made, or not empty
                folder.rmdir()
        raise


def scarce_space(folder: Path, checkpoint: int, kept: int) -> str:
    """A sentence where the disk has less room than the checkpoints of a run may need; empty where it has enough.

    ``checkpoint``: bytes of one. ``kept``: how many are kept. The best one may come on top, and the next one is written
    before another is removed.
    """
    needed = checkpoint * (kept + 2)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # told where it matters: when a file is written
        return ""
    if free >= needed:
        return ""
    return (
        f"The disk of {folder} has {free / 1e6:.0f} MB free, and the checkpoints of this run may take "
        f"{needed / 1e6:.0f} MB. Make room, or lower keep_last; one that finds no room is left out."
    )
