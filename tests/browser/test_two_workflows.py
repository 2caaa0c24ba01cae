"""Two workflows whose nodes have the same ids: each shows its own runs, also after going from one to the other."""

from __future__ import annotations

from typing import Any

from fluxduel.tests.browser.editor import Editor
from fluxduel.tests.browser.test_resumed_run import graph_of, records
from fluxduel.tests.browser.test_run_buttons import toolbar
from fluxduel.tests.browser.test_whole_curve import shown, wait
from fluxduel.tests.comfy_host import ComfyHost, failure
from fluxduel.tests.host.two_stage_graph import write_pictures


def test_a_run_is_shown_in_its_own_workflow_alone(editor: Editor, comfy_host: ComfyHost) -> None:
    folder = comfy_host.base / "input" / "two-workflows"
    if not folder.exists():
        write_pictures(folder)
    (node,) = editor.add("diffusion")
    graph = editor.page.evaluate("() => app.graph.serialize()")
    one, other = ({**graph, "id": f"00000000-0000-4000-8000-00000000000{number}"} for number in (1, 2))
    seed = 50 + len(list((comfy_host.base / "output").glob("fluxduel/*")))

    def queue(workflow: dict[str, Any], **stage: Any) -> str:
        graph = graph_of(folder, node, **stage)
        return comfy_host.queue(graph, workflow=workflow)

    editor.open(one)
    assert failure(comfy_host.wait(queue(one, steps=3, seed=seed))) is None
    wait(lambda: shown(editor)["state"] == "finished", editor)
    first = shown(editor)
    assert first["steps"][-1] == 3

    # Another one trains while the page shows the first.
    prompt = queue(other, steps=100_000, seed=seed, checkpoint_every=0)
    records(comfy_host, node, 20)
    assert shown(editor) == first and toolbar(editor).count() == 0
    editor.open(other)
    wait(lambda: len(shown(editor)["steps"]) > 10 and shown(editor)["whole"], editor)
    assert shown(editor)["state"] == "running" and shown(editor)["steps"][:10] == list(range(1, 11))
    toolbar(editor).wait_for()
    # The page comes back in the midst of it.
    editor.open(one)
    wait(lambda: shown(editor)["run"] == first["run"], editor)
    assert shown(editor) == first and toolbar(editor).count() == 0
    # A third shows neither, and what a script has trained is shown wherever it fits.
    second = comfy_host.get("/fluxduel/runs")["runs"][0]["run"]
    editor.open({**graph, "id": "00000000-0000-4000-8000-000000000003"})
    editor.page.wait_for_timeout(500)
    assert shown(editor)["run"] not in (first["run"], second)
    comfy_host.interrupt()
    comfy_host.wait(prompt)
    assert failure(comfy_host.wait(comfy_host.queue(graph_of(folder, node, steps=2, seed=seed + 1)))) is None
    wait(lambda: shown(editor)["state"] == "finished", editor)
    editor.open(one)
    wait(lambda: shown(editor)["steps"] == [1, 2], editor)
