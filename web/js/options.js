// @ts-check
/** Option nodes on the page: graphs of version 0.1 are converted, and what few people set is folded away. */

import { app } from "../../../scripts/app.js";
import { convertGraph } from "./convert_graph.js";
import { MUTED } from "./elements.js";
import { placeAboveShown } from "./node_rows.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Widget} Widget */
/** @typedef {import("./saved_graph").NodeDef} NodeDef */

/** What the canvas leaves below each widget. */
const WIDGET_MARGIN = 4;

/** @type {Record<string, NodeDef>} */
let definitions = {};

/** Whether this frontend knows of advanced widgets: those that do have this setting. */
function knowsAdvanced() {
  return app.extensionManager.setting.get("Comfy.Node.AlwaysShowAdvancedWidgets") !== undefined;
}

/** Hide the widgets that the node declares as advanced, behind a button where the page gives none. @param {GraphNode} node */
function fold(node) {
  const advanced = (node.widgets ?? []).filter(({ options }) => options?.advanced);
  if (!advanced.length) return;
  const known = knowsAdvanced();
  if (known) for (const widget of advanced) widget.advanced = true;
  if (known && app.extensionManager.setting.get("Comfy.VueNodes.Enabled")) {
    node.setSize([node.size[0], node.computeSize()[1]]);
    return;
  }
  const button = document.createElement("button");
  button.className = "fluxduel-more";
  button.style.cssText = "width:100%;height:20px;border:0;border-radius:4px;cursor:pointer;font:12px sans-serif;" +
    `background:var(--comfy-input-bg,#222);color:${MUTED}`;
  button.addEventListener("click", () => show(!node.showAdvanced));
  // The element comes into a node of Nodes 2.0 again and again, and each time among rows that know nothing of folding.
  new ResizeObserver(() => hideRows(node, button, advanced)).observe(button);
  const widget = node.addDOMWidget("fluxduel_more", "FLUXDUEL_MORE", button, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => 20,
    getMaxHeight: () => 20,
  });
  widget.serialize = false;
  placeAboveShown(node, widget);
  /** @param {boolean} shown */
  function show(shown) {
    node.showAdvanced = shown;
    button.textContent = shown ? "fewer options" : `${advanced.length} more options`;
    for (const widget of advanced) {
      if (!known) widget.hidden = !shown;
      // The canvas gives a hidden widget a row all the same, unless it asks for none.
      if (shown) delete widget.computeSize;
      else widget.computeSize = () => [0, -WIDGET_MARGIN];
    }
    hideRows(node, button, advanced);
    node.setSize([node.size[0], node.computeSize()[1]]);
  }
  show(false);
  const configured = node.onConfigure;
  node.onConfigure = (/** @type {object} */ data) => {
    configured?.call(node, data);
    const saved = node.size[1];
    show(!!node.showAdvanced);
    node.setSize([node.size[0], Math.max(saved, node.size[1])]);
  };
}

/**
 * Hide rows of a node that is drawn by a Nodes 2.0 without advanced widgets: it keeps the first list that it was given.
 * @param {GraphNode} node
 * @param {HTMLElement} inside any element of the node
 * @param {Widget[]} advanced
 */
function hideRows(node, inside, advanced) {
  const rows = inside.closest("[data-node-id]")?.querySelectorAll(".lg-node-widget") ?? [];
  if (rows.length !== node.widgets?.length) return;
  rows.forEach((row, place) => {
    const hidden = !node.showAdvanced && advanced.includes(/** @type {Widget[]} */ (node.widgets)[place]);
    /** @type {HTMLElement} */ (row).style.display = hidden ? "none" : "";
  });
}

app.registerExtension({
  name: "FluxDuel.Options",
  addCustomNodeDefs(defs) {
    definitions = defs;
  },
  beforeConfigureGraph(data) {
    const { converted, added } = convertGraph(data, definitions);
    if (!converted) return;
    const nodes = added === 1 ? "one option node" : `${added} option nodes`;
    app.extensionManager.toast.add({
      severity: "info",
      summary: "FluxDuel: a graph of version 0.1",
      detail: added
        ? `Training nodes have fewer widgets now. What was not at its default is on ${nodes} below them.`
        : "Training nodes have fewer widgets now. All that went was at its default.",
      life: 15_000,
    });
  },
  nodeCreated(node) {
    if (node.comfyClass?.startsWith("FluxDuel")) fold(node);
  },
});
