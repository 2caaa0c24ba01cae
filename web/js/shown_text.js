// @ts-check
/** What a node has to say of its run, whole and to be copied: reports, where a file was saved, how to sample. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
// Registered first, so that the text comes below what they show.
import "./dataset.js";
import "./training_chart.js";
import { TEXT_FONT, keepPointer, keepWheel, make, show } from "./elements.js";
import { forwardToEditor } from "./forwarding.js";
import { executionIds, findNode } from "./node_lookup.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */

const SPEAKING = new Set([
  "FluxDuelLoadTrainingImages",
  "FluxDuelEncodeRealLatents",
  "FluxDuelTrainAdversarialStage",
  "FluxDuelSaveLoRA",
  "FluxDuelApplyFluxLoRA",
  "FluxDuelSampleFluxLoRA",
]);
const MOST_HEIGHT = 150;
/** What the classic editor leaves free above and below an element. */
const MARGINS = 20;
/** Queues that are looked through for what a node said before the page was opened. */
const REMEMBERED = 5;
const WARNING_COLOR = "#d9a21b";

class ShownText {
  constructor() {
    this.lines = make(
      "div",
      `box-sizing:border-box;max-height:${MOST_HEIGHT}px;overflow:auto;padding:5px 7px;border-radius:6px;font:${TEXT_FONT};` +
        "background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);" +
        "white-space:pre-wrap;overflow-wrap:anywhere;user-select:text;cursor:text;",
    );
    this.lines.setAttribute("role", "status");
    this.lines.tabIndex = 0;
    this.element = make("div", "width:100%;", this.lines);
    keepWheel(this.lines);
    keepPointer(this.lines);
    forwardToEditor(this.element);
    this.set("");
  }

  /** @param {string} text */
  set(text) {
    this.text = text;
    this.lines.replaceChildren(
      ...text.split("\n").map((line, index, all) => {
        const ended = index < all.length - 1 ? `${line}\n` : line;
        return make("span", line.startsWith("Warning") ? `color:${WARNING_COLOR};` : "", ended);
      }),
    );
    show(this.lines, text !== "");
  }

  /** The height that the text takes, as far as it is known. */
  get height() {
    if (this.text === "") return 0;
    return Math.min(MOST_HEIGHT, this.lines.scrollHeight || MOST_HEIGHT) + MARGINS;
  }
}

/** @type {Map<GraphNode, ShownText>} */
const shown = new Map();

/** @param {GraphNode} node */
function addText(node) {
  const text = new ShownText();
  shown.set(node, text);
  const widget = node.addDOMWidget("fluxduel_text", "FLUXDUEL_TEXT", text.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => text.height,
    getMaxHeight: () => text.height,
  });
  widget.serialize = false;
  const previous = node.onRemoved;
  node.onRemoved = () => {
    previous?.call(node);
    shown.delete(node);
  };
}

/** @param {GraphNode} node @param {string} text */
function setText(node, text) {
  const own = shown.get(node);
  if (!own || own.text === text) return;
  own.set(text);
  // Its height is known once the editor has laid it out, which takes a frame of its own.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (!shown.has(node)) return;
    const needed = node.computeSize();
    node.setSize([Math.max(node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
  }));
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
      if (node && SPEAKING.has(node.comfyClass ?? "")) setText(node, textOf(detail.output));
    });
  },
  nodeCreated(node) {
    if (SPEAKING.has(node.comfyClass ?? "")) addText(node);
  },
  afterConfigureGraph: remember,
});
