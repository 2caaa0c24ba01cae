"""What graphs that users have saved rely on: ids, widgets by place, defaults, choices, outputs.

``python -m fluxduel.tests.host.contract`` writes the file anew from a running host. Do so when a version is released:
until then the file is what the last one promised.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluxduel.demo.workflow import is_widget
from fluxduel.tests.comfy_host import ComfyHost

FILE = Path(__file__).with_name("contract.json")
# Their choices are the files of the machine.
OF_THE_MACHINE = {"checkpoint", "lora", "continue_from", "folder"}


def promised(info: Mapping[str, Any]) -> dict[str, Any]:
    """A node's part of the contract, from the host's description of it."""
    declared = {
        name: (kind, rest[0] if rest else {})
        for section in ("required", "optional")
        for name, (kind, *rest) in info["input"].get(section, {}).items()
    }
    widgets = {name: spec for name, spec in declared.items() if is_widget(*spec)}
    return {
        "required": [name for name in info["input"].get("required", {}) if name not in widgets],
        "sockets": {name: kind for name, (kind, _) in declared.items() if name not in widgets},
        "widgets": [
            {"name": name, "type": "COMBO" if isinstance(kind, list) else kind}
            | ({} if name in OF_THE_MACHINE else {"default": options.get("default")})
            | ({"choices": choices(kind, options)} if choices(kind, options) and name not in OF_THE_MACHINE else {})
            for name, (kind, options) in widgets.items()
        ],
        "outputs": [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)],
    }


def choices(kind: str | list[Any], options: Mapping[str, Any]) -> list[Any]:
    return list(kind if isinstance(kind, list) else options.get("options") or [])


def contract(host: ComfyHost) -> dict[str, Any]:
    """Of all nodes of the pack."""
    info = host.object_info()
    return {name: promised(info[name]) for name in sorted(info) if name.startswith("FluxDuel")}


def broken(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of a node's ``old`` promises its ``new`` description does not keep, each in words."""
    problems = []
    names = [widget["name"] for widget in new["widgets"]]
    for place, widget in enumerate(old["widgets"]):
        if place >= len(names) or names[place] != widget["name"]:
            problems.append(f"widget {place + 1} is not {widget['name']} any more")
            continue
        now = new["widgets"][place]
        problems += [
            f"{widget['name']}: {key} was {widget[key]!r}"
            for key in ("type", "default")
            if key in widget and now.get(key) != widget[key]
        ]
        gone = set(widget.get("choices", ())) - set(now.get("choices", ()))
        problems += [f"{widget['name']}: the choice {choice} is gone" for choice in sorted(gone)]
    lost = [name for name, kind in old["sockets"].items() if new["sockets"].get(name) != kind]
    problems += [f"{name} is no {old['sockets'][name]} any more" for name in lost]
    problems += [f"{name} has become required" for name in new["required"] if name not in old["required"]]
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        problems.append(f"outputs were {old['outputs']}")
    return problems


def main() -> None:
    with tempfile.TemporaryDirectory() as base, ComfyHost(Path(base)) as host:
        FILE.write_text(json.dumps(contract(host), indent=1) + "\n")


if __name__ == "__main__":
    main()
