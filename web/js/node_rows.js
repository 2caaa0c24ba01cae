// @ts-check
/** The order of what this pack adds to a node below its own widgets. None of it is saved, so that it may be moved. */

/** @typedef {import("./comfy").GraphNode} GraphNode */

/** Move a row that was just added above the chart, where there is one by now. @param {GraphNode} node @param {object} widget */
export function placeAboveChart(node, widget) {
  const rows = /** @type {object[]} */ (node.widgets ?? []);
  const chart = rows.findIndex((each) => /** @type {{name: string}} */ (each).name === "fluxduel_chart");
  const place = rows.indexOf(widget);
  if (chart < 0 || place < chart) return;
  rows.splice(place, 1);
  rows.splice(chart, 0, widget);
}
