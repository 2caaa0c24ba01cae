// @ts-check
/** The previews of a run inside the two training nodes, below the chart. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
// Registered first, so that the pictures come below it.
import "./training_chart.js";
import { forwardToEditor } from "./forwarding.js";
import { keep, kept } from "./kept_state.js";
import { inTurn, latestRun, openNode, queryOf } from "./latest_run.js";
import { addRow } from "./node_rows.js";
import { MIN_HEIGHT, PreviewView } from "./preview_view.js";
import { say } from "./say.js";
import { showPicture } from "./zoomed_picture.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Previews} Previews */

const NODES = new Set(["FluxDuelTrainDiffusionStage", "FluxDuelTrainAdversarialStage"]);

class NodePreviews {
  /** @param {GraphNode} node */
  constructor(node) {
    this.node = node;
    this.view = new PreviewView({
      address: ({ step, version }) => this.#address("preview", { step: String(step), version }),
      chosen: (run, step) => keep(node, "preview", { run, step }),
      enlarge: () => showPicture(say("Previews: updates across, prompts down"), this.#address("preview_sheet", {})),
    });
    forwardToEditor(this.view.element);
    addRow(node, "fluxduel_previews", this.view.element, MIN_HEIGHT);
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
      this.view.clear();
      return;
    }
    this.id = latest.id;
    const before = kept(this.node, "preview");
    this.view.update(latest.told, before?.run === latest.told.run ? before.step : undefined);
  }

  /** @param {string} route @param {Record<string, string>} which */
  #address(route, which) {
    const query = queryOf(this.id);
    for (const [name, value] of Object.entries(which)) query.set(name, value);
    return api.apiURL(`/fluxduel/${route}?${query}`);
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
