// @ts-check
/** The previews' element: what is shown and how, a slider over the steps, and a picture for each prompt. */

import { MUTED, button, make } from "./elements.js";
import { FONT } from "./pen.js";
import { say } from "./say.js";

/** @typedef {import("./comfy").Previews} Previews */
/** @typedef {import("./comfy").PreviewStep} PreviewStep */

export const MIN_HEIGHT = 150;
/** More prompts than there is room for come by scrolling. */
const PICTURE_WIDTH = 76;
const GAP = 4;
/** Decoded pictures that are kept: going back and forth among them waits for nothing. */
const KEPT = 24;

export class PreviewView {
  /**
   * @param {{
   *   address: (step: PreviewStep) => string,
   *   chosen: (run: string, step: number | undefined) => void,
   *   enlarge: () => void,
   * }} node where a step's pictures lie, side by side in one file; what is told when the user chooses a step, undefined
   *   for the newest; and what shows all of them large
   */
  constructor(node) {
    this.node = node;
    /** @type {Previews | undefined} */
    this.previews = undefined;
    /** Of the step that is shown, among `previews.steps`. */
    this.place = 0;
    /** @type {Map<string, HTMLImageElement>} by address, the longest unused first */
    this.loaded = new Map();
    /** @type {HTMLCanvasElement[]} one for each prompt */
    this.cells = [];
    const view = buildView(node.enlarge);
    this.view = view;
    this.element = view.element;
    view.slider.addEventListener("input", () => this.#choose(Number(view.slider.value)));
    view.grid.addEventListener("click", () => this.previews && node.enlarge());
    // In Nodes 2.0 a press on the slider would drag the node.
    for (const kind of ["pointerdown", "mousedown"]) {
      view.slider.addEventListener(kind, (event) => event.stopPropagation());
    }
    this.clear();
  }

  /**
   * Show these previews. Who looks at the newest goes on to the one that is new; who looks at another stays there.
   * @param {Previews} previews with one step at least
   * @param {number | undefined} wanted the step that the user has chosen; undefined for the newest
   */
  update(previews, wanted) {
    const before = this.previews;
    this.previews = previews;
    if (before?.run !== previews.run || !sameRows(before, previews)) this.#build();
    const last = previews.steps.length - 1;
    // A run that goes on has no more than its first step for a moment.
    const place = wanted === undefined ? last : previews.steps.findLastIndex(({ step }) => step <= wanted);
    const { slider, enlarge, grid } = this.view;
    slider.max = String(last);
    // Also with one step alone: an element that is disabled loses the keyboard's focus.
    slider.disabled = false;
    enlarge.disabled = false;
    grid.style.cursor = "zoom-in";
    this.#show(Math.max(0, place));
  }

  /** @param {number} place */
  #choose(place) {
    const { run, steps } = /** @type {Previews} */ (this.previews);
    this.node.chosen(run, place === steps.length - 1 ? undefined : steps[place].step);
    this.#show(place);
  }

  /** The run has no previews (yet). */
  clear() {
    const { grid, slider, enlarge, step } = this.view;
    this.previews = undefined;
    this.cells = [];
    const note = make("div", NOTE_STYLE, say("Pictures that this LoRA makes appear here, every preview_every updates"));
    grid.style.gridTemplateColumns = "";
    grid.style.cursor = "";
    grid.replaceChildren(note);
    slider.disabled = true;
    enlarge.disabled = true;
    step.textContent = say("none yet");
  }

