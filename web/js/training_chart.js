// @ts-check
/** A live chart of the losses inside the two training nodes. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { TrainingChart } from "./chart_canvas.js";
import { copyText } from "./clipboard.js";
import { curveTable } from "./curve_table.js";
import { forwardToEditor } from "./forwarding.js";
import { executionIds, findNode } from "./node_lookup.js";
import { placeButtons } from "./run_buttons.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").History} History */
/** @typedef {import("./comfy").Stage} Stage */

/** @type {Record<string, Stage>} */
const STAGE_OF = {
  FluxDuelTrainDiffusionStage: "diffusion",
  FluxDuelTrainAdversarialStage: "adversarial",
};
const NODE_WIDTH = 420;

class NodeChart {
  /** @param {GraphNode} node @param {Stage} stage */
  constructor(node, stage) {
    this.node = node;
    this.chart = new TrainingChart(stage);
    this.asking = false;
    this.askAgain = false;
    forwardToEditor(this.chart.element);
    this.chart.view.copy.addEventListener("click", () => this.#copy());
  }

  /** Whatever the chart lacks, the server remembers. */
  complete() {
    if (!this.chart.record.whole) this.refresh();
  }

  /** Fetch the run that the server remembers for the node: after a reload, or to fill in what was not sent. */
  async refresh() {
    this.askAgain = this.asking;
    if (this.asking) return;
    this.asking = true;
    try {
      await this.#ask();
    } catch (error) {
      // The next message of a run that is not whole asks again, and so does a connection that is back.
      console.warn("FluxDuel: the run so far could not be fetched.", error);
    } finally {
      this.asking = false;
    }
    if (this.askAgain) await this.refresh();
  }

  async #ask() {
    const { chart } = this;
    const sittingBefore = chart.record.sitting;
    const ids = executionIds(app.rootGraph, this.node);
    const answers = await Promise.all(ids.map(async (id) => ({ id, history: await fetchHistory(id, "") })));
    // A node inside a subgraph that is used several times has several runs.
    let latest;
    for (const { id, history } of answers) {
      if (history?.stage === chart.stage && !(latest && latest.history.sitting > history.sitting)) latest = { id, history };
    }
    if (latest) chart.merge(latest.history, latest.id, sittingBefore);
    else if (ids.length > 0 && chart.record.sitting === sittingBefore) chart.forgetRunning();
  }

  async #copy() {
    const { copy } = this.chart.view;
    try {
      const history = await fetchHistory(this.chart.record.node, "&columns=all");
      if (!history) throw new Error("The server does not remember this run. Its numbers are in its folder, in stats.jsonl.");
      await copyText(curveTable(history.records));
      copy.textContent = "copied";
      setTimeout(() => (copy.textContent = "copy"), 1500);
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      app.extensionManager.toast.add({ severity: "error", summary: "The curve is not copied", detail, life: 8000 });
    }
  }
}

/** @type {Map<GraphNode, NodeChart>} */
const charts = new Map();

/** What a training node's chart shows, for other parts of the page. @param {GraphNode} node */
export function shownRecord(node) {
  return charts.get(node)?.chart.record;
}

/** @param {GraphNode} node @param {Stage} stage */
function addChart(node, stage) {
  const entry = new NodeChart(node, stage);
  const { chart } = entry;
  charts.set(node, entry);
  const widget = node.addDOMWidget("fluxduel_chart", "FLUXDUEL_CHART", chart.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => chart.minHeight,
  });
  widget.serialize = false;
  placeButtons(node, stage, chart.element);
  const needed = node.computeSize();
  node.setSize([Math.max(NODE_WIDTH, node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
  const previous = node.onRemoved;
  node.onRemoved = () => {
    previous?.call(node);
    charts.delete(node);
    chart.dispose();
  };
}

/** @param {{node: string, stage: Stage}} event */
function chartOf({ node: executionId, stage }) {
  const node = findNode(app.rootGraph, executionId);
  const entry = node && charts.get(node);
  return entry?.chart.stage === stage ? entry : undefined;
}

/** @param {string} executionId @param {string} more @returns {Promise<History | undefined>} undefined when the node has not run */
async function fetchHistory(executionId, more) {
  const answer = await api.fetchApi(`/fluxduel/history?node=${encodeURIComponent(executionId)}${more}`);
  return answer.status === 200 ? answer.json() : undefined;
}

function refreshAll() {
  for (const entry of charts.values()) entry.refresh();
}

app.registerExtension({
  name: "FluxDuel.TrainingChart",
  setup() {
    api.addEventListener("fluxduel.step", ({ detail }) => {
      const entry = chartOf(detail);
      entry?.chart.addStep(detail);
      entry?.complete();
    });
    api.addEventListener("fluxduel.state", ({ detail }) => {
      const entry = chartOf(detail);
      if (!entry) return;
      entry.chart.setState(detail);
      // At its end, what was sent too densely.
      if (detail.state !== "running" && entry.chart.record.hasGaps) entry.chart.record.whole = false;
      entry.complete();
    });
    api.addEventListener("reconnected", refreshAll);
  },
  nodeCreated(node) {
    const stage = STAGE_OF[node.comfyClass ?? ""];
    if (stage) addChart(node, stage);
  },
  afterConfigureGraph: refreshAll,
});
