// @ts-check
/** Buttons in a training node while it trains: finish now, a checkpoint, a preview, the run's folder. */

import { api } from "../../../scripts/api.js";
import { copyText } from "./clipboard.js";
import { openNode } from "./latest_run.js";
import { phrase, say } from "./say.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./latest_run.js").Address & {stage: Stage, run: string}} Running a run that is going on */

const ACTIONS = Object.freeze([
  ["finish", phrase("finish now"), phrase("End this stage after this update. The rest of the graph takes what there is.")],
  ["checkpoint", phrase("checkpoint now"), phrase("Write a checkpoint now, to go on from or to try its LoRA")],
  ["preview", phrase("preview now"), phrase("Sample a preview now")],
  ["folder", phrase("copy path"), phrase("Copy the path of this run's folder, and show it")],
]);
/** What the server answers when an action is on its way. Once it is done, nobody is to read it any more. */
/** @type {Record<string, string>} */
const DONE_LATER = Object.freeze({
  finish: phrase("The stage ends after this update. The graph then goes on with what there is."),
  checkpoint: phrase("A checkpoint is written after this update."),
  preview: phrase("A preview is sampled after this update."),
});
/** A second press within this time ends the stage: one by mistake does not. */
const SURE_MS = 5000;
/** Updates can be faster than eyes. */
const READABLE_MS = 2000;
const TRAINING = Object.freeze({
  diffusion: phrase("The diffusion stage that is training"),
  adversarial: phrase("The adversarial stage that is training"),
});
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
    /** The latest update that was heard of, and the one after which the answer is out of date. */
    this.step = 0;
    this.answeredUntil = Infinity;
    this.answeredAt = 0;
    /** What the answer announces. */
    this.announced = "";
    this.goneTimer = 0;
    this.element = document.createElement("div");
    this.element.style.cssText = "flex:none;display:flex;flex-wrap:wrap;gap:4px;width:100%;";
    this.element.setAttribute("role", "toolbar");
    this.element.setAttribute("aria-label", say(TRAINING[stage]));
    // The editor has meanings of its own for keys, also over an element of a node.
    this.element.addEventListener("keydown", (event) => event.stopPropagation());
    /** @type {Record<string, HTMLButtonElement>} */
    this.buttons = {};
    for (const [action, text, title] of ACTIONS) {
      const button = document.createElement("button");
      button.type = "button";
      button.style.cssText = BUTTON;
      button.textContent = say(text);
      button.title = say(title);
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
    this.#answer("");
    this.step = 0;
    this.buttons.finish.disabled = false;
    if (running) this.parent.append(this.element);
    else this.element.remove();
  }

  /** @param {number} step an update that is done */
  reached(step) {
    this.step = step;
    if (step > this.answeredUntil) this.done(this.announced);
  }

  /** What was announced is there: the words that announced it go. @param {string} action */
  done(action) {
    if (action === "" || action !== this.announced) return;
    this.announced = "";
    const left = READABLE_MS - (performance.now() - this.answeredAt);
    this.goneTimer = window.setTimeout(() => this.#answer(""), Math.max(0, left));
  }

  /** @param {string} text @param {string} [announced] the action that it announces */
  #answer(text, announced = "") {
    clearTimeout(this.goneTimer);
    this.answer.textContent = text;
    this.announced = announced;
    // It is done between the update at hand and the one after it.
    this.answeredUntil = this.step + 2;
    this.answeredAt = performance.now();
  }

  /** @param {string} action */
  async #press(action) {
    const { running } = this;
    if (!running) return;
    const sure = this.sureTimer !== 0;
    this.#beSure(action === "finish" && !sure);
    if (action === "finish" && !sure) return;
    const { done, text } = await askOfRun(action, running.node, running.run);
    // The run may have ended, and another one begun, before the answer came.
    if (this.running !== running) return;
    if (action === "finish") this.buttons.finish.disabled = done;
    if (done && action in DONE_LATER) {
      this.#answer(say(DONE_LATER[action]), action);
      return;
    }
    this.#answer(text);
    if (action !== "folder" || !done) return;
    try {
      await copyText(text);
      this.#answer(say("Copied: {path}", { path: text }));
    } catch {
      // The path stays to be read and marked.
    }
  }

  /** @param {boolean} asked whether the next press of finish is the second one */
  #beSure(asked) {
    clearTimeout(this.sureTimer);
    this.sureTimer = asked ? window.setTimeout(() => this.#beSure(false), SURE_MS) : 0;
    this.buttons.finish.textContent = asked ? say("sure? finish") : say(ACTIONS[0][1]);
  }
}

/**
 * @param {string} action @param {string} node by its execution id @param {string} run
 * @returns {Promise<{done: boolean, text: string}>}
 */
export async function askOfRun(action, node, run) {
  try {
    const answer = await api.fetchApi(`/fluxduel/run/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ node, run }),
    });
    const { message, error } = await answer.json();
    return { done: answer.ok, text: message ?? error };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { done: false, text: say("ComfyUI does not answer: {why}", { why }) };
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
  if (event.state === "running") {
    buttons?.show({ node, stage, run });
    // A checkpoint is told of by a note, and so is a preview that failed.
    if (event.notes.length > 0) for (const action of ["checkpoint", "preview"]) buttons?.done(action);
  } else if (buttons?.running?.run === run) buttons.show(undefined);
}

/** @param {import("./comfy").StepEvent} event */
export function count(event) {
  const buttons = buttonsOf(event);
  if (buttons?.running?.run === event.run) buttons.reached(event.step);
}

/** @param {import("./latest_run.js").Address & {run: string}} event a preview has come */
export function previewed(event) {
  const node = openNode(event);
  const buttons = node && placed.get(node);
  if (buttons?.running?.run === event.run) buttons.done("preview");
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
