"""Provide ComfyUI's frontends of the versions that the tests compare: ``.frontends/<version>`` is what each serves."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fluxduel.tests.comfy_host import ROOT

# The one that the oldest host asks for, one from the middle, and one of the newest.
VERSIONS = ("1.32.9", "1.45.21", "1.58.1")
FOLDER = ROOT / ".frontends"
TREE = "comfyui_frontend_package/static/"


def unpack(version: str, target: Path) -> None:
    """Download the frontend and put the files that it serves at ``target``, complete or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wanted = f"comfyui-frontend-package=={version}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, wanted]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(TREE)])
        shutil.move(Path(scratch) / TREE, target)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    FOLDER.mkdir(exist_ok=True)
    for version in VERSIONS:
        if (FOLDER / version).exists():
            continue
        logging.info("Fetching frontend %s into %s", version, FOLDER)
        try:
            unpack(version, FOLDER / version)
        except subprocess.CalledProcessError as error:
            logging.error("%s", error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
