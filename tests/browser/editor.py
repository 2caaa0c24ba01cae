"""ComfyUI's editor in a real Chromium, as the browser tests drive it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Locator, Page

from fluxduel.tests.comfy_host import PACK_NAME, ComfyHost

SCRIPTS = f"/extensions/{PACK_NAME}/js"
TRAINING_NODES = {"diffusion": "FluxDuelTrainDiffusionStage", "adversarial": "FluxDuelTrainAdversarialStage"}
# The server's numbers of the runs in these tests: far above those of a real one, which may have gone before.
SITTINGS = {name: 10**15 + number for number, name in enumerate(("first", "old", "new", "second", "gone"))}
# What a newcomer's first visit would show over the editor, and whatever would make two visits differ.
SETTINGS: dict[str, Any] = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Workflow.WarnBlueprintOverwrite": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
}

_ADD_NODES = """types => {
    const nodes = types.map((type, i) => {
        const node = LiteGraph.createNode(type);
        node.pos = [120 + i * 460, 60];
        app.graph.add(node);
        return node;
    });
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
    return nodes.map(node => String(node.id));
}"""

_SET_WIDGETS = """values => {
    for (const node of app.graph.nodes) {
        for (const [name, value] of Object.entries(values[node.type] ?? {})) {
            node.widgets.find(widget => widget.name === name).value = value;
        }
    }
}"""

# The share of the canvas's pixel columns that hold a colour. The legend's sample of a curve covers a few of them only.
_COLOURED_COLUMNS = """(canvas, colour) => {
    const wanted = [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
    const {width, height} = canvas;
    if (width === 0 || height === 0) return 0;
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
    let found = 0;
    for (let x = 0; x < width; x++) {
        for (let y = 0; y < height; y++) {
            const at = 4 * (y * width + x);
            if (data[at + 3] > 200 && wanted.every((value, i) => Math.abs(data[at + i] - value) < 24)) {
                found++;
                break;
            }
        }
    }
    return found / width;
}"""


def _accept(dialog: Dialog) -> None:
    dialog.accept()


class Editor:
    """One page with the editor in it. ``problems`` collects what the console says of this pack's scripts.

    ``window``: that of another page, of which this is then a second tab.
    """

    def __init__(
        self,
        browser: Browser,
        host: ComfyHost,
        *,
        nodes2: bool,
        theme: str = "dark",
        size: tuple[int, int] = (1400, 1800),
        pixel_ratio: float = 1,
        window: BrowserContext | None = None,
    ) -> None:
        for name, value in {**SETTINGS, "Comfy.VueNodes.Enabled": nodes2, "Comfy.ColorPalette": theme}.items():
            host.post(f"/settings/{name}", value)
        self.host = host
        self.window = window or browser.new_context(
            viewport={"width": size[0], "height": size[1]}, device_scale_factor=pixel_ratio
        )
        self.page: Page = self.window.new_page()
        self.page.set_default_timeout(30_000)
        # Not a setting: the banner of frontend 1.32 that advertises Nodes 2.0.
        self.page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        self.problems: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._note(f"{error}\n{error.stack}"))
        self.page.goto(host.url)
        self.wait_until_ready()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"{message.text} ({message.location.get('url', '')})")

    def _note(self, text: str) -> None:
        if SCRIPTS in text:
            self.problems.append(text)

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(
            "type => !!(window.app?.canvas && window.LiteGraph?.registered_node_types?.[type])",
            arg=TRAINING_NODES["adversarial"],
            timeout=90_000,
        )
        # The editor restores the last graph, or opens its first one, after the nodes are registered.
        self.page.wait_for_function("() => app.extensionManager.workflow?.activeWorkflow != null")

    def reload(self) -> None:
        """Also where the editor holds unsaved changes, of which the browser asks: unanswered, the page would stay."""
        self.page.evaluate("() => { window.before = true }")
        self.page.on("dialog", _accept)
        self.page.reload()
        self.page.remove_listener("dialog", _accept)
        assert not self.page.evaluate("() => window.before"), "the page was not loaded anew"
        self.wait_until_ready()

    def add(self, *stages: str) -> list[str]:
        """Empty the graph, add one training node for each stage and return their ids."""
        # Up to frontend 1.52, Nodes 2.0 loses the element of a node that takes the id of one removed in the same tick.
        self.page.evaluate("() => app.graph.clear()")
        self.next_frame()
        ids = self.page.evaluate(_ADD_NODES, [TRAINING_NODES[stage] for stage in stages])
        for stage in stages:
            self.chart(stage).wait_for()
        return ids

    def open(self, graph: dict[str, Any]) -> None:
        """Open a graph in the editor's format."""
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)

    def set_widgets(self, values: dict[str, dict[str, Any]]) -> None:
        """Set widgets of the open graph: their values by name, by the node's type."""
        self.page.evaluate(_SET_WIDGETS, values)

    def press_run(self) -> None:
        """Press the editor's own button. Newer editors have a second one of that name, which opens a menu."""
        self.page.get_by_role("button", name="Run", exact=True).first.click()

    def chart(self, stage: str) -> Locator:
        """The canvas of the first chart of a stage."""
        return self.page.locator(f'canvas[aria-label^="Training chart of the {stage} stage"]').first

    def label(self, stage: str) -> str:
        """What a screen reader is told of the chart."""
        return self.chart(stage).get_attribute("aria-label") or ""

    def panel(self, stage: str) -> Locator:
        """The chart's whole element: text, button and canvas."""
        return self.chart(stage).locator("xpath=../..")

    def corner(self, node: str) -> tuple[float, float]:
        """Where a node's lower right corner can be dragged."""
        element = self.page.locator(f'[data-node-id="{node}"]')
        if element.count():
            box = element.bounding_box()
            assert box is not None
            return box["x"] + box["width"] - 4, box["y"] + box["height"] - 4
        x, y = self.page.evaluate(
            """id => {
                const node = app.graph.getNodeById(id);
                const { left, top } = app.canvas.canvas.getBoundingClientRect();
                const [dx, dy] = app.canvas.ds.offset;
                return [left + dx + node.pos[0] + node.size[0] - 4, top + dy + node.pos[1] + node.size[1] - 4];
            }""",
            node,
        )
        return x, y

    def columns(self, stage: str, colour: str) -> float:
        """The share of the chart's pixel columns that hold ``colour`` (#rrggbb)."""
        return self.chart(stage).evaluate(_COLOURED_COLUMNS, colour)

    def picture(self, stage: str) -> str:
        """The canvas as a data URL, to tell one drawing from another."""
        self.next_frame()
        return self.chart(stage).evaluate("canvas => canvas.toDataURL()")

    def next_frame(self) -> None:
        """Wait until everything that was asked for has been drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def send(self, event: str, **detail: Any) -> None:
        """Hand a message to the page as if it had come from the server."""
        self.page.evaluate(
            """async ([event, detail]) => {
                const { api } = await import("/scripts/api.js");
                api.dispatchEvent(new CustomEvent(event, { detail }));
            }""",
            [event, detail],
        )
        self.next_frame()

    def state(self, node: str | int, stage: str, state: str = "running", *, run: str = "first", **detail: Any) -> None:
        """A message about the state of a run. ``detail``: what is not as before the first step."""
        told = {"sitting": SITTINGS[run], "message": "", "facts": {}, "notes_before": 0, "notes": [], "records": 0}
        told |= detail
        self.send("fluxduel.state", node=node, run=run, stage=stage, state=state, **told)

    def train(
        self, node: str | int, stage: str, records: list[dict[str, float]], *, run: str = "first", total: int = 0,
        facts: dict[str, float] | None = None,
    ) -> None:
        """The messages of a run with these scalars, one record for each step from 1 on."""
        common = {"node": node, "run": run, "stage": stage, "sitting": SITTINGS[run]}
        self.state(node, stage, run=run)
        for step, scalars in enumerate(records, 1):
            self.send(
                "fluxduel.step",
                **common,
                step=step,
                total=total or len(records),
                scalars=scalars,
                seconds_per_step=0.5,
                facts=facts or {},
            )

    def screenshot(self, path: Path, *types: str) -> None:
        """Write a picture of the page, with all nodes of these types in view."""
        self.page.evaluate(
            """types => {
                const nodes = app.graph.nodes.filter(node => types.includes(node.type));
                const left = Math.min(...nodes.map(node => node.pos[0]));
                const top = Math.min(...nodes.map(node => node.pos[1] - 30));
                const right = Math.max(...nodes.map(node => node.pos[0] + node.size[0]));
                const bottom = Math.max(...nodes.map(node => node.pos[1] + node.size[1]));
                // The editor's own bars lie over its edges.
                const { clientWidth, clientHeight } = app.canvas.canvas;
                const [x, y, margin] = [90, 100, 30];
                const [width, height] = [clientWidth - x - margin, clientHeight - y - margin];
                const scale = Math.min(width / (right - left), height / (bottom - top));
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset = [x / scale - left, y / scale - top];
                app.canvas.setDirty(true, true);
            }""",
            list(types),
        )
        self.page.wait_for_timeout(1500)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
