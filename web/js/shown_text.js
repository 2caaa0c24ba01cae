// @ts-check
/** What a node has to say of its run, whole and to be copied: reports, where a file was saved, how to sample. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
// Registered first, so that the text comes below what they show.
import "./dataset.js";
import "./training_chart.js";
import { MUTED, TEXT_FONT, WARNING, keepPointer, keepWheel, make } from "./elements.js";
import { forwardToEditor } from "./forwarding.js";
import { executionIds, findNode } from "./node_lookup.js";
import { addRow } from "./node_rows.js";
import { say } from "./say.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */

/**
 * Height of the text, which is there before there is any: a run makes no node larger. What is longer scrolls.
 * @type {Record<string, number>}
 */
const HEIGHTS = {
  FluxDuelLoadTrainingImages: 46,
  FluxDuelEncodeRealLatents: 80,
  FluxDuelSaveLoRA: 80,
  FluxDuelApplyFluxLoRA: 46,
  FluxDuelSampleFluxLoRA: 46,
};
/** Queues that are looked through for what a node said before the page was opened. */
const REMEMBERED = 5;

class ShownText {
  /** @param {number} height */
  constructor(height) {
    this.lines = make(
      "div",
      `position:absolute;inset:0;box-sizing:border-box;overflow:auto;padding:5px 7px;border-radius:6px;font:${TEXT_FONT};` +
        "background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);" +
        "white-space:pre-wrap;overflow-wrap:anywhere;user-select:text;cursor:text;",
    );
    this.lines.setAttribute("role", "status");
    this.lines.tabIndex = 0;
    this.element = make("div", `position:relative;width:100%;height:100%;min-height:${height}px;`, this.lines);
    // How the first releases of Nodes 2.0 (frontend 1.32) know a widget that wants the node's spare height.
    this.element.className = "widget-expands";
    keepWheel(this.lines);
    keepPointer(this.lines);
    forwardToEditor(this.element);
    this.clear();
  }

  clear() {
    this.text = "";
    this.lines.replaceChildren(make("span", `color:${MUTED};`, say("This node reports here once it has run.")));
  }

  /** @param {string} text */
  set(text) {
    this.text = text;
    this.lines.replaceChildren(
      ...text.split("\n").map((line, index, all) => {
        const ended = index < all.length - 1 ? `${line}\n` : line;
        return make("span", line.startsWith("Warning") ? `color:${WARNING};` : "", ended);
      }),
    );
    this.lines.scrollTop = 0;
  }
}

/** @type {Map<GraphNode, ShownText>} */
const shown = new Map();

/** @param {GraphNode} node @param {number} height */
function addText(node, height) {
  const text = new ShownText(height);
  shown.set(node, text);
  addRow(node, "fluxduel_text", text.element, height);
  const previous = node.onRemoved;
  node.onRemoved = () => {
    previous?.call(node);
    shown.delete(node);
  };
}

/** @param {GraphNode} node @param {string} text */
function setText(node, text) {
  const own = shown.get(node);
  if (own && text !== "" && own.text !== text) own.set(text);
}

/** @param {unknown} output of a node, as the host keeps it */
function textOf(output) {
  const text = /** @type {{text?: unknown} | undefined} */ (output)?.text;
  return Array.isArray(text) ? text.join("\n") : "";
}

/** After a reload: what the nodes of this graph said last, from the host's own history. */
async function remember() {
  const silent = [...shown].filter(([, { text }]) => text === "");
  if (silent.length === 0) return;
  const answer = await api.fetchApi(`/history?max_items=${REMEMBERED}`);
  if (!answer.ok) return;
  const queues = Object.values(await answer.json()).reverse();
  const graph = app.rootGraph.id;
  for (const [node, own] of silent) {
    const ids = executionIds(app.rootGraph, node);
    for (const { prompt, outputs } of queues) {
      // Another graph has other nodes of the same numbers.
      const [, , nodes, extra] = prompt;
      if (extra?.extra_pnginfo?.workflow?.id !== graph) continue;
      const id = ids.find((each) => nodes[each]?.class_type === node.comfyClass && textOf(outputs[each]) !== "");
      if (id === undefined) continue;
      if (own.text === "") setText(node, textOf(outputs[id]));
      break;
    }
  }
}

app.registerExtension({
  name: "FluxDuel.ShownText",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = findNode(app.rootGraph, detail.node);
      if (node) setText(node, textOf(detail.output));
    });
    // What it said of another run is true no longer.
    api.addEventListener("executing", ({ detail }) => {
      const node = detail && findNode(app.rootGraph, detail);
      if (node) shown.get(node)?.clear();
    });
  },
  nodeCreated(node) {
    const height = HEIGHTS[node.comfyClass ?? ""];
    if (height) addText(node, height);
  },
  afterConfigureGraph: remember,
});
