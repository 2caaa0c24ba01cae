// @ts-check
/** Graphs saved with version 0.1, whose training nodes had a widget for every option, made into those of today. */

import { SAVED_DEFAULTS, SAVED_ORDER } from "./saved_order.js";

/** @typedef {import("./saved_graph").NodeDef} NodeDef */
/** @typedef {import("./saved_graph").SavedGraph} SavedGraph */
/** @typedef {import("./saved_graph").SavedNode} SavedNode */
/** @typedef {import("./saved_graph").SavedSlot} SavedSlot */

/** In the order in which a chain of them stands before a training node. */
export const OPTION_NODES = Object.freeze([
  "FluxDuelOptimiserOptions",
  "FluxDuelNoiseOptions",
  "FluxDuelAdversarialOptions",
  "FluxDuelJudgedSampleOptions",
  "FluxDuelWatchOptions",
  "FluxDuelPreviewOptions",
  "FluxDuelMemoryOptions",
  "FluxDuelSavingOptions",
]);
const OPTIONS = Object.freeze({ name: "options", type: "FLUXDUEL_OPTIONS" });
const WIDGET_TYPES = Object.freeze(["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"]);
const GAP = 40;
const TITLE = 30;
const SLOT = 24;
/** The height of a training node without the widgets that it had. */
const STAGE_HEIGHT = 640;

/**
 * Convert the training nodes of version 0.1 in a saved graph, in place. Options that are not at their default go to
 * option nodes, one for each theme, in the room below the training node that its widgets took.
 * @param {SavedGraph} data as the editor saves it, subgraphs included
 * @param {Record<string, NodeDef>} defs the host's description of its nodes, by type
 * @returns {{converted: number, added: number}} training nodes converted, and option nodes added
 */
export function convertGraph(data, defs) {
  const graphs = [data, ...(data.definitions?.subgraphs ?? [])];
  const ids = new Ids(graphs);
  let converted = 0;
  let added = 0;
  for (const graph of graphs) {
    for (const node of [...(graph.nodes ?? [])]) {
      if (!isOld(node, defs)) continue;
      added += convertNode(graph, node, defs, ids);
      converted++;
    }
  }
  if (converted) ids.write(graphs);
  return { converted, added };
}

/** @param {SavedNode} node @param {Record<string, NodeDef>} defs */
function isOld(node, defs) {
  const def = defs[node.type];
  if (!(node.type in SAVED_ORDER) || !def || !Array.isArray(node.widgets_values)) return false;
  return node.widgets_values.length > widgetsOf(def).length;
}

/** @param {SavedGraph} graph @param {SavedNode} node @param {Record<string, NodeDef>} defs @param {Ids} ids */
function convertNode(graph, node, defs, ids) {
  const saved = /** @type {unknown[]} */ (node.widgets_values);
  /** @type {Map<string, unknown>} */
  const values = new Map(SAVED_ORDER[node.type].slice(0, saved.length).map((name, i) => [name, saved[i]]));
  const linked = new Map((node.inputs ?? []).filter(({ link }) => link != null).map((slot) => [slot.name, slot.link]));
  const [x, y] = position(node.pos);
  let top = y + STAGE_HEIGHT + GAP + TITLE;
  /** @type {SavedNode | undefined} */
  let last;
  let added = 0;
  for (const type of OPTION_NODES) {
    const def = defs[type];
    if (!def) continue;
    const widgets = widgetsOf(def);
    const own = widgets.filter(([name]) => values.has(name));
    if (own.every(([name, value]) => isDefault(name, values.get(name), value) && !linked.has(name))) continue;
    /** @type {SavedNode} */
    const options = {
      id: ids.node(),
      type,
      pos: [x, top],
      size: [position(node.size)[0], TITLE + SLOT * (widgets.length + 2)],
      flags: {},
      order: 0,
      mode: 0,
      inputs: slotsOf(def),
      outputs: [{ ...OPTIONS, links: [] }],
      properties: { ...node.properties, "Node name for S&R": type },
      widgets_values: widgets.map(([name, value]) => (values.has(name) ? values.get(name) : value)),
    };
    moveLinks(graph, options, linked);
    graph.nodes.push(options);
    if (last) connect(graph, last, options, ids);
    last = options;
    top += position(options.size)[1] + GAP + TITLE;
    added++;
  }
  const def = defs[node.type];
  node.inputs = slotsOf(def);
  moveLinks(graph, node, linked);
  node.widgets_values = widgetsOf(def).map(([name, value]) => (values.has(name) ? values.get(name) : value));
  delete node.widgets_values_named;
  node.size = [position(node.size)[0], STAGE_HEIGHT];
  if (last) connect(graph, last, node, ids);
  return added;
}

