// @ts-check
/** The pictures of the chosen folder inside Load Dataset Images. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { DatasetSheet, MIN_HEIGHT } from "./dataset_sheet.js";
import { holdsFiles } from "./dropped_files.js";
import { forwardToEditor } from "./forwarding.js";
import { findNode } from "./node_lookup.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */

const LOADER = "FluxDuelLoadTrainingImages";
/** Knows buckets, and which pictures are held out. */
const ENCODER = "FluxDuelEncodeRealLatents";
const CHOICES = Object.freeze({ folder: "", caption_rule: "text file", trigger_word: "", mask_rule: "none" });
const NODE_WIDTH = 360;
const TYPING_MS = 400;

/** @type {Map<GraphNode, DatasetSheet>} */
const sheets = new Map();

/** @param {GraphNode} node */
function addSheet(node) {
  const widget = (/** @type {string} */ name) => node.widgets?.find((each) => each.name === name);
  const sheet = new DatasetSheet({
    choices: () => {
      const found = Object.entries(CHOICES).map(([name, usual]) => [name, String(widget(name)?.value ?? usual)]);
      return Object.fromEntries(found);
    },
    chooseFolder: (label) => {
      const folder = widget("folder");
      if (!folder) return;
      const values = folder.options?.values;
      if (Array.isArray(values) && !values.includes(label)) values.push(label);
      folder.value = label;
      folder.callback?.(label);
    },
  });
  forwardToEditor(sheet.element);
  // Beside the sheet, too: else the editor opens a picture as a graph, or makes it a node of its own.
  node.onDragOver = holdsFiles;
  node.onDragDrop = async (event) => {
    if (!event.dataTransfer || !holdsFiles(event)) return false;
    await sheet.receive(event.dataTransfer);
    return true;
  };
  sheets.set(node, sheet);
  for (const name of Object.keys(CHOICES)) {
    const own = widget(name);
    if (!own) continue;
    const previous = own.callback;
    own.callback = function (...values) {
      previous?.apply(this, values);
      sheet.refreshSoon(name === "trigger_word" ? TYPING_MS : 0);
    };
  }
  const added = node.addDOMWidget("fluxduel_dataset", "FLUXDUEL_DATASET", sheet.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => MIN_HEIGHT,
  });
  added.serialize = false;
  const needed = node.computeSize();
  node.setSize([Math.max(NODE_WIDTH, node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
  const removed = node.onRemoved;
  node.onRemoved = () => {
    removed?.call(node);
    sheets.delete(node);
    sheet.dispose();
  };
  // A graph that is opened gives the widgets their values in a moment.
  sheet.refreshSoon(50);
}

function refreshAll() {
  for (const sheet of sheets.values()) sheet.refreshSoon(0);
}

app.registerExtension({
  name: "FluxDuel.Dataset",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      if (findNode(app.rootGraph, detail.node)?.comfyClass === ENCODER) refreshAll();
    });
    api.addEventListener("reconnected", refreshAll);
  },
  nodeCreated(node) {
    if (node.comfyClass === LOADER) addSheet(node);
  },
  afterConfigureGraph: refreshAll,
});
