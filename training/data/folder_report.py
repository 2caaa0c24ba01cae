"""What was found in a folder of pictures, and what is odd about it, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from .captions import CAPTION_RULES
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
    lines += remarks.lines()
    lines += [
        f"{why}: {len(names)} ({listed(names, most=20)})." for why, names in found.left_out.items() if why not in WARNED
    ]
    lines += [
        f"Warning: {why}: {len(found.left_out[why])} ({listed(found.left_out[why], _MOST_LEFT_OUT)})."
        for why in WARNED
        if why in found.left_out
    ]
    for companions, files, used_at_all, rule in (
        (found.captions, caption_files, caption_rule == CAPTION_RULES[0], f"the caption rule is '{caption_rule}'"),
        (found.masks, mask_files, mask_rule == MASK_RULES[2], f"the mask rule is '{mask_rule}'"),
    ):
        orphans = companions.without_picture(found.pictures)
        second = set(companions.files) - set(files.values()) - set(orphans)
        for what, which in (
            (f"{companions.plural} without a picture of their name", orphans),
            (f"{companions.plural} beside another that comes first, not used", second),
        ):
            if which:
                lines.append(f"Warning: {what}: {len(which)} ({listed(sorted(map(found.name, which)))}).")
        if files and not used_at_all:
            lines.append(
                f"Warning: {companions.plural} that are not used, because {rule}: {len(set(files.values()))}."
            )
    return "\n".join(lines + [f"Warning: {warning}" for warning in remarks.warnings()])
