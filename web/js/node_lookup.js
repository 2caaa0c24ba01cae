// @ts-check
/** Between a node of the editor and the id under which the server runs it. */

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Graph} Graph */

/**
 * The node that the server calls `executionId`: "7" in the root graph, "2:1" for node 1 inside subgraph node 2.
 *
 * @param {Graph} rootGraph
 * @param {string | number} executionId
 * @returns {GraphNode | undefined} undefined when the open graph has no such node
 */
export function findNode(rootGraph, executionId) {
  const path = String(executionId).split(":");
  const last = /** @type {string} */ (path.pop());
  /** @type {Graph | undefined} */
  let graph = rootGraph;
  for (const part of path) {
    graph = graph?.getNodeById(part)?.subgraph;
  }
  return graph?.getNodeById(last) ?? undefined;
}

/**
 * Every id under which the server may run `node`. A node inside a subgraph has one for each place where that
 * subgraph is used; a node that is in no graph has none.
 *
 * @param {Graph} rootGraph
 * @param {GraphNode} node
 * @returns {string[]}
 */
export function executionIds(rootGraph, node) {
  /** @type {string[]} */
  const found = [];
  /** @param {Graph} graph @param {string} prefix */
  const visit = (graph, prefix) => {
    for (const candidate of graph.nodes) {
      if (candidate === node) found.push(prefix + String(candidate.id));
      if (candidate.subgraph) visit(candidate.subgraph, `${prefix}${candidate.id}:`);
    }
  };
  visit(rootGraph, "");
  return found;
}
