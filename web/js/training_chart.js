// @ts-check
/** A live chart of the losses inside the two training nodes. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { TrainingChart } from "./chart_canvas.js";
import { copyText } from "./clipboard.js";
import { curveTable } from "./curve_table.js";
import { forwardToEditor } from "./forwarding.js";
import { keep, kept } from "./kept_state.js";
import { inTurn, latestRun, openNode, queryOf } from "./latest_run.js";
import { askOfRun, placeButtons } from "./run_buttons.js";
import { say } from "./say.js";

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
    /** Fetch the run that the server remembers for the node: after a reload, or to fill in what was not sent. */
    this.refresh = inTurn(() => this.#ask(), "the run so far could not be fetched.");
    forwardToEditor(this.chart.element);
    this.chart.view.copy.addEventListener("click", () => this.#copy());
    this.chart.view.path.addEventListener("click", () => this.#copyPath());
    this.chart.view.goOn.addEventListener("click", () => this.#goOn());
    for (const button of [this.chart.view.notes, this.chart.view.logarithmic]) {
      button.addEventListener("click", () => {
        const { notesShown, logarithmic } = this.chart;
        keep(node, "chart", { notesShown, logarithmic });
      });
    }
  }

  /** Whatever the chart lacks, the server remembers. */
  complete() {
    if (!this.chart.record.whole) this.refresh();
  }

  async #ask() {
    const { chart, node } = this;
    const sittingBefore = chart.record.sitting;
    /** @type {(told: History) => boolean} */
    const fits = ({ stage }) => stage === chart.stage;
    const latest = await latestRun(node, "/fluxduel/history", fits);
    if (latest) chart.merge(latest.told, latest.id, sittingBefore);
    else if (node.graph && chart.record.sitting === sittingBefore) chart.forgetRunning();
  }

  async #goOn() {
    const { node, run } = this.chart.record;
    const { done, text } = await askOfRun("go_on", node, run);
    if (done) app.queuePrompt(0);
    else complain(say("The run does not go on"), text);
  }

  async #copyPath() {
    const { node, run } = this.chart.record;
    const { done, text } = await askOfRun("folder", node, run);
    if (!done) {
      complain(say("The path is not copied"), text);
      return;
    }
    const { path } = this.chart.view;
    path.title = text;
    try {
      await copyText(text);
      showCopied(path, say("copy path"));
    } catch {
      // To be read and marked there.
      app.extensionManager.toast.add({ severity: "info", summary: say("copy path"), detail: text, life: 20_000 });
    }
  }

  async #copy() {
    const { copy } = this.chart.view;
    try {
      const answer = await api.fetchApi(`/fluxduel/history?${queryOf(this.chart.record.node)}&columns=all`);
      if (answer.status !== 200) throw new Error(say("The server does not remember this run. Its numbers are in its folder, in stats.jsonl."));
      await copyText(curveTable((await answer.json()).records));
      showCopied(copy, say("copy numbers"));
    } catch (error) {
      complain(say("The numbers are not copied"), error instanceof Error ? error.message : String(error));
    }
  }
}

/** @param {HTMLButtonElement} button @param {string} text what it says again after a while */
function showCopied(button, text) {
  button.textContent = say("copied");
  setTimeout(() => (button.textContent = text), 1500);
}

/** @param {string} summary @param {string} detail */
function complain(summary, detail) {
  app.extensionManager.toast.add({ severity: "error", summary, detail, life: 8000 });
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

/** @param {import("./latest_run.js").Address & {stage: Stage}} event */
function chartOf(event) {
  const node = openNode(event);
  const entry = node && charts.get(node);
  return entry?.chart.stage === event.stage ? entry : undefined;
}

function refreshAll() {
  for (const entry of charts.values()) {
    Object.assign(entry.chart, kept(entry.node, "chart"));
    entry.refresh();
  }
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
      const { record } = entry.chart;
      if (!record.isGoing && record.hasGaps) record.whole = false;
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
