// @ts-check
/** A live chart of the losses inside the two training nodes. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { TrainingChart } from "./chart_canvas.js";
import { executionIds, findNode } from "./node_lookup.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").History} History */
/** @typedef {import("./comfy").Stage} Stage */

/** @type {Record<string, Stage>} */
const STAGE_OF = {
  FluxDuelTrainDiffusionStage: "diffusion",
  FluxDuelTrainAdversarialStage: "adversarial",
};
const NODE_WIDTH = 420;

/** @type {Map<GraphNode, TrainingChart>} */
const charts = new Map();

/** @param {GraphNode} node @param {Stage} stage */
function addChart(node, stage) {
  const chart = new TrainingChart(stage, forwardWheel);
  charts.set(node, chart);
  const widget = node.addDOMWidget("fluxduel_chart", "FLUXDUEL_CHART", chart.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => chart.minHeight,
  });
  widget.serialize = false;
  const needed = node.computeSize();
  node.setSize([Math.max(NODE_WIDTH, node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
  const previous = node.onRemoved;
  node.onRemoved = () => {
    previous?.call(node);
    charts.delete(node);
    chart.dispose();
  };
}

/**
 * The classic editor does not see the wheel over an HTML element: without this, zooming stops over the chart.
 * In Nodes 2.0 the event reaches the editor by itself.
 * @param {WheelEvent} event
 */
function forwardWheel(event) {
  if (app.extensionManager.setting.get("Comfy.VueNodes.Enabled")) return;
  event.preventDefault();
  event.stopPropagation();
  app.canvas.canvas.dispatchEvent(new WheelEvent(event.type, event));
}

/** @param {string} executionId */
function chartOf(executionId) {
  const node = findNode(app.rootGraph, executionId);
  return node && charts.get(node);
}

/**
 * Fetch the run that the server remembers for a node: after a reload, or to fill in what was sent too densely.
 * @param {GraphNode} node
 * @param {TrainingChart} chart
 */
async function refresh(node, chart) {
  const runBefore = chart.record.run;
  const ids = executionIds(app.rootGraph, node);
  const answers = await Promise.all(ids.map(fetchHistory));
  // A run that began in the meantime is newer than any answer.
  if (chart.record.run !== runBefore) return;
  const histories = answers.filter((answer) => answer !== undefined && answer.stage === chart.stage);
  const history = histories.find((candidate) => candidate?.state === "running") ?? histories.at(-1);
  if (history) chart.merge(history);
  else if (ids.length > 0) chart.forgetRunning();
}

/** @param {string} executionId @returns {Promise<History | undefined>} undefined when the node has not run */
async function fetchHistory(executionId) {
  const answer = await api.fetchApi(`/fluxduel/history?node=${encodeURIComponent(executionId)}`);
  return answer.status === 200 ? answer.json() : undefined;
}

function refreshAll() {
  for (const [node, chart] of charts) refresh(node, chart);
}

app.registerExtension({
  name: "FluxDuel.TrainingChart",
  setup() {
    api.addEventListener("fluxduel.step", ({ detail }) => chartOf(detail.node)?.addStep(detail));
    api.addEventListener("fluxduel.state", ({ detail }) => {
      const node = findNode(app.rootGraph, detail.node);
      const chart = node && charts.get(node);
      if (!chart) return;
      chart.setState(detail);
      // A run that goes on has a past that was never sent to this page.
      const over = detail.state !== "running";
      if (detail.earlier || (over && chart.record.hasGaps)) refresh(node, chart);
    });
    api.addEventListener("reconnected", refreshAll);
  },
  nodeCreated(node) {
    const stage = STAGE_OF[node.comfyClass ?? ""];
    if (stage) addChart(node, stage);
  },
  afterConfigureGraph: refreshAll,
});
