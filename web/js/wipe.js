// @ts-check
/** Two pictures of a comparison over each other, with a line between them to drag, in Compare FLUX LoRAs. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { forwardToEditor } from "./forwarding.js";
import { keep, kept } from "./kept_state.js";
import { executionIds, findNode } from "./node_lookup.js";
import { addRow } from "./node_rows.js";
import { MIN_HEIGHT, WipeView } from "./wipe_view.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./wipe_view.js").Comparison} Comparison */
/** @typedef {Record<string, { fluxduel_comparison?: Comparison[] }>} Outputs what nodes have shown, by execution id */
/** @typedef {{ prompt?: any[], outputs?: Outputs }} Run an entry of the host's history */

const NODE = "FluxDuelCompareFluxLoRAs";
const OUTPUT = "fluxduel_comparison";
const NODE_WIDTH = 480;
/** So many runs of the host's history are looked through. */
const RECENT = 64;

/** @type {Map<GraphNode, WipeView>} */
const views = new Map();

/** @param {GraphNode} node */
function addWipe(node) {
  const view = new WipeView({ addressOf, chosen: (choice) => keep(node, "wipe", choice) });
  forwardToEditor(view.element);
  views.set(node, view);
  addRow(node, "fluxduel_wipe", view.element, MIN_HEIGHT, NODE_WIDTH);
  const previous = node.onRemoved;
  node.onRemoved = () => {
    previous?.call(node);
    views.delete(node);
    view.dispose();
  };
}

/** @param {import("./wipe_view.js").Picture} picture */
function addressOf(picture) {
  return api.apiURL(`/view?${new URLSearchParams({ ...picture })}`);
}

/** After a reload, in a second tab: what each node has shown last in a run of the open graph, by the host's history. */
async function refresh() {
  const waiting = [...views].filter(([, view]) => !view.comparison);
  if (waiting.length === 0) return;
  const answer = await api.fetchApi(`/history?max_items=${RECENT}`);
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  const runs = Object.values(/** @type {Record<string, Run>} */ (await answer.json()));
  const own = runs.filter((run) => run.prompt?.[3]?.extra_pnginfo?.workflow?.id === app.rootGraph.id).reverse();
  for (const [node, view] of waiting) {
    const ids = executionIds(app.rootGraph, node);
    const found = own.flatMap((run) => ids.map((id) => run.outputs?.[id]?.[OUTPUT]?.[0])).find(Boolean);
    // One that has come in the meantime is newer.
    if (found && !view.comparison) view.show(found, kept(node, "wipe"));
  }
}

app.registerExtension({
  name: "FluxDuel.Wipe",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const comparison = /** @type {Comparison | undefined} */ (detail.output?.[OUTPUT]?.[0]);
      const node = comparison && findNode(app.rootGraph, detail.node);
      if (comparison && node) views.get(node)?.show(comparison);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addWipe(node);
  },
  afterConfigureGraph() {
    // The next run shows its pictures all the same.
    refresh().catch((error) => console.warn("FluxDuel: the last comparison could not be fetched.", error));
  },
});
