"""What was found in a folder of pictures, and what is odd about it, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from .captions import CAPTION_RULES
from .companions import Companions
from .data_error import listed
from .folder_files import WARNED, Folder
from .masks import MASK_RULES
from .remarks import Remarks

# Of files that are perhaps meant to be trained on each should be found in the report.
_MOST_LEFT_OUT = 100


def describe_folder(
    found: Folder,
    repeats: Mapping[Path, int],
    caption_files: Mapping[Path, Path],
    mask_files: Mapping[Path, Path],
    loose: Iterable[Path],
    *,
    caption_rule: str,
    mask_rule: str,
    trigger_word: str,
    remarks: Remarks,
) -> str:
    """The report. ``caption_files`` and ``mask_files``: picture -> its file, where it has one, used or not."""
    used = [path for path in found.pictures if repeats[path]]
    lines = [f"Folder {found.root}. Pictures: {len(used)}."]
    if any(count != 1 for count in repeats.values()):
        by_folder = Counter((path.parent, repeats[path]) for path in found.pictures)
        folders = ", ".join(
            f"{found.name(parent)}: {number} x {count}" for (parent, count), number in sorted(by_folder.items())
        )
        lines.append(f"Repeats (pictures x repeats): {folders}. That makes {sum(repeats.values())} training pictures.")
    lines.append(f"Caption rule: {caption_rule}." + (f" Trigger word: {trigger_word}." if trigger_word else ""))
    lines.append(f"Mask rule: {mask_rule}.")
    spelt = sorted({found.name(path) for path in loose})
    if spelt:
        lines.append(
            f"Files whose name is spelt otherwise than the picture's (case or Unicode form), used for it: {len(spelt)} "
            f"({listed(spelt)})."
        )
    if caption_rule == CAPTION_RULES[0]:
        lines += _unexpected(found, found.captions, caption_files)
    if mask_rule == MASK_RULES[2]:
        lines += _unexpected(found, found.masks, mask_files)
    lines += remarks.lines()
    lines += [
        f"{why}: {len(names)} ({listed(names, most=20)})." for why, names in found.left_out.items() if why not in WARNED
    ]
    lines += [
        f"Warning: {why}: {len(found.left_out[why])} ({listed(found.left_out[why], _MOST_LEFT_OUT)})."
        for why in WARNED
        if why in found.left_out
    ]
    for companions, files, kind, rule, needed in (
        (found.captions, caption_files, "caption", caption_rule, CAPTION_RULES[0]),
        (found.masks, mask_files, "mask", mask_rule, MASK_RULES[2]),
    ):
        orphans = companions.without_picture(found.pictures)
        second = set(companions.files) - set(files.values()) - set(orphans)
        for what, which in (
            (f"{companions.plural} without a picture of their name", orphans),
            (f"{companions.plural} beside another that comes first, not used", second),
        ):
            if which:
                lines.append(f"Warning: {what}: {len(which)} ({listed(sorted(map(found.name, which)))}).")
        if files and rule != needed:
            names = sorted(map(found.name, set(files.values())))
            lines.append(
                f"Warning: {companions.plural} that are not used, because the {kind} rule is '{rule}': {len(names)} "
                f"({listed(names)}). To use them choose the {kind} rule '{needed}'."
            )
    return "\n".join(lines + [f"Warning: {warning}" for warning in remarks.warnings()])


def _unexpected(found: Folder, companions: Companions, files: Mapping[Path, Path]) -> list[str]:
    """What perhaps was not meant: files that go by a picture's whole name, and those that serve several pictures."""
    whole = sorted(found.name(file) for picture, file in files.items() if file.stem.startswith(picture.name))
    pictures: dict[Path, list[str]] = {}
    for picture, file in files.items():
        pictures.setdefault(file, []).append(found.name(picture))
    shared = sorted(
        f"'{found.name(file)}' of {listed(sorted(names))}" for file, names in pictures.items() if len(names) > 1
    )
    lines, what = [], companions.plural.capitalize()
    if whole:
        lines.append(f"{what} found by the picture's whole name: {len(whole)} ({listed(whole)}).")
    if shared:
        more = f"; and {len(shared) - 5} more" if len(shared) > 5 else ""
        lines.append(f"{what} that serve several pictures: {len(shared)} ({'; '.join(shared[:5])}{more}).")
    return lines
