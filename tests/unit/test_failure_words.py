"""No number of the system's reaches the user: every failure of a file is told in words, with what to do."""

from __future__ import annotations

import ast
import builtins
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fluxduel.tests.comfy_host import ROOT
from fluxduel.training.failure_words import in_words, reason

NUMBERED = re.compile(r"Errno|os error \d|WinError|\d{2,}")
LOGGING = {"debug", "info", "warning", "error", "exception", "log"}


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_has_words_and_advice(number: int) -> None:
    error = OSError(number, os.strerror(number), "/some/where")
    assert not NUMBERED.search(reason(error)), reason(error)
    assert "; " in reason(error) and not reason(error).endswith(".")
    assert in_words(error) == f"/some/where: {reason(error)}."
    assert in_words(OSError(number, os.strerror(number)))[-1] == "."


def test_those_of_a_disk_have_words_of_their_own() -> None:
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR,
        errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE, errno.EMFILE,
        errno.EBUSY, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EXDEV, errno.EPIPE,
    ):  # fmt: skip
        assert "the system says" not in reason(OSError(number, os.strerror(number))), errno.errorcode[number]


def test_what_the_raiser_knew_is_kept() -> None:
    words = reason(OSError(errno.ENOSPC, "300 MB are needed, 4 MB are free", "x"))
    assert words.startswith("the disk is full (300 MB are needed, 4 MB are free); make room")
    assert reason(OSError("cannot identify image file 'x.png'.")) == "cannot identify image file 'x.png'"
    assert reason(ValueError("rank is wrong.")) == "rank is wrong"


def test_numbers_within_the_text_of_a_library_are_told_too(tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        safe_open(tmp_path, framework="pt")
    assert "os error" in str(caught.value)
    assert not NUMBERED.search(reason(caught.value))
    inner = OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "gone"))
    told = reason(RuntimeError(f"It failed: {inner}. Try again."))
    assert told == "It failed: it is not there; check the path, and that its disk is connected. Try again"


def test_a_file_that_moves_is_named_by_its_last_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / ".x.tmp").touch()
    with pytest.raises(OSError) as caught:
        os.replace(tmp_path / ".x.tmp", tmp_path / "folder")
    assert in_words(caught.value) == f"{tmp_path / 'folder'}: {reason(caught.value)}."


# Whoever catches such an error and tells of it does so by these words.


def test_no_handler_tells_of_an_error_of_the_system_as_it_is() -> None:
    told = [where for path in sorted(ROOT.glob("*/**/*.py")) if product(path) for where in raw(path)]
    assert not told, told


def product(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] in ("training", "discriminator", "nodes", "headless")


def raw(path: Path) -> Iterator[str]:
    for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(handler, ast.ExceptHandler) and handler.name and catches(handler.type):
            for line in untold(handler):
                yield f"{path.relative_to(ROOT)}:{line}"


def catches(kind: ast.expr | None) -> bool:
    """Whether a handler of ``kind`` gets errors of the system."""
    names = {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)} if kind else {"BaseException"}
    kinds = [found for name in names if isinstance(found := getattr(builtins, name, None), type)]
    return any(issubclass(OSError, found) or issubclass(found, OSError) for found in kinds)


def untold(handler: ast.ExceptHandler) -> Iterator[int]:
    """Lines where the error itself becomes text."""
    parents = {child: node for node in ast.walk(handler) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(handler):
        if not (isinstance(node, ast.Name) and node.id == handler.name):
            continue
        above = parents[node]
        logged = isinstance(above, ast.Call) and isinstance(above.func, ast.Attribute) and above.func.attr in LOGGING
        shown = isinstance(above, ast.FormattedValue)
        text = isinstance(above, ast.Call) and isinstance(above.func, ast.Name) and above.func.id in ("str", "repr")
        if logged or shown or text:
            yield node.lineno


def test_a_handler_that_does_is_found() -> None:
    code = "try:\n    pass\nexcept {kind} as error:\n    {act}\n"
    for kind, act, found in (
        ("OSError", "log.warning('%s', error)", True),
        ("(ValueError, FileNotFoundError)", "raise X(f'{error}')", True),
        ("Exception", "note(str(error))", True),
        ("OSError", "log.warning('%s', reason(error))", False),
        ("ValueError", "raise X(f'{error}')", False),
    ):
        handler = next(n for n in ast.walk(ast.parse(code.format(kind=kind, act=act))) if hasattr(n, "handlers"))
        (only,) = handler.handlers  # type: ignore[attr-defined]
        assert (catches(only.type) and bool(list(untold(only)))) is found, (kind, act)


# Nor what a library, or Python itself, says of its own insides.


def insides(path: Path) -> Iterator[str]:
    """Where a message holds the name of an error's class, or the error as Python writes it."""
    for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(handler, ast.ExceptHandler) or not handler.name:
            continue
        for node in ast.walk(handler):
            if isinstance(node, ast.FormattedValue):
                own = isinstance(node.value, ast.Name) and node.value.id == handler.name
                if ast.unparse(node.value) == f"type({handler.name}).__name__" or (own and node.conversion == ord("r")):
                    yield f"{path}:{node.lineno}"


def test_no_message_holds_the_class_of_an_error(tmp_path: Path) -> None:
    told = [where for path in sorted(ROOT.glob("*/**/*.py")) if product(path) for where in insides(path)]
    assert not told, told
    for text in ("{type(error).__name__}", "{error!r}"):
        (tmp_path / "a.py").write_text(f"try:\n    pass\nexcept KeyError as error:\n    raise X(f'{text}')\n")
        assert len(list(insides(tmp_path / "a.py"))) == 1


def test_text_that_cannot_be_decoded_is_told_in_words() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"ab\xff".decode()
    assert reason(caught.value) == "it is not UTF-8 text (at byte 2)"


@pytest.mark.parametrize("length", [0, 4, 8, 12, 40])
def test_what_safetensors_says_of_a_part_of_a_file_is_told_in_words(tmp_path: Path, length: int) -> None:
    save_file({"a": torch.zeros(4, 4)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:length])
    with pytest.raises(Exception) as caught:
        safe_open(tmp_path / "a.safetensors", framework="pt")
    assert reason(caught.value) == "it is no safetensors file, or only a part of one", caught.value
