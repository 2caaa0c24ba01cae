"""Why a file could not be read or written, in words and with what to do about it, in place of the system's number."""

from __future__ import annotations

import errno
import os
import re

_FULL = "the disk is full; make room on it, or choose a folder on another one"
_FORBIDDEN = "the system does not permit it; change the permissions, or choose another folder"
_LOST = "the connection to the disk is lost; connect it again"
_UNABLE = "this file system cannot do that; choose a folder on a local disk"
_BUSY = "another program is using it; close that one"
_ODD = "this file system does not take such a name, or cannot do that; choose a plainer name, or a local disk"

_WORDS = {
    "ENOSPC": _FULL,
    "EDQUOT": "your share of the disk is used up; make room in it, or choose a folder on another disk",
    "EFBIG": "the file is larger than this disk, or this account, may have; choose a folder on another disk",
    "EACCES": _FORBIDDEN,
    "EPERM": _FORBIDDEN,
    "EROFS": "the disk is read-only; choose a folder on another one",
    "ENOENT": "it is not there; check the path, and that its disk is connected",
    "ENOTDIR": "a part of its path is a file and no folder; check the path",
    "EISDIR": "it is a folder and no file; name a file",
    "EEXIST": "something else of that name is there; move it away, or choose another name",
    "ENOTEMPTY": "a folder of that name is there, and not empty; move it away, or choose another name",
    "ENAMETOOLONG": "the name is longer than this disk allows; choose a shorter one",
    "ELOOP": "links on its path lead in a circle; name the place that is meant",
    "EIO": "the disk reports a fault; check it, and choose a folder on another one",
    "EREMOTEIO": _LOST,
    "ESTALE": _LOST,
    "ENOTCONN": _LOST,
    "ECONNRESET": _LOST,
    "ECONNABORTED": _LOST,
    "ETIMEDOUT": _LOST,
    "EHOSTDOWN": _LOST,
    "EHOSTUNREACH": _LOST,
    "ENETUNREACH": _LOST,
    "ENETDOWN": _LOST,
    "ENODEV": "it is no ordinary file, or its disk is gone; check the path",
    "ENXIO": _LOST,
    "EMFILE": "too many files are open; close other programs, or allow more (ulimit -n)",
    "ENFILE": "too many files are open; close other programs",
    "ENOMEM": "memory is used up; close other programs",
    "EBUSY": _BUSY,
    "ETXTBSY": _BUSY,
    "EAGAIN": _BUSY,
    "EDEADLK": _BUSY,
    "EINVAL": _ODD,
    "EILSEQ": _ODD,
    "ENOSYS": _UNABLE,
    "ENOTSUP": _UNABLE,
    "EOPNOTSUPP": _UNABLE,
    "ENOLCK": _UNABLE,
    "EXDEV": _UNABLE,
    "EPIPE": "the program that was to read it has ended; start it again",
}
_BY_NUMBER = {getattr(errno, name): words for name, words in _WORDS.items() if hasattr(errno, name)}
# What Windows says where a file is open elsewhere; Python takes it for a missing permission.
_SHARING_VIOLATIONS = (32, 33)
# Of Python, and of libraries that are written in Rust.
_NUMBERED = re.compile(
    r"\[Errno (\d+)\] [^:\n]*?(?=[:.]|$)(: '[^'\n]*')?|[A-Z][a-z ]* \(os error (\d+)\)", re.MULTILINE
)
# What safetensors says, of its own insides.
_HEADER = re.compile(r"Error while deserializing(?: header)?(?:: [^\n]*)?")


def reason(error: BaseException) -> str:
    """Why, as a part of a sentence: no full stop at its end, and no path, which the sentence itself is to name.

    ``error`` may be any; of those that are no ``OSError`` it is their own text.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"it is not {error.encoding.upper()} text (at byte {error.start})"
    if not isinstance(error, OSError) or error.errno is None:
        told = _NUMBERED.sub(lambda match: _words(int(match[1] or match[3])), str(error).strip())
        return _HEADER.sub("it is no safetensors file, or only a part of one", told).rstrip(".")
    if getattr(error, "winerror", None) in _SHARING_VIOLATIONS:
        return _BUSY
    words = _words(error.errno)
    if not error.strerror or error.strerror == os.strerror(error.errno):
        return words
    # Whoever raised it knew more.
    what, separator, advice = words.partition("; ")
    return f"{what} ({error.strerror}){separator}{advice}"


def in_words(error: OSError) -> str:
    """A whole sentence, with the path where the error has one."""
    where = next((os.fsdecode(path) for path in (error.filename2, error.filename) if isinstance(path, str | bytes)), "")
    words = f"{reason(error)}."
    return f"{where}: {words}" if where else words[0].upper() + words[1:]


def _words(number: int) -> str:
    found = _BY_NUMBER.get(number)
    return found or f"the system says: {os.strerror(number)}; check the disk and the path"
