"""Every route that the pack registers has made-up requests thrown at it: one that no corpus knows fails here."""

from __future__ import annotations

import re

from fluxduel.tests.comfy_host import ROOT

# Route -> the tests that ask it what nobody should.
CORPORA = {
    "/fluxduel/history": "test_route_fuzz.py",
    "/fluxduel/runs": "test_route_fuzz.py",
    "/fluxduel/run/{action}": "test_route_fuzz.py",
    "/fluxduel/dataset": "test_dataset_routes.py",
    "/fluxduel/dataset/thumbnail": "test_dataset_routes.py",
    "/fluxduel/dataset/caption": "test_dataset_routes.py",
    "/fluxduel/dataset/upload": "test_dataset_routes.py",
    "/fluxduel/dataset/folder": "test_dataset_routes.py",
    "/fluxduel/previews": "test_previews.py",
    "/fluxduel/preview": "test_previews.py",
    "/fluxduel/preview_sheet": "test_previews.py",
}
REGISTERING = re.compile(r'routes\.(?:get|post|put|patch|delete|head|view|static|route)\(\s*(?:"\*",\s*)?"([^"]+)"')


def test_every_route_has_a_corpus() -> None:
    sources = [path.read_text() for path in sorted((ROOT / "nodes").rglob("*.py"))]
    found = [route for source in sources for route in REGISTERING.findall(source)]
    # Whatever registers in a way that the pattern does not read.
    registered = [one for source in sources for one in re.findall(r"\broutes\.\w+\(|\badd_routes\(|\.router\.", source)]
    assert len(registered) == len(found)
    assert sorted(found) == sorted(CORPORA)


def test_each_corpus_asks_its_routes() -> None:
    for route, name in CORPORA.items():
        text = (ROOT / "tests" / "host" / name).read_text()
        last = route.removesuffix("/{action}").rsplit("/", 1)[1]
        assert re.search(rf'/{last}\b', text), f"{name} does not ask {route}"
