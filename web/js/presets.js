// @ts-check
/** A menu of presets in the training nodes: it sets widgets that anybody can see, and adds the option nodes that it needs. */

import { app } from "../../../scripts/app.js";
import { OPTION_NODES } from "./convert_graph.js";
import { placeAboveShown } from "./node_rows.js";
import { GROUPS } from "./preset_values.js";
import { say } from "./say.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./preset_values.js").Preset} Preset */
/** @typedef {import("./preset_values.js").Values} Values */

/** @type {Record<string, Stage>} */
const STAGE_OF = { FluxDuelTrainDiffusionStage: "diffusion", FluxDuelTrainAdversarialStage: "adversarial" };
const USUAL = "preset ...";
const TOLD_MS = 12_000;
const GAP = 60;
/** Of Nodes 2.0: a widget's row, and title and sockets. */
const ROW = 36;
const HEAD = 90;

/** @param {GraphNode} node @param {Stage} stage */
function addMenu(node, stage) {
  const menu = document.createElement("select");
  menu.setAttribute("aria-label", say("Presets"));
  menu.style.cssText = "width:100%;height:22px;border:0;border-radius:4px;padding:0 6px;font:12px sans-serif;" +
    "background:var(--comfy-input-bg,#222);color:var(--input-text,#ddd)";
  const usual = new Option(USUAL, "");
  menu.append(usual);
  let timer = 0;
  /** @type {Preset[]} */
  const offered = [];
  for (const { title, presets } of GROUPS) {
    const group = document.createElement("optgroup");
    group.label = say(title);
    for (const preset of presets.filter((each) => each[stage])) {
      const entry = new Option(say(preset.name), String(offered.push(preset) - 1));
      entry.title = say(preset.about);
      group.append(entry);
    }
    if (group.childElementCount) menu.append(group);
  }
  menu.addEventListener("change", () => {
    const preset = offered[Number(menu.value)];
    // What a preset has set is in the widgets: which one it was says nothing once they are changed.
    menu.value = "";
    if (!preset) return;
    // Beside the choice: a message of the page's own would lie over Run.
    const [done, title] = apply(node, stage, preset);
    clearTimeout(timer);
    usual.textContent = done;
    menu.title = title;
    timer = window.setTimeout(() => (usual.textContent = USUAL), TOLD_MS);
  });
  const widget = node.addDOMWidget("fluxduel_presets", "FLUXDUEL_PRESETS", menu, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => 22,
    getMaxHeight: () => 22,
  });
  widget.serialize = false;
  placeAboveShown(node, widget);
}

/**
 * Set what a preset sets, and say in few words and in all what that was.
 * @param {GraphNode} node @param {Stage} stage @param {Preset} preset @returns {[string, string]}
 */
function apply(node, stage, preset) {
  const done = [];
  const missing = [];
  for (const [type, values] of Object.entries(preset[stage] ?? {})) {
    const target = type === node.comfyClass ? node : before(node, type) ?? addOptions(node, type);
    if (target) done.push(...set(target, values));
    else missing.push(...Object.entries(values).map(([name, value]) => `${name} ${value}`));
  }
  app.canvas.setDirty?.(true, true);
  const now = done.length ? say("Now {changes}.", { changes: done.join(", ") }) : say("All was so already.");
  const also = say("Not found in front of this node, to be set by hand: {missing}.", { missing: missing.join(", ") });
  const detail = [say(preset.about), now, missing.length ? also : ""].filter(Boolean).join(" ");
  if (missing.length) {
    const summary = say("Preset {name}", { name: say(preset.name) });
    app.extensionManager.toast.add({ severity: "warn", summary, detail, life: TOLD_MS });
  }
  const few = say("{name}: {count} changed", { name: say(preset.name), count: done.length });
  return [few, detail];
}

/** Set widgets, and say in words what has changed. @param {GraphNode} node @param {Values} values @returns {string[]} */
function set(node, values) {
  const changed = [];
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets?.find((each) => each.name === name);
    // A phrase of the user's own is the better one.
    if (!widget || widget.value === value || (name === "few_step_phrase" && widget.value)) continue;
    widget.value = value;
    widget.callback?.(value);
    changed.push(`${name} ${value}`);
  }
  return changed;
}

/** The node of a type in front of a training node: on its chain of options, or its data. @param {GraphNode} node @param {string} type */
function before(node, type) {
  const seen = new Set();
  for (const start of ["options", "real_latents"]) {
    let each = source(node, start);
    while (each && !seen.has(each)) {
      if (each.comfyClass === type) return each;
      seen.add(each);
      each = source(each, "options");
    }
  }
  return undefined;
}

/** @param {GraphNode} node @param {string} input @returns {GraphNode | null | undefined} */
function source(node, input) {
  const place = node.inputs?.findIndex(({ name }) => name === input) ?? -1;
  return place < 0 ? undefined : node.getInputNode?.(place);
}

/** Put a new option node between a training node and the options that it has. @param {GraphNode} node @param {string} type */
function addOptions(node, type) {
  if (!OPTION_NODES.includes(type) || !node.graph) return undefined;
  const added = LiteGraph.createNode(type);
  if (!added) return undefined;
  const earlier = source(node, "options");
  added.pos = freePlace(node, added);
  node.graph.add?.(added);
  const place = (/** @type {GraphNode} */ of) => of.inputs?.findIndex(({ name }) => name === "options") ?? -1;
  if (earlier) earlier.connect?.(0, added, place(added));
  added.connect?.(0, node, place(node));
  return added;
}

/** Left of a node, as far down as there is room. @param {GraphNode} node @param {GraphNode} added @returns {[number, number]} */
function freePlace(node, added) {
  const x = node.pos[0] - added.size[0] - GAP;
  const others = node.graph?.nodes ?? [];
  let y = node.pos[1];
  const covers = (/** @type {GraphNode} */ other) =>
    other.pos[0] < x + added.size[0] + GAP / 2 && x < other.pos[0] + other.size[0] + GAP / 2 &&
    other.pos[1] - GAP < y + height(added) && y - GAP < other.pos[1] + height(other);
  for (let blocking = others.find(covers); blocking; blocking = others.find(covers)) {
    y = blocking.pos[1] + height(blocking) + GAP + 10;
  }
  return [x, y];
}

/** Nodes 2.0 draws taller rows, and tells of them only once it has drawn. @param {GraphNode} node */
function height(node) {
  if (!OPTION_NODES.includes(node.comfyClass ?? "")) return node.size[1];
  const rows = (node.widgets ?? []).filter(({ options }) => !options?.advanced).length;
  return Math.max(node.size[1], ROW * rows + HEAD);
}

app.registerExtension({
  name: "FluxDuel.Presets",
  nodeCreated(node) {
    const stage = STAGE_OF[node.comfyClass ?? ""];
    if (stage) addMenu(node, stage);
  },
});