/** @param {string} name @param {unknown} saved @param {unknown} now the default of this version */
function isDefault(name, saved, now) {
  return saved === now || saved === SAVED_DEFAULTS[name];
}

/** Name and default of each widget, in the order in which its values are saved. @param {NodeDef} def @returns {[string, unknown][]} */
function widgetsOf(def) {
  return declared(def)
    .filter(([, spec]) => isWidget(spec))
    .map(([name, [kind, options]]) => [name, options?.default ?? (Array.isArray(kind) ? kind[0] : options?.options?.[0])]);
}

/** @param {NodeDef} def @returns {SavedSlot[]} */
function slotsOf(def) {
  return declared(def).map(([name, spec]) => {
    const type = Array.isArray(spec[0]) ? "COMBO" : spec[0];
    return isWidget(spec) ? { name, type, widget: { name }, link: null } : { name, type, link: null };
  });
}

/** @param {NodeDef} def */
function declared(def) {
  return [...Object.entries(def.input.required ?? {}), ...Object.entries(def.input.optional ?? {})];
}

/** @param {import("./saved_graph").InputSpec} spec */
function isWidget([kind, options]) {
  return (Array.isArray(kind) || WIDGET_TYPES.includes(kind)) && !options?.forceInput;
}

/** Give each link that ended at a slot of one of these names to this node's. @param {SavedGraph} graph @param {SavedNode} node @param {Map<string, unknown>} linked */
function moveLinks(graph, node, linked) {
  node.inputs?.forEach((slot, place) => {
    const id = linked.get(slot.name);
    const link = graph.links?.find((each) => (Array.isArray(each) ? each[0] : each.id) === id);
    if (id == null || !link) return;
    slot.link = /** @type {number} */ (id);
    if (Array.isArray(link)) [link[3], link[4]] = [node.id, place];
    else [link.target_id, link.target_slot] = [node.id, place];
  });
}

/** @param {SavedGraph} graph @param {SavedNode} source an option node @param {SavedNode} target @param {Ids} ids */
function connect(graph, source, target, ids) {
  const id = ids.link();
  const place = (target.inputs ?? []).findIndex(({ name }) => name === OPTIONS.name);
  /** @type {SavedSlot[]} */ (target.inputs)[place].link = id;
  source.outputs?.[0].links?.push(id);
  graph.links ??= [];
  // The editor writes links of a subgraph as objects, others as lists.
  const asObjects = graph.links.length ? !Array.isArray(graph.links[0]) : graph.last_link_id === undefined;
  graph.links.push(
    asObjects
      ? { id, origin_id: source.id, origin_slot: 0, target_id: target.id, target_slot: place, type: OPTIONS.type }
      : [id, source.id, 0, target.id, place, OPTIONS.type],
  );
}

/** Older graphs hold a pair as an object with the keys 0 and 1. @param {SavedNode["pos"]} pair @returns {[number, number]} */
function position(pair) {
  const [x, y] = [0, 1].map((place) => Number(/** @type {Record<number, number>} */ (pair ?? [0, 0])[place]));
  return [x, y];
}

/** Ids that no node and no link of any of the graphs has. */
class Ids {
  /** @param {SavedGraph[]} graphs */
  constructor(graphs) {
    const largest = (/** @type {unknown[]} */ ids) => Math.max(0, ...ids.map(Number).filter(Number.isFinite));
    this.lastNode = largest(graphs.flatMap((graph) => [
      ...(graph.nodes ?? []).map(({ id }) => id), graph.last_node_id ?? 0, graph.state?.lastNodeId ?? 0,
    ]));
    this.lastLink = largest(graphs.flatMap((graph) => [
      ...(graph.links ?? []).map((link) => (Array.isArray(link) ? link[0] : link.id)),
      graph.last_link_id ?? 0, graph.state?.lastLinkId ?? 0,
    ]));
  }

  node() {
    return ++this.lastNode;
  }

  link() {
    return ++this.lastLink;
  }

  /** @param {SavedGraph[]} graphs */
  write(graphs) {
    for (const graph of graphs) {
      if (graph.last_node_id !== undefined) graph.last_node_id = this.lastNode;
      if (graph.last_link_id !== undefined) graph.last_link_id = this.lastLink;
      if (graph.state) Object.assign(graph.state, { lastNodeId: this.lastNode, lastLinkId: this.lastLink });
    }
  }
}
