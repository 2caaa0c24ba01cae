// @ts-check
/** The chart of one training node, redrawn at most once a frame. */

import { buildView, setBlock, setPressed, setText } from "./chart_view.js";
import { FONT, drawText, readTheme } from "./pen.js";
import { drawPlot } from "./plot.js";
import { RunRecord, lowerBound } from "./run_record.js";
import { bestLine, canGoOn, endLine, noteText, spokenSummary, statusLine } from "./run_text.js";
import { say } from "./say.js";

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./panel.js").Panel} Panel */

const MIN_HEIGHT = { diffusion: 230, adversarial: 380 };
/** @type {Record<string, string>} */
const STATE_COLORS = { running: "#3d8fe0", cancelling: "#d9a21b", finished: "#22a07f", stopped: "#d9a21b", failed: "#e0524a" };
/** Canvas pixels a CSS pixel. The editor's zoom tells nobody when it changes, so some are kept in reserve. */
const MIN_DENSITY = 2;
const MAX_DENSITY = 4;
/** Presses of an arrow key from one end of the chart to the other, about. */
const KEY_PRESSES = 100;

export class TrainingChart {
  /** @param {Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.minHeight = MIN_HEIGHT[stage];
    this.record = new RunRecord("", 0);
    this.logarithmic = false;
    this.notesShown = false;
    /** @type {number | undefined} the step under the pointer, or the one chosen with the arrow keys */
    this.cursor = undefined;
    /** @type {Panel | undefined} what was drawn last */
    this.panel = undefined;
    this.frame = 0;
    this.told = "";

    const view = buildView(this.minHeight);
    this.view = view;
    this.element = view.element;
    view.logarithmic.addEventListener("click", () => {
      this.logarithmic = !this.logarithmic;
      this.#schedule();
    });
    view.notes.addEventListener("click", () => {
      this.notesShown = !this.notesShown;
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
    // A page that first hears of a run by one of its steps has missed its beginning.
    if (this.#turnTo(event)) this.record.whole = false;
    this.record.addStep(event);
    this.#changed();
  }

  /** @param {import("./comfy").StateEvent} event */
  setState(event) {
    this.#turnTo(event);
    this.record.setState(event);
    this.#changed();
  }

  /**
   * @param {import("./comfy").History} history
   * @param {string} node under whose id it was asked for
   * @param {number} sittingBefore the sitting that was shown when it was asked for
   */
  merge(history, node, sittingBefore) {
    const record = RunRecord.fromHistory(history);
    record.node = node;
    if (record.sitting === this.record.sitting) record.absorb(this.record);
    // A run that began in the meantime is newer than the answer.
    else if (this.record.sitting !== sittingBefore && record.sitting < this.record.sitting) return;
    else this.cursor = undefined;
    this.record = record;
    this.#changed();
  }

  /** The server knows no run of this node: one that seems to be running ended with an earlier server. */
  forgetRunning() {
    if (!this.record.isGoing) return;
    this.record.state = "stopped";
    this.record.message = say("ComfyUI was restarted.");
    this.record.whole = true;
    this.#changed();
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    this.resizeObserver.disconnect();
    this.themeObserver.disconnect();
  }

  /**
   * A new run takes the old one's place.
   * @param {{node: string, run: string, sitting: number}} event
   * @returns {boolean} whether it is one
   */
  #turnTo({ node, run, sitting }) {
    if (sitting === this.record.sitting) return false;
    this.record = new RunRecord(run, sitting);
    this.record.node = String(node);
    this.cursor = undefined;
    return true;
  }

  #changed() {
    const { node, run, state } = this.record;
    const told = JSON.stringify([node, run, state]);
    if (told !== this.told) {
      this.told = told;
      this.element.dispatchEvent(new CustomEvent("fluxduel:run", { detail: { node, run, state } }));
    }
    this.#schedule();
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
    setText(view.best, bestLine(record));
    setBlock(view.message, endLine(record));
    view.goOn.style.display = canGoOn(record) ? "" : "none";
    const warnings = record.notes.filter(([, , warning]) => warning);
    const latest = warnings.at(-1);
    const more = warnings.length > 1 ? ` ${say("({count} more)", { count: warnings.length - 1 })}` : "";
    setBlock(view.warning, latest && !this.notesShown ? `⚠ ${noteText(latest)}${more}` : "");
    // The latest first: there is room for a few lines, and the rest scrolls.
    const lines = record.notes.map((note) => `${note[2] ? "⚠ " : ""}${noteText(note)}`).reverse();
    setBlock(view.list, this.notesShown ? lines.join("\n") : "");
    setText(view.notes, say("notes {count}", { count: record.notes.length }), view.notes.title);
    view.notes.style.display = record.notes.length > 0 ? "" : "none";
    // Of a run that is going on it is among the buttons that ask something of it.
    view.path.style.display = record.run !== "" && !record.isGoing ? "" : "none";
    for (const button of [view.copy, view.logarithmic]) button.style.display = record.steps.length > 0 ? "" : "none";
    view.dot.style.background = STATE_COLORS[record.state] ?? "var(--descrip-text)";
    setPressed(view.logarithmic, this.logarithmic);
    setPressed(view.notes, this.notesShown);
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
    const note = record.isGoing ? say("Waiting for the first update") : say("The losses appear here while this node trains");
    drawText(pen, note, width / 2, height / 2, theme.muted, "center");
  }
}

/** The step in `steps` nearest to `position`. @param {number[]} steps @param {number} position */
function nearest(steps, position) {
  const after = Math.min(lowerBound(steps, position), steps.length - 1);
  const before = Math.max(0, after - 1);
  return position - steps[before] < steps[after] - position ? steps[before] : steps[after];
}
