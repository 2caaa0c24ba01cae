// @ts-check
/** Buttons in a training node while it trains: finish now, a checkpoint, a preview, the run's folder. */

import { api } from "../../../scripts/api.js";
import { copyText } from "./clipboard.js";
import { openNode } from "./latest_run.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {{node: string, workflow?: string, stage: Stage, run: string}} Running a run that is going on, by the node's execution id */

const ACTIONS = Object.freeze([
  ["finish", "finish now", "End this stage after this step. The rest of the graph takes what there is."],
  ["checkpoint", "checkpoint", "Write a checkpoint now, to go on from or to try its LoRA"],
  ["preview", "preview", "Sample a preview now"],
  ["folder", "copy folder", "Copy the path of this run's folder, and show it"],
]);
/** A second press within this time ends the stage: one by mistake does not. */
const SURE_MS = 5000;
const ASK_AGAIN = "sure? finish";
const BUTTON =
  "flex:none;padding:1px 7px;border-radius:4px;border:1px solid var(--border-color);background:transparent;" +
  "color:var(--input-text);cursor:pointer;font:inherit;line-height:15px;";

class RunButtons {
  /** @param {Stage} stage @param {HTMLElement} parent the element that they are in while there is something to ask */
  constructor(stage, parent) {
    this.stage = stage;
    this.parent = parent;
    /** @type {Running | undefined} */
    this.running = undefined;
    this.sureTimer = 0;
    this.element = document.createElement("div");
    this.element.style.cssText = "flex:none;display:flex;flex-wrap:wrap;gap:4px;width:100%;";
    this.element.setAttribute("role", "toolbar");
    this.element.setAttribute("aria-label", `The ${stage} stage that is training`);
    // The editor has meanings of its own for keys, also over an element of a node.
    this.element.addEventListener("keydown", (event) => event.stopPropagation());
    /** @type {Record<string, HTMLButtonElement>} */
    this.buttons = {};
    for (const [action, text, title] of ACTIONS) {
      const button = document.createElement("button");
      button.type = "button";
      button.style.cssText = BUTTON;
      button.textContent = text;
      button.title = title;
      button.addEventListener("click", () => this.#press(action));
      this.buttons[action] = button;
    }
    this.answer = document.createElement("div");
    this.answer.style.cssText = "width:100%;line-height:15px;overflow-wrap:anywhere;user-select:text;";
    this.answer.setAttribute("role", "status");
    this.element.append(...Object.values(this.buttons), this.answer);
  }

  /** @param {Running | undefined} running without one there is nothing to ask */
  show(running) {
    if (running?.run === this.running?.run && running?.node === this.running?.node) return;
    this.running = running;
    this.#beSure(false);
    this.answer.textContent = "";
    this.buttons.finish.disabled = false;
    if (running) this.parent.append(this.element);
    else this.element.remove();
  }

  /** @param {string} action */
  async #press(action) {
    const { running } = this;
    if (!running) return;
    const sure = this.sureTimer !== 0;
    this.#beSure(action === "finish" && !sure);
    if (action === "finish" && !sure) return;
    const message = await this.#ask(action, running);
    // The run may have ended, and another one begun, before the answer came.
    if (this.running !== running) return;
    if (action === "finish") this.buttons.finish.disabled = message.done;
    this.answer.textContent = message.text;
    if (action !== "folder" || !message.done) return;
    try {
      await copyText(message.text);
      this.answer.textContent = `Copied: ${message.text}`;
    } catch {
      // The path stays to be read and marked.
      this.answer.textContent = message.text;
    }
  }

  /** @param {string} action @param {Running} running @returns {Promise<{done: boolean, text: string}>} */
  async #ask(action, { node, run }) {
    try {
      const answer = await api.fetchApi(`/fluxduel/run/${action}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ node, run }),
      });
      const { message, error } = await answer.json();
      return { done: answer.ok, text: message ?? error };
    } catch (error) {
      return { done: false, text: `ComfyUI does not answer: ${error instanceof Error ? error.message : error}` };
    }
  }

  /** @param {boolean} asked whether the next press of finish is the second one */
  #beSure(asked) {
    clearTimeout(this.sureTimer);
    this.sureTimer = asked ? window.setTimeout(() => this.#beSure(false), SURE_MS) : 0;
    this.buttons.finish.textContent = asked ? ASK_AGAIN : ACTIONS[0][1];
  }
}

/** @type {Map<GraphNode, RunButtons>} */
const placed = new Map();

/**
 * Give a training node its buttons, which are there only while it trains.
 *
 * @param {GraphNode} node
 * @param {Stage} stage
 * @param {HTMLElement} chart the chart's element, which has a place for them
 */
export function placeButtons(node, stage, chart) {
  const slot = /** @type {HTMLElement} */ (chart.querySelector(".fluxduel-buttons"));
  placed.set(node, new RunButtons(stage, slot));
  const previous = node.onRemoved;
  node.onRemoved = () => {
    previous?.call(node);
    placed.delete(node);
  };
}

/** @param {import("./comfy").StateEvent} event of any node: its run began, said something, or ended */
export function follow(event) {
  const buttons = buttonsOf(event);
  const { node, stage, run } = event;
  if (event.state === "running") buttons?.show({ node, stage, run });
  else if (buttons?.running?.run === run) buttons.show(undefined);
}

/** Ask the server what is going on: after a reload, in another graph, or once the connection is back. */
export async function lookAgain() {
  if (placed.size === 0) return;
  const answer = await api.fetchApi("/fluxduel/runs");
  if (!answer.ok) return;
  /** @type {Running[]} */
  const runs = (await answer.json()).runs;
  const found = new Map(runs.map((running) => [buttonsOf(running), running]));
  for (const buttons of placed.values()) buttons.show(found.get(buttons));
}

/** @param {Running} running */
function buttonsOf(running) {
  const node = openNode(running);
  const buttons = node && placed.get(node);
  return buttons?.stage === running.stage ? buttons : undefined;
}
