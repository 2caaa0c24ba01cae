"""Write all templates into ``example_workflows``, and the blueprint into ``subgraphs``.

    python -m fluxduel.demo.templates [--measure]

With ``--measure`` the nodes' sizes are first measured in Chromium, in both renderers of the frontend that is installed;
``--front-end FOLDER`` names another one's files, and what it draws larger is kept as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fluxduel.tests.comfy_host import ROOT, ComfyHost

from ...training.data.demo_pictures import DEMO_LABEL
from . import sizes
from .blueprint import TWO_STAGES, write_blueprint
from .flux import flux_templates
from .flux2 import klein, klein_distilled
from .layout import lay_out
from .spec import Template
from .tiny import tiny
from .write import write

FOLDER = ROOT / "example_workflows"
BLUEPRINT = ROOT / "subgraphs" / f"{TWO_STAGES.name}.json"
TINY_BASE_LABEL = "tiny base (built in)"


def templates() -> tuple[Template, ...]:
    return (tiny(DEMO_LABEL, TINY_BASE_LABEL), *flux_templates(), klein(), klein_distilled())


def written(object_info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every template in the editor's format, by the name of its file."""
    known = sizes.read()
    found = {}
    for template in templates():
        layout = lay_out(template, lambda node: sizes.size_of(node, known))
        found[f"{template.name}.json"] = write(template, layout, object_info)
    return found


def written_blueprint(object_info: dict[str, Any]) -> dict[str, Any]:
    """The blueprint in the editor's format."""
    known = sizes.read()
    return write_blueprint(TWO_STAGES, lambda node: sizes.size_of(node, known), object_info)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure the nodes' sizes first")
    parser.add_argument("--front-end", type=Path, help="folder with another frontend's files")
    options = parser.parse_args()
    arguments = ["--front-end-root", str(options.front_end)] if options.front_end else []
    with tempfile.TemporaryDirectory() as folder, ComfyHost(Path(folder), arguments=arguments) as host:
        info = host.object_info()
        if options.measure:
            from .measure import measure

            sizes.write(sizes.larger(sizes.read(), measure(host, written(info))))
        files = {FOLDER / name: workflow for name, workflow in written(info).items()}
        for path, content in (files | {BLUEPRINT: written_blueprint(info)}).items():
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
