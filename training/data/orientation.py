"""Which way up a picture is, read from its metadata and from nothing else in them.

Cameras and editors write odd metadata into sound pictures. Pillow parses more of them than is needed here, and gives
up on some. So the one entry is looked up by hand.
"""

from __future__ import annotations

import re
import struct

from PIL import Image

ORIENTATION = 0x0112
# The value of the entry -> what makes the picture upright (Exif 2.3, table 6).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those that swap width and height.
ON_ITS_SIDE = (5, 6, 7, 8)
UPRIGHT = 1

_EXIF, _XMP, _MPF = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
_IN_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")
# Value types of an entry that hold one whole number: BYTE, SHORT, LONG.
_FORMATS = {1: "B", 3: "H", 4: "L"}


class DamagedMetadata(Exception):
    """The metadata say nothing that can be understood about which way up the picture is."""


def jpeg_without_metadata(content: bytes) -> tuple[bytes, bytes, bytes, bool]:
    """A JPEG file without its Exif block and its index of further pictures; that block; its XMP; was there an index?

    Raises ``DamagedMetadata`` where the file has no JPEG's segments.
    """
    kept, exif, xmp, several = [content[:2]], b"", b"", False
    at = 2
    while True:
        if content[at : at + 1] != b"\xff" or len(content) < at + 4:
            raise DamagedMetadata("no segment where one should be")
        marker = content[at + 1]
        if marker == 0xFF:  # Padding before a marker.
            at += 1
            continue
        if marker in (0xDA, 0xD9):
            return b"".join([*kept, content[at:]]), exif, xmp, several
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        body = content[at + 4 : end]
        if marker == 0xE1 and body.startswith(_EXIF):
            exif = exif or body[len(_EXIF) :]
        elif marker == 0xE2 and body.startswith(_MPF):
            several = True
        else:
            if marker == 0xE1 and body.startswith(_XMP):
                xmp = xmp or body[len(_XMP) :]
            kept.append(content[at:end])
        if end <= at + 2:
            raise DamagedMetadata("a segment without a length")
        at = end


def in_exif(block: bytes) -> int | None:
    """The orientation, 1 to 8, that an Exif block tells, or ``None``. Raises ``DamagedMetadata``."""
    found = _entry(block.removeprefix(_EXIF))
    return None if found is None else found[0]


def in_xmp(packet: bytes) -> int | None:
    """The orientation, 1 to 8, that an XMP packet tells, or ``None``."""
    match = _IN_XMP.search(packet)
    return None if match is None else int(match[1])


def tiff_upright(content: bytes) -> tuple[bytes, int]:
    """A TIFF file whose orientation is taken out, because Pillow would turn it, and the orientation.

    A file whose first directory cannot be followed, such as a BigTIFF, is left to Pillow as it is.
    """
    try:
        found = _entry(content)
    except DamagedMetadata:
        return content, UPRIGHT
    if found is None or found[0] == UPRIGHT:
        return content, UPRIGHT
    value, at, size = found
    one = (1).to_bytes(size, "little" if content[:2] == b"II" else "big")
    return content[:at] + one + content[at + size :], value


def _entry(block: bytes) -> tuple[int, int, int] | None:
    """The orientation in a block with a TIFF header, where it stands and its bytes; ``None`` where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        if order is None or struct.unpack_from(f"{order}H", block, 2)[0] != 42:
            raise DamagedMetadata("no TIFF header")
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHL", block, at)
            if tag != ORIENTATION:
                continue
            if kind not in _FORMATS or values != 1:
                raise DamagedMetadata("an orientation that is not one number")
            (value,) = struct.unpack_from(f"{order}{_FORMATS[kind]}", block, at + 8)
            if value == 0:  # Some cameras write it for "unknown".
                return None
            if not 1 <= value <= 8:
                raise DamagedMetadata(f"orientation {value}")
            return value, at + 8, struct.calcsize(f"={_FORMATS[kind]}")
    except struct.error as error:
        raise DamagedMetadata("a directory that is cut short") from error
    return None
