// @ts-check
/** What a user has set on the page and no graph holds. The editor makes nodes anew to undo or to change tabs. */

import { app } from "../../../scripts/app.js";
import { executionIds } from "./node_lookup.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */

/** @type {Map<string, unknown>} */
const values = new Map();

/** @param {GraphNode} node that is in the open graph @param {string} name of what was set @param {unknown} value */
export function keep(node, name, value) {
  values.set(keyOf(node, name), value);
}

/** What was kept for this node of this graph, which may be another object by now. @param {GraphNode} node @param {string} name */
export function kept(node, name) {
  return /** @type {any} */ (values.get(keyOf(node, name)));
}

/** @param {GraphNode} node @param {string} name */
function keyOf(node, name) {
  return JSON.stringify([app.rootGraph.id, executionIds(app.rootGraph, node)[0], node.comfyClass, name]);
}
