// @ts-check
/** What this pack adds to a node below its own widgets. None of it is saved, so that it may be moved. */

/** @typedef {import("./comfy").GraphNode} GraphNode */

const SHOWING = new Set(["fluxduel_chart", "fluxduel_previews", "fluxduel_wipe", "fluxduel_dataset", "fluxduel_text"]);
/** What the classic editor leaves free above and below an element. */
const MARGINS = 20;

/**
 * Add an element to a node, and the room that it needs: what it shows later scrolls, and makes the node no larger.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {HTMLElement} element with its least height in its own style too, for Nodes 2.0
 * @param {number} height its least, in the graph's units
 * @param {number} [width] the node's least
 */
export function addRow(node, name, element, height, width = 0) {
  const widget = node.addDOMWidget(name, name.toUpperCase(), element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height + MARGINS,
  });
  widget.serialize = false;
  const needed = node.computeSize();
  node.setSize([Math.max(width, node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
}

/** Move a row of settings that was just added above those that only show. @param {GraphNode} node @param {object} widget */
export function placeAboveShown(node, widget) {
  const rows = /** @type {Array<{name: string}>} */ (node.widgets ?? []);
  const shown = rows.findIndex(({ name }) => SHOWING.has(name));
  const place = rows.indexOf(/** @type {{name: string}} */ (widget));
  if (shown < 0 || place < shown) return;
  rows.splice(shown, 0, ...rows.splice(place, 1));
}
