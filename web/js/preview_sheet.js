// @ts-check
/** The previews of a run inside the two training nodes: below the chart, as soon as there is one. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { forwardToEditor } from "./forwarding.js";
import { inTurn, latestRun, openNode, queryOf } from "./latest_run.js";
import { PreviewView } from "./preview_view.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Previews} Previews */

const NODES = new Set(["FluxDuelTrainDiffusionStage", "FluxDuelTrainAdversarialStage"]);

class NodePreviews {
  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node;
    /** @type {PreviewView | undefined} before the first preview the node has no such element */
    this.view = undefined;
    /** The execution id under which what is shown was trained. */
    this.id = "";
    /** What was told last of the run as a whole. */
    this.told = "";
    /** Fetch what the server has of the node's latest run. */
    this.refresh = inTurn(() => this.#ask(), "the previews could not be fetched.");
  }

  /**
   * Whether other pictures are to be shown than so far: of another run, of one that went back, or of one that was
   * finished before, of which no picture is drawn any more.
   * @param {import("./comfy").StateEvent} event
   */
  isNews({ sitting, state, records }) {
    const before = this.told;
    this.told = `${sitting} ${state} ${records > 0}`;
    return this.told !== before;
  }

  async #ask() {
    /** @type {{id: string, told: Previews} | undefined} */
    const latest = await latestRun(this.node, "/fluxduel/previews");
    if (!latest) {
      this.view?.clear();
      return;
    }
    this.id = latest.id;
    this.view ??= this.#add();
    this.view.update(latest.told, api.apiURL(`/fluxduel/preview_sheet?${queryOf(this.id)}`));
  }

  #add() {
    const { node } = this;
    const view = new PreviewView(({ step, version }) => {
      const which = new URLSearchParams({ step: String(step), version });
      return api.apiURL(`/fluxduel/preview?${queryOf(this.id)}&${which}`);
    });
    forwardToEditor(view.element);
    const widget = node.addDOMWidget("fluxduel_previews", "FLUXDUEL_PREVIEWS", view.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => view.minHeight,
    });
    widget.serialize = false;
    view.element.addEventListener("fluxduel:resize", () => {
      const needed = node.computeSize();
      node.setSize([Math.max(node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
      // The classic editor gives an element its place when it draws, and draws when something has changed.
      node.setDirtyCanvas(true, true);
    });
    return view;
  }
}

/** @type {Map<GraphNode, NodePreviews>} */
const shown = new Map();

/** @param {import("./latest_run.js").Address} event */
function previewsOf(event) {
  const node = openNode(event);
  return node && shown.get(node);
}

function refreshAll() {
  for (const entry of shown.values()) entry.refresh();
}

app.registerExtension({
  name: "FluxDuel.Previews",
  setup() {
    api.addEventListener("fluxduel.preview", ({ detail }) => previewsOf(detail)?.refresh());
    api.addEventListener("fluxduel.state", ({ detail }) => {
      const entry = previewsOf(detail);
      if (entry?.isNews(detail)) entry.refresh();
    });
    api.addEventListener("reconnected", refreshAll);
  },
  nodeCreated(node) {
    if (!NODES.has(node.comfyClass ?? "")) return;
    shown.set(node, new NodePreviews(node));
    const previous = node.onRemoved;
    node.onRemoved = () => {
      previous?.call(node);
      shown.delete(node);
    };
  },
  afterConfigureGraph: refreshAll,
});