  #build() {
    const { grid } = this.view;
    const { rows } = /** @type {Previews} */ (this.previews);
    grid.style.gridTemplateColumns = `repeat(${rows.length}, minmax(${PICTURE_WIDTH}px, 1fr))`;
    this.cells = rows.map(() => document.createElement("canvas"));
    grid.replaceChildren(
      ...rows.map(({ prompt, how }, number) => {
        const caption = make("figcaption", CAPTION_STYLE, prompt || say("(no prompt)"));
        const canvas = this.cells[number];
        canvas.style.cssText = "flex:1;min-height:0;width:100%;object-fit:contain;border-radius:3px;";
        canvas.setAttribute("role", "img");
        const figure = make("figure", "margin:0;min-width:0;min-height:0;display:flex;flex-direction:column;", canvas, caption);
        figure.title = `${prompt || say("(no prompt)")}\n${how}`;
        return figure;
      }),
    );
  }

  /** @param {number} place */
  async #show(place) {
    const previews = /** @type {Previews} */ (this.previews);
    const step = previews.steps[place];
    const { slider } = this.view;
    this.place = place;
    slider.value = String(place);
    const named = nameOf(step);
    slider.setAttribute("aria-valuetext", named);
    this.view.step.textContent = named;
    try {
      const picture = await this.#load(this.node.address(step));
      // By then the slider may be elsewhere.
      if (previews !== this.previews || place !== this.place) return;
      this.#draw(picture);
      // Not before: until then the cells show what they showed.
      this.cells.forEach((cell, number) => cell.setAttribute("aria-label", `${named}: ${previews.rows[number].prompt}`));
    } catch {
      // Written anew, or gone: the list that the server sends next says so.
      if (previews === this.previews && place === this.place) {
        this.view.step.textContent = say("{named}, cannot be shown", { named });
      }
    }
  }

  /** @param {HTMLImageElement} picture */
  #draw(picture) {
    const count = this.cells.length;
    const width = picture.naturalWidth / count;
    const height = picture.naturalHeight;
    this.cells.forEach((cell, number) => {
      cell.width = width;
      cell.height = height;
      cell.getContext("2d")?.drawImage(picture, number * width, 0, width, height, 0, 0, width, height);
    });
  }

  /** @param {string} address @returns {Promise<HTMLImageElement>} */
  async #load(address) {
    let picture = this.loaded.get(address);
    if (!picture) {
      picture = new Image();
      picture.src = address;
    }
    this.loaded.delete(address);
    this.loaded.set(address, picture);
    try {
      await picture.decode();
    } catch (error) {
      this.loaded.delete(address);
      throw error;
    }
    if (this.loaded.size > KEPT) this.loaded.delete(/** @type {string} */ (this.loaded.keys().next().value));
    return picture;
  }
}

const CAPTION_STYLE =
  "flex:none;height:15px;line-height:15px;overflow:hidden;white-space:nowrap;text-overflow:ellipsis;text-align:center;";
const NOTE_STYLE = `align-self:center;text-align:center;padding:0 12px;color:${MUTED};`;

/** @param {() => void} enlarge */
function buildView(enlarge) {
  const element = make("div", `position:relative;width:100%;height:100%;min-height:${MIN_HEIGHT}px;`);
  // How the first releases of Nodes 2.0 (frontend 1.32) know a widget that wants the node's spare height.
  element.className = "widget-expands";
  const column = make(
    "div",
    "position:absolute;inset:0;display:flex;flex-direction:column;gap:4px;box-sizing:border-box;padding:6px;border-radius:6px;" +
      `background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);font:${FONT};`,
  );
  const slider = make("input", "flex:1;min-width:0;margin:0;height:16px;accent-color:#3d8fe0;cursor:pointer;");
  slider.type = "range";
  slider.min = "0";
  slider.max = "0";
  slider.setAttribute("aria-label", say("Update of the previews"));
  const step = make("span", "flex:none;min-width:64px;text-align:right;");
  const large = button(say("enlarge"), say("All of this run's previews, large. The file is in the run's folder: previews/sheet.png"), enlarge);
  const grid = make("div", `flex:1;min-height:0;display:grid;gap:${GAP}px;grid-template-rows:minmax(0, 1fr);overflow:auto hidden;`);
  const header = make("div", "flex:none;display:flex;align-items:center;gap:6px;height:18px;", slider, step, large);
  column.append(header, grid);
  element.append(column);
  return { element, slider, step, enlarge: large, grid };
}

/** @param {PreviewStep} shown */
function nameOf({ step, delivered }) {
  if (delivered !== null) {
    const place = delivered === 0 ? say("the start") : say("update {step}", { step: delivered });
    return say("delivered: {place}", { place });
  }
  return step === 0 ? say("before training") : say("update {step}", { step });
}

/** @param {Previews} one @param {Previews} other */
function sameRows(one, other) {
  return JSON.stringify(one.rows) === JSON.stringify(other.rows);
}
