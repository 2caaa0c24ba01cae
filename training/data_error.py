"""The error of data that cannot be trained on."""

from __future__ import annotations


class DataError(ValueError):
    """Pictures, captions, masks or their encodings cannot be trained on. The message names the culprit."""
