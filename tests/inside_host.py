"""Scripts that run inside the host's own modules. Tests that need them are skipped where there is no host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fluxduel.tests.comfy_host import HostError, host_folder


def host_or_skip() -> Path:
    """The folder of the ComfyUI to run."""
    try:
        return host_folder()
    except HostError as error:
        pytest.skip(str(error))


def run_inside(script: str, *arguments: Path | str) -> str:
    """Run a script of this folder's ``host`` with the host's folder and ``arguments``: what it wrote of errors."""
    command = [sys.executable, Path(__file__).with_name("host") / script, host_or_skip(), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr
