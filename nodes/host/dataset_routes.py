"""Routes of the training folders: what is in them, thumbnails, captions that are edited, files that are added.

Every folder is one that the host lists, every file lies in it with all links followed, and every change comes from a
page of this host. What is wrong is answered as ``{"error": text}``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from ...training.atomic_file import write_whole
from ...training.data.captions import CAPTION_RULES, decoded
from ...training.data.data_error import ImageFolderError
from ...training.data.demo_pictures import DEMO_LABEL
from ...training.data.file_names import MOST_CAPTION_BYTES, check_training_file, plain_name
from ...training.data.folder_files import CAPTION_SUFFIXES
from ...training.data.folder_sheet import FolderSheet, folder_sheet, lies_inside
from ...training.data.masks import MASK_RULES
from ...training.data.picture_file import picture_suffixes
from ...training.data.thumbnails import Thumbnail, thumbnail
from ...training.failure_words import in_words
from ..encoded_pictures import EncodedPictures
from .folders import training_folders, written_folders
from .same_origin import from_this_host

encoded_pictures = EncodedPictures()

MOST_ENTRIES = 100
THUMBNAIL_BYTES = 32 << 20
# A page asks for many thumbnails at once, and to list the folders takes its time on a network's disk.
SECONDS_OF_A_LISTING = 3.0
# So many pictures are decoded at once, beside a training that needs the cores.
_readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="fluxduel-dataset")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """An answer other than 200: its status, and why in words for the user."""

    def __init__(self, status: int, text: str, **more: Any) -> None:
        super().__init__(text)
        self.status, self.more = status, more


class Folders:
    """The host's training folders by label, listed anew after a while and when one is not there."""

    def __init__(self) -> None:
        self._listed: dict[str, Path] = {}
        self._at = float("-inf")

    def root(self, label: str) -> Path:
        if label not in self._listed or time.monotonic() - self._at > SECONDS_OF_A_LISTING:
            self._listed, self._at = training_folders(), time.monotonic()
        if label not in self._listed:
            raise Refused(404, f"The host lists no training folder {label!r} (any more). Press R to look again.")
        return self._listed[label]

    def own_root(self, label: str) -> Path:
        """``root``, to write into."""
        if label == DEMO_LABEL:
            raise Refused(403, "The demo pictures are a part of the pack. Make a folder of your own for changes.")
        return self.root(label)


class Shelf:
    """The latest thumbnails, up to ``THUMBNAIL_BYTES``."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Thumbnail] = OrderedDict()
        self._bytes = 0

    def get(self, *key: Any) -> Thumbnail | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, found: Thumbnail, *key: Any) -> None:
        before = self._kept.pop(key, None)
        self._kept[key] = found
        self._bytes += len(found.content) - (0 if before is None else len(before.content))
        while self._bytes > THUMBNAIL_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1].content)


folders, shelf = Folders(), Shelf()


def answered(handler: Handler) -> Handler:
    """``handler`` for a page of this host only, with its refusals as JSON."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if not from_this_host(request):
                raise Refused(403, "This is for pages of this ComfyUI only.")
            return await handler(request)
        except Refused as refusal:
            return web.json_response({"error": str(refusal), **refusal.more}, status=refusal.status)
        except web.HTTPRequestEntityTooLarge:
            text = "The file is larger than this ComfyUI takes from a page. Copy it into the folder yourself."
            return web.json_response({"error": text}, status=413)
        except ValueError as error:  # data errors among them
            return web.json_response({"error": str(error)}, status=422)
        except OSError as error:
            return web.json_response({"error": in_words(error)}, status=422)

    return answer


def register_dataset_routes() -> None:
    """``GET /fluxduel/dataset`` and ``/thumbnail``; ``POST`` ``/caption``, ``/upload`` and ``/folder`` below it."""
    routes = PromptServer.instance.routes
    routes.get("/fluxduel/dataset")(answered(_entries))
    routes.get("/fluxduel/dataset/thumbnail")(answered(_thumbnail))
    routes.post("/fluxduel/dataset/caption")(answered(_caption))
    routes.post("/fluxduel/dataset/upload")(answered(_upload))
    routes.post("/fluxduel/dataset/folder")(answered(_folder))


async def _entries(request: web.Request) -> web.Response:
    """``folder``, ``caption_rule``, ``trigger_word``, ``mask_rule``, ``start``, ``count``: a part of the folder."""
    query = request.query
    start, count = _number(query.get("start", "0"), 1 << 30), _number(query.get("count", "50"), MOST_ENTRIES)
    label = query.get("folder", "")
    root = folders.root(label)

    def look() -> dict[str, Any]:
        sheet = _sheet(root, query)
        encoded = encoded_pictures.of(label)
        entries = []
        for entry in sheet.entries(start, count):
            known = encoded.get(entry.name)
            fields = dataclasses.asdict(entry)
            fields["editable"] = entry.editable and label != DEMO_LABEL
            fields["bucket"] = None if known is None else [known.width, known.height]
            fields["held_out"] = known is not None and known.held_out
            entries.append(fields)
        return {
            "pictures": len(sheet.found.pictures),
            "trained": sheet.trained,
            "without_caption": sheet.without_caption,
            "without_mask": sheet.without_mask,
            "problems": sheet.problems,
            "start": start,
            "entries": entries,
        }

    try:
        found = await _in_thread(look)
    except ImageFolderError as error:  # no picture yet, or a folder that cannot be read: there is nothing to show
        found = {
            "pictures": 0, "trained": 0, "without_caption": 0, "without_mask": 0,
            "problems": [str(error)], "start": 0, "entries": [],
        }  # fmt: skip
    return web.json_response({**found, "own": label != DEMO_LABEL})


async def _thumbnail(request: web.Request) -> web.Response:
    """``folder``, ``name``, ``mask_rule``, ``mask``: a JPEG; the header X-FluxDuel-Picture says what it is of.

    ``version``, which is not looked at, has the browser ask again for a picture that has changed.
    """
    query = request.query
    root = folders.root(query.get("folder", ""))
    name, mask, rule = query.get("name", ""), query.get("mask") or None, query.get("mask_rule", MASK_RULES[0])
    if rule not in MASK_RULES:
        raise Refused(400, f"mask_rule must be one of {', '.join(MASK_RULES)}.")

    def look() -> Thumbnail:
        files = [_picture(root, each) for each in (name, mask) if each is not None]
        key = (rule, mask, *((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files))
        found = shelf.get(*key)
        if found is None:
            found = thumbnail(root, name, rule, mask)
            shelf.put(found, *key)
        return found

    found = await _in_thread(look)
    about = {"width": found.width, "height": found.height, "masked": found.masked, "remarks": found.remarks}
    return web.Response(
        body=found.content,
        content_type="image/jpeg",
        headers={
            "X-FluxDuel-Picture": json.dumps(about),
            "Cache-Control": "private, max-age=86400",
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _caption(request: web.Request) -> web.Response:
    """JSON ``folder``, ``name`` of the picture, ``text``, and ``seen``: what its file held (null: there was none)."""
    body = await _json(request, folder=str, name=str, text=str, seen=(str, type(None)))
    root = folders.own_root(body["folder"])
    try:
        content = body["text"].encode()
    except UnicodeEncodeError as error:
        raise Refused(400, "The caption holds half of a letter.") from error
    check_training_file("caption.txt", content)

    def write() -> dict[str, Any]:
        sheet = folder_sheet(
            root, caption_rule=CAPTION_RULES[0], trigger_word="", mask_rule=MASK_RULES[0], leave_out=written_folders()
        )
        try:
            file = sheet.caption_file(body["name"])
        except KeyError as error:
            raise Refused(404, f"There is no picture {body['name']!r} in this folder (any more).") from error
        if not lies_inside(root, file):
            raise Refused(403, f"The caption file of {body['name']!r} lies outside its folder, behind a link.")
        now = decoded(file.read_bytes()) if file.exists() else None
        if now != body["seen"]:
            raise Refused(409, "The caption file was changed meanwhile by something else.", now=now)
        write_whole(file, content)
        return {"file": sheet.found.name(file)}

    return web.json_response(await _in_thread(write))


async def _upload(request: web.Request) -> web.Response:
    """``folder``, ``name``; the file's bytes are the body. ``replace=1`` for a file that is there and differs."""
    root = folders.own_root(request.query.get("folder", ""))
    if request.content_type != "application/octet-stream":
        raise Refused(415, "The file's bytes have to be the body, as application/octet-stream.")
    name = plain_name(request.query.get("name", ""))
    suffix = Path(name).suffix.lower()
    if suffix in CAPTION_SUFFIXES and (request.content_length or 0) > MOST_CAPTION_BYTES:
        raise Refused(413, f"The caption file '{name}' has more than {MOST_CAPTION_BYTES >> 10} KB.")
    if suffix not in picture_suffixes() and suffix not in CAPTION_SUFFIXES:
        check_training_file(name, b"")  # says so
    content = await request.read()
    replace = request.query.get("replace") == "1"

    def write() -> str:
        check_training_file(name, content)
        file = root / name
        if not lies_inside(root, file) or not lies_inside(root, file.parent):
            raise Refused(403, f"{name!r} leads out of the folder, behind a link.")
        if file.is_dir():
            raise Refused(409, f"{name!r} is a folder there.")
        if file.exists():
            if file.read_bytes() == content:
                return "same"
            if not replace:
                raise Refused(409, f"There is another file {name!r} already.", exists=True)
        write_whole(file, content)
        return "written"

    return web.json_response({"state": await _in_thread(write), "name": name})


async def _folder(request: web.Request) -> web.Response:
    """JSON ``name``: a new folder in the host's input folder; the answer is its label."""
    name = plain_name((await _json(request, name=str))["name"])
    inputs = Path(folder_paths.get_input_directory())
    path = inputs / name

    def make() -> None:
        if not lies_inside(inputs, path):
            raise Refused(403, f"{name!r} leads out of the input folder, behind a link.")
        if path.exists() and not path.is_dir():
            raise Refused(409, f"{name!r} is a file in the input folder. Choose another name.")
        path.mkdir(parents=True, exist_ok=True)

    await _in_thread(make)
    label = next((label for label, listed in training_folders().items() if listed == path), None)
    if label is None:
        raise Refused(409, f"ComfyUI does not list the folder {name!r}. Choose another name.")
    return web.json_response({"folder": label})


def _sheet(root: Path, query: Any) -> FolderSheet:
    return folder_sheet(
        root,
        caption_rule=query.get("caption_rule", CAPTION_RULES[0]),
        trigger_word=query.get("trigger_word", ""),
        mask_rule=query.get("mask_rule", MASK_RULES[0]),
        leave_out=written_folders(),
    )


def _picture(root: Path, name: str) -> Path:
    """The picture or mask file ``name`` below ``root``; ``Refused`` where it is none, or lies elsewhere."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or "\0" in part or "\\" in part for part in parts):
        raise Refused(400, f"{name!r} is no name of a picture.")
    file = root / name
    if file.suffix.lower() not in picture_suffixes():
        raise Refused(415, f"{name!r} is no picture that is read here.")
    if not lies_inside(root, file):
        raise Refused(403, f"{name!r} lies outside its folder, behind a link.")
    if not file.is_file():
        raise Refused(404, f"There is no picture {name!r} in this folder (any more).")
    return file


def _number(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > most:
        raise Refused(400, f"start and count must be whole numbers, count at most {MOST_ENTRIES}.")
    return int(text)


async def _json(request: web.Request, **fields: Any) -> dict[str, Any]:
    """The body's fields. Nothing but JSON is taken: a form of another site cannot send that."""
    if request.content_type != "application/json":
        raise Refused(415, "The body has to be application/json.")
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is no JSON.") from error
    if not isinstance(body, dict) or any(not isinstance(body.get(name), kind) for name, kind in fields.items()):
        raise Refused(400, f"The body has to be an object with {', '.join(fields)}.")
    return body


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_readers, work)
