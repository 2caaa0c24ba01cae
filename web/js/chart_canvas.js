// @ts-check
/** The chart's element: a line of text, a button and a canvas, redrawn at most once a frame. */

import { FONT, drawText, readTheme } from "./pen.js";
import { drawPlot } from "./plot.js";
import { RunRecord, lowerBound } from "./run_record.js";
import { spokenSummary, statusLine } from "./run_text.js";

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./panel.js").Panel} Panel */

const MIN_HEIGHT = { diffusion: 230, adversarial: 400 };
/** @type {Record<string, string>} */
const STATE_COLORS = { running: "#3d8fe0", finished: "#22a07f", stopped: "#d9a21b", failed: "#e0524a" };
/** Canvas pixels a CSS pixel. The editor's zoom tells nobody when it changes, so some are kept in reserve. */
const MIN_DENSITY = 2;
const MAX_DENSITY = 4;
/** Of what a stage noticed, this many of the latest are shown; all are in the log. */
const SHOWN_NOTES = 3;
/** Presses of an arrow key from one end of the chart to the other, about. */
const KEY_PRESSES = 100;

export class TrainingChart {
  /**
   * @param {Stage} stage
   * @param {(event: WheelEvent) => void} onWheel
   */
  constructor(stage, onWheel) {
    this.stage = stage;
    this.minHeight = MIN_HEIGHT[stage];
    this.record = new RunRecord("");
    this.logarithmic = false;
    /** @type {number | undefined} the step under the pointer, or the one chosen with the arrow keys */
    this.cursor = undefined;
    /** @type {Panel | undefined} what was drawn last */
    this.panel = undefined;
    this.frame = 0;

    const view = buildView(this.minHeight);
    this.view = view;
    this.element = view.element;
    view.element.addEventListener("wheel", onWheel, { passive: false });
    view.button.addEventListener("click", () => {
      this.logarithmic = !this.logarithmic;
      this.#schedule();
    });
    view.canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    view.canvas.addEventListener("pointerleave", () => this.#setCursor(undefined));
    view.canvas.addEventListener("blur", () => this.#setCursor(undefined));
    view.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.resizeObserver = new ResizeObserver(() => this.#schedule());
    this.resizeObserver.observe(view.canvasBox);
    // The editor's colour themes are variables in the style of the root element.
    this.themeObserver = new MutationObserver(() => this.#schedule());
    this.themeObserver.observe(document.documentElement, { attributes: true, attributeFilter: ["style", "class"] });
    this.#schedule();
  }

  /** @param {import("./comfy").StepEvent} event */
  addStep(event) {
    this.#turnTo(event.run);
    this.record.addStep(event);
    this.#schedule();
  }

  /** @param {import("./comfy").StateEvent} event */
  setState(event) {
    this.#turnTo(event.run);
    this.record.setState(event);
    this.#schedule();
  }

  /** @param {import("./comfy").History} history */
  merge(history) {
    const record = RunRecord.fromHistory(history);
    if (record.run === this.record.run) record.absorb(this.record);
    else this.cursor = undefined;
    this.record = record;
    this.#schedule();
  }

  /** The server knows no run of this node: one that seems to be running ended with an earlier server. */
  forgetRunning() {
    if (this.record.state !== "running") return;
    this.record.state = "stopped";
    this.record.message = "ComfyUI was restarted.";
    this.#schedule();
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    this.resizeObserver.disconnect();
    this.themeObserver.disconnect();
  }

  /** A new run takes the old one's place. @param {string} run */
  #turnTo(run) {
    if (run === this.record.run) return;
    this.record = new RunRecord(run);
    this.cursor = undefined;
  }

  /** @param {number} x in the canvas's own CSS pixels, whatever the zoom of the editor */
  #point(x) {
    if (this.panel) this.#setCursor(nearest(this.record.steps, this.panel.stepAt(x)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const { steps } = this.record;
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (direction === undefined || steps.length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    const stride = direction * Math.ceil(steps.length / KEY_PRESSES);
    const place = this.cursor === undefined ? steps.length - 1 : lowerBound(steps, this.cursor) + stride;
    this.#setCursor(steps[Math.min(steps.length - 1, Math.max(0, place))]);
  }

  /** @param {number | undefined} step */
  #setCursor(step) {
    if (step === this.cursor) return;
    this.cursor = step;
    this.#schedule();
  }

  #schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.#describe();
      this.#draw();
    });
  }

  #describe() {
    const { record, view } = this;
    setText(view.status, statusLine(record));
    // What a run that went well has to say is in the line above it.
    const end = record.state === "failed" || record.state === "stopped" ? [record.message] : [];
    // The latest first: there is room for a few lines, and the rest scrolls.
    const notes = record.notes.slice(-SHOWN_NOTES).reverse();
    const message = [...end, ...notes.map(([step, text]) => `Step ${step}: ${text}`)].join("\n");
    setText(view.message, message);
    view.message.style.display = message ? "" : "none";
    view.dot.style.background = STATE_COLORS[record.state] ?? "var(--descrip-text)";
    view.button.setAttribute("aria-pressed", String(this.logarithmic));
    view.button.style.background = this.logarithmic ? "var(--input-text)" : "transparent";
    view.button.style.color = this.logarithmic ? "var(--comfy-input-bg)" : "var(--input-text)";
    view.canvas.setAttribute("aria-label", spokenSummary(this.stage, record));
  }

  #draw() {
    const { canvas, canvasBox } = this.view;
    const width = canvasBox.clientWidth;
    const height = canvasBox.clientHeight;
    // A collapsed node has taken the element out of the page.
    if (width === 0 || height === 0) return;
    // The editor zooms by a CSS transform: without its factor an enlarged chart is blurred.
    const zoom = canvasBox.getBoundingClientRect().width / width;
    const density = Math.min(MAX_DENSITY, Math.max(MIN_DENSITY, window.devicePixelRatio * zoom));
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.scale(density, density);
    pen.font = FONT;
    pen.lineJoin = "round";
    const theme = readTheme(this.element);
    const { record, stage, logarithmic, cursor } = this;
    if (record.steps.length > 0) {
      this.panel = drawPlot(pen, { width, height }, theme, stage, record, { logarithmic, cursor, density });
      return;
    }
    this.panel = undefined;
    const waiting = record.state === "running";
    const note = waiting ? "Waiting for the first step" : "The losses appear here while this node trains";
    drawText(pen, note, width / 2, height / 2, theme.muted, "center");
  }
}

