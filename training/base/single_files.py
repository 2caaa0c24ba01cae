"""A model in one file, loaded by diffusers without the network, and without a warning about nothing."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin

Model = TypeVar("Model", bound=ModelMixin)

_WARNER = logging.getLogger("diffusers.models.modeling_utils")


def load_single_file(kind: type[Model], file: Path, config: Mapping[str, Any], dtype: torch.dtype) -> Model:
    """The model of ``kind`` in ``file``, on the CPU. ``config``: diffusers' configuration of it.

    Raises what diffusers does for a file that does not fit.
    """
    # diffusers would fetch the configuration from the network unless it is given one in a folder.
    with tempfile.TemporaryDirectory() as folder, _without_empty_warning():
        (Path(folder) / "config.json").write_text(json.dumps({"_class_name": kind.__name__, **config}))
        return kind.from_single_file(str(file), config=folder, local_files_only=True, torch_dtype=dtype)


@contextmanager
def _without_empty_warning() -> Iterator[None]:
    """Some versions of diffusers warn on every load of the modules to be kept in float32, of which FLUX has none."""

    def says_something(record: logging.LogRecord) -> bool:
        return "should be kept in float32: []" not in record.getMessage()

    _WARNER.addFilter(says_something)
    try:
        yield
    finally:
        _WARNER.removeFilter(says_something)
