"""Which of a stage's notes are warnings, and which only tell how things stand."""

from __future__ import annotations

import re

# Runs of earlier versions count steps.
_UPDATE = r"(?:step|update)"
# How each sentence begins that asks nothing of the reader. All else that a stage notes is a warning.
_PLAIN = re.compile(
    rf"The base is held in |\d+ of \d+ blocks are streamed, |Memory[ :(]|By the base alone an? {_UPDATE} takes "
    rf"|Measurements take about |Up to {_UPDATE} \d+ the discriminator learns alone "
    rf"|The state of {_UPDATE} \d+ is delivered"
    r"|Flow loss, diversity and high frequencies are within their limits|\d+ pictures have masks: "
    rf"|Finished early, as asked: |The checkpoint of {_UPDATE} \d+ is written\. "
    rf"|Score \S+ is below \S+ of (?:{_UPDATE} \d+|the start) "
    r"|Pair accuracy averages .*: the discriminator sees again"
)
# What makes one of these a warning all the same.
_ALL_THE_SAME = re.compile(r"so that copies of the rest are slow|adversarial weight is lowered")


def is_warning(note: str) -> bool:
    """Whether the user should know of ``note``, a sentence of a stage, without having asked."""
    return not _PLAIN.match(note) or bool(_ALL_THE_SAME.search(note))