/**
 * Both of the editor's renderers give the element a size only if it asks for all of it, with its minimum in CSS.
 * @param {number} minHeight
 */
function buildView(minHeight) {
  const element = make("div", `position:relative;width:100%;height:100%;min-height:${minHeight}px;`);
  // How the first releases of Nodes 2.0 (frontend 1.32) know a widget that wants the node's spare height.
  element.className = "widget-expands";
  const column = make(
    "div",
    "position:absolute;inset:0;display:flex;flex-direction:column;box-sizing:border-box;padding:6px 2px 2px;" +
      `border-radius:6px;background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);font:${FONT};`,
  );
  const header = make("div", "display:flex;align-items:center;gap:6px;padding:0 6px 4px;flex:none;");
  const dot = make("span", "flex:none;width:8px;height:8px;border-radius:50%;");
  const status = make("span", "flex:1;min-width:0;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "log";
  button.title = "Logarithmic axis for the losses";
  button.style.cssText =
    "flex:none;padding:1px 8px;border-radius:4px;border:1px solid var(--border-color);cursor:pointer;font:inherit;";
  header.append(dot, status, button);
  const message = make(
    "div",
    "flex:none;padding:0 6px;margin-bottom:4px;max-height:75px;overflow:auto;line-height:15px;" +
      "white-space:pre-line;overflow-wrap:anywhere;",
  );
  const canvasBox = make("div", "flex:1;min-height:0;position:relative;");
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%;";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvasBox.append(canvas);
  column.append(header, message, canvasBox);
  element.append(column);
  return { element, dot, status, button, message, canvasBox, canvas };
}

/** @param {string} tag @param {string} style */
function make(tag, style) {
  const element = document.createElement(tag);
  element.style.cssText = style;
  return element;
}

/** @param {HTMLElement} element @param {string} text */
function setText(element, text) {
  if (element.textContent === text) return;
  element.textContent = text;
  element.title = text;
}

/** The step in `steps` nearest to `position`. @param {number[]} steps @param {number} position */
function nearest(steps, position) {
  const after = Math.min(lowerBound(steps, position), steps.length - 1);
  const before = Math.max(0, after - 1);
  return position - steps[before] < steps[after] - position ? steps[before] : steps[after];
}
