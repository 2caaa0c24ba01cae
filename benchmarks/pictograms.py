"""Pictograms of one subject in several drawing styles: where they come from, joined by code point, as pictures.

    python -m fluxduel.benchmarks.pictograms .bench/pictograms

fetches the packages with ``npm pack`` (no script of theirs is run), draws every picture and writes one folder a style.
It needs npm, a network and ``pip install resvg-py``.
The base knows the subjects in the styles of ``BASE_STYLES``; no picture of ``TARGET_STYLES`` is shown to it, so a LoRA
can learn one of them and every subject that it was not shown has its true picture to be compared with.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

# Drawn larger than anything is trained at, so that a smaller one is as sharp as a picture of its size can be.
SIDE = 192
_CATEGORIES = ("Animals & Nature", "Food & Drink", "Objects", "Activities", "Travel & Places")
# Twenty-four clock faces that differ by their hands alone.
_LEFT_OUT = ("-oclock", "-thirty")


@dataclass(frozen=True)
class Style:
    """A set of drawings by one hand.

    Attributes:
        word: the style's name in captions.
        package: on the npm registry, with the version.
        licence: SPDX name of the drawings' licence.
        artists: whom to name.
    """

    word: str
    package: str
    licence: str
    artists: str


BASE_STYLES = (
    Style("noto", "@iconify-json/noto@1.2.9", "Apache-2.0", "Noto Emoji, Google Inc."),
    Style("blob", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Noto Emoji (first version), Google Inc."),
    Style("flat", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Fluent Emoji, Microsoft Corporation"),
    Style("twemoji", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twemoji, Twitter Inc. and other contributors"),
)
TARGET_STYLES = (
    Style("3d", "@lobehub/fluent-emoji-3d@1.1.0", "MIT", "Fluent Emoji (3D), Microsoft Corporation"),
    # Share-alike: the benchmark fetches it, nothing of it is shipped.
    Style("outline", "@iconify-json/openmoji@1.2.29", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd"),
    Style("contrast", "@iconify-json/fluent-emoji-high-contrast@1.2.6", "MIT", "Fluent Emoji, Microsoft Corporation"),
)
_RENDERED = TARGET_STYLES[0]


def subjects(folder: Path) -> list[str]:
    """The names that are in every style's folder, sorted: ``red-apple``; their words are the caption."""
    found = [{path.stem for path in (folder / style.word).glob("*.webp")} for style in (*BASE_STYLES, *TARGET_STYLES)]
    return sorted(set.intersection(*found))


def picture(folder: Path, style: str, subject: str) -> Tensor:
    """One picture on white, uint8 (3, 192, 192)."""
    with Image.open(folder / style / f"{subject}.webp") as image:
        pixels = bytearray(image.convert("RGB").tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1).contiguous()


def words(subject: str) -> str:
    """``red-apple`` -> ``red apple``."""
    return subject.replace("-", " ")


def write_pictures(folder: Path, packages: Path) -> int:
    """Fetch what is missing under ``packages``, draw it under ``folder``; the number of subjects in every style."""
    icons = {style.word: _read_package(style, packages) for style in (*BASE_STYLES, *TARGET_STYLES)}
    for word, pictures in icons.items():
        (folder / word).mkdir(parents=True, exist_ok=True)
        missing = {name: body for name, body in pictures.items() if not (folder / word / f"{name}.webp").is_file()}
        with ProcessPoolExecutor() as pool:
            draw = partial(_draw, folder / word)
            list(pool.map(draw, missing, missing.values(), chunksize=32))
    return len(subjects(folder))


def _read_package(style: Style, packages: Path) -> dict[str, bytes]:
    """Subject -> an SVG or a WebP, of those subjects that every style has."""
    names = _joined_names(packages)
    if style is _RENDERED:
        by_code = dict(_members(style, packages, "assets/"))
        return {name: by_code[file] for name, file in names.items()}
    icons = json.loads(dict(_members(style, packages, "icons.json"))["icons.json"])
    return {name: _svg(icons, name) for name in names}


def _joined_names(packages: Path) -> dict[str, str]:
    """Subject -> its file in the package of rendered pictures, for the subjects that every style has."""
    files = dict(_members(BASE_STYLES[0], packages, ""))
    codes: dict[str, list[str]] = {}
    for code, name in json.loads(files["chars.json"]).items():
        codes.setdefault(name, []).append(code)
    rendered = {name for name, _ in _members(_RENDERED, packages, "assets/")}
    known = []
    for style in (*BASE_STYLES, *TARGET_STYLES):
        if style is not _RENDERED:
            icons = json.loads(dict(_members(style, packages, "icons.json"))["icons.json"])
            known.append(icons["icons"].keys() | icons.get("aliases", {}).keys())
    joined = {}
    categories = json.loads(files["metadata.json"])["categories"]
    for name in sorted(name for category in _CATEGORIES for name in categories[category]):
        if name.endswith(_LEFT_OUT) or not all(name in names for names in known):
            continue
        for code in codes.get(name, []):
            for file in (f"assets/{code}.webp", f"assets/{code}-fe0f.webp", f"assets/{code.replace('-fe0f', '')}.webp"):
                if file in rendered:
                    joined[name] = file
    return joined


def _svg(icons: dict, name: str) -> bytes:
    icon = icons["icons"].get(name) or icons["icons"][icons["aliases"][name]["parent"]]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = icon["body"].replace("currentColor", "#000")
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'width="{SIDE}" height="{SIDE}">{body}</svg>'
    ).encode()


def _members(style: Style, packages: Path, start: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a package whose name starts so; a folder ``start`` is kept in the name."""
    name, version = style.package.removeprefix("@").replace("/", "-").rsplit("@", 1)
    archive = packages / f"{name}-{version}.tgz"
    if not archive.is_file():
        packages.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit(f"{archive} is missing, and there is no npm to fetch it with ({style.package}).")
        subprocess.run([npm, "pack", "--ignore-scripts", style.package], cwd=packages, check=True, capture_output=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            file = member.name.removeprefix("package/")
            if member.isfile() and file.startswith(start):
                yield file, tar.extractfile(member).read()


def _draw(folder: Path, name: str, source: bytes) -> None:
    if source.startswith(b"<svg"):
        import resvg_py

        source = bytes(resvg_py.svg_to_bytes(svg_string=source.decode(), width=SIDE, height=SIDE))
    image = Image.open(io.BytesIO(source)).convert("RGBA")
    if image.size != (SIDE, SIDE):
        image = image.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    Image.alpha_composite(white, image).convert("RGB").save(folder / f"{name}.webp", lossless=True, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".bench/pictograms"))
    parser.add_argument("--packages", type=Path, help="where the packages are or go (default: beside the folder)")
    options = parser.parse_args()
    packages = options.packages or options.folder.parent / "packages"
    print(f"{write_pictures(options.folder, packages)} subjects in {len(BASE_STYLES + TARGET_STYLES)} styles")


if __name__ == "__main__":
    main()
