// @ts-check
/** The previews' element: what is shown and how, a slider over the steps, and a picture for each prompt. */

import { FONT } from "./pen.js";

/** @typedef {import("./comfy").Previews} Previews */
/** @typedef {import("./comfy").PreviewStep} PreviewStep */

/** Side by side; more prompts go below. */
const MOST_BESIDE = 4;
/** A node of the usual width, in CSS pixels: what the least height is reckoned from. */
const WIDTH = 400;
const HEADER = 52;
const CAPTION = 32;
const GAP = 4;
/** Decoded pictures that are kept: going back and forth among them waits for nothing. */
const KEPT = 24;

export class PreviewView {
  /** @param {(step: PreviewStep) => string} address of a step's pictures, which lie side by side in one file */
  constructor(address) {
    this.address = address;
    /** @type {Previews | undefined} */
    this.previews = undefined;
    /** Of the step that is shown, among `previews.steps`. */
    this.place = 0;
    /** @type {number | undefined} the step that the user has chosen; undefined for the newest */
    this.wanted = undefined;
    /** @type {Map<string, HTMLImageElement>} by address, the longest unused first */
    this.loaded = new Map();
    /** @type {HTMLCanvasElement[]} one for each prompt */
    this.cells = [];
    this.minHeight = HEADER;
    const view = buildView();
    this.view = view;
    this.element = view.element;
    view.slider.addEventListener("input", () => this.#choose(Number(view.slider.value)));
    // In Nodes 2.0 a press on the slider would drag the node.
    for (const kind of ["pointerdown", "mousedown"]) {
      view.slider.addEventListener(kind, (event) => event.stopPropagation());
    }
  }

  /**
   * Show these previews. Who looks at the newest goes on to the one that is new; who looks at another stays there.
   * @param {Previews} previews with one step at least
   * @param {string} sheet address of the whole sheet
   */
  update(previews, sheet) {
    const before = this.previews;
    const same = before !== undefined && before.run === previews.run && sameRows(before, previews);
    const last = previews.steps.length - 1;
    this.previews = previews;
    if (!same) {
      this.wanted = undefined;
      this.#build();
    }
    // A run that goes on has no more than its first step for a moment.
    const { wanted } = this;
    const place = wanted === undefined ? last : previews.steps.findLastIndex(({ step }) => step <= wanted);
    const { slider, link } = this.view;
    slider.max = String(last);
    // Also with one step alone: an element that is disabled loses the keyboard's focus.
    slider.disabled = false;
    link.href = sheet;
    this.#show(Math.max(0, place));
  }

  /** @param {number} place */
  #choose(place) {
    const { steps } = /** @type {Previews} */ (this.previews);
    this.wanted = place === steps.length - 1 ? undefined : steps[place].step;
    this.#show(place);
  }

  /** The run has no previews (yet). */
  clear() {
    this.previews = undefined;
    this.cells = [];
    this.view.grid.replaceChildren();
    this.view.slider.disabled = true;
    this.view.step.textContent = "none in this run yet";
    this.view.how.textContent = "";
    this.view.link.removeAttribute("href");
  }

  #build() {
    const { grid, how } = this.view;
    const { rows } = /** @type {Previews} */ (this.previews);
    const ways = new Set(rows.map((row) => row.how));
    // What all have in common is said once.
    setText(how, ways.size === 1 ? rows[0].how : `${ways.size} ways of sampling`);
    grid.style.gridTemplateColumns = `repeat(${beside(rows.length)}, minmax(0, 1fr))`;
    this.cells = rows.map(() => document.createElement("canvas"));
    grid.replaceChildren(
      ...rows.map((row, number) => {
        const caption = make("figcaption", CAPTION_STYLE);
        const prompt = row.prompt || "(no prompt)";
        setText(caption, ways.size === 1 ? prompt : `${row.how}: ${prompt}`);
        caption.title = `${prompt}\n${row.how}`;
        const figure = make("figure", "margin:0;min-width:0;min-height:0;display:flex;flex-direction:column;");
        const canvas = this.cells[number];
        canvas.style.cssText = "flex:1;min-height:0;width:100%;object-fit:contain;border-radius:3px;";
        canvas.setAttribute("role", "img");
        figure.append(canvas, caption);
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
    const named = step.step === 0 ? "before training" : `step ${step.step}`;
    slider.setAttribute("aria-valuetext", named);
    setText(this.view.step, named);
    this.cells.forEach((cell, number) => cell.setAttribute("aria-label", `${named}: ${previews.rows[number].prompt}`));
    try {
      const picture = await this.#load(this.address(step));
      // By then the slider may be elsewhere.
      if (previews !== this.previews || place !== this.place) return;
      this.#draw(picture);
    } catch {
      // Written anew, or gone: the list that the server sends next says so.
      if (previews === this.previews && place === this.place) setText(this.view.step, `${named}, cannot be shown`);
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
    const columns = beside(count);
    const side = (WIDTH - (columns - 1) * GAP) / columns;
    const least = HEADER + Math.ceil(count / columns) * ((side * height) / width + CAPTION + GAP);
    if (Math.round(least) === this.minHeight) return;
    this.minHeight = Math.round(least);
    this.element.style.minHeight = `${this.minHeight}px`;
    this.element.dispatchEvent(new Event("fluxduel:resize"));
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
  "flex:none;height:28px;margin-top:2px;line-height:14px;overflow:hidden;display:-webkit-box;-webkit-box-orient:vertical;" +
  "-webkit-line-clamp:2;overflow-wrap:anywhere;text-align:center;";

function buildView() {
  const element = make("div", `position:relative;width:100%;height:100%;min-height:${HEADER}px;`);
  element.className = "widget-expands";
  const column = make(
    "div",
    "position:absolute;inset:0;display:flex;flex-direction:column;box-sizing:border-box;padding:6px;border-radius:6px;" +
      `background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);font:${FONT};`,
  );
  const title = make("span", "flex:none;font-weight:600;");
  title.textContent = "Previews";
  const how = make(
    "span",
    "flex:1;min-width:0;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;color:var(--descrip-text);",
  );
  const link = document.createElement("a");
  link.textContent = "sheet";
  link.title = "All steps beside each other, in a new tab. The file is in the run's folder: previews/sheet.png";
  link.target = "_blank";
  link.rel = "noopener";
  link.style.cssText = "flex:none;color:var(--input-text);";
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = "0";
  slider.max = "0";
  slider.setAttribute("aria-label", "Step of the previews");
  slider.style.cssText = "flex:1;min-width:0;margin:0;height:16px;accent-color:#3d8fe0;cursor:pointer;";
  const step = make("span", "flex:none;min-width:96px;text-align:right;");
  const grid = make("div", `flex:1;min-height:0;display:grid;gap:${GAP}px;grid-auto-rows:minmax(0, 1fr);`);
  column.append(row([title, how, link]), row([slider, step]), grid);
  element.append(column);
  return { element, how, link, slider, step, grid };
}

/** How many of `count` pictures are side by side. @param {number} count */
function beside(count) {
  return count <= MOST_BESIDE ? count : Math.ceil(count / Math.ceil(count / MOST_BESIDE));
}

/** @param {Previews} one @param {Previews} other */
function sameRows(one, other) {
  return JSON.stringify(one.rows) === JSON.stringify(other.rows);
}

/** @param {string} tag @param {string} style */
function make(tag, style) {
  const element = document.createElement(tag);
  element.style.cssText = style;
  return element;
}

/** @param {HTMLElement[]} content */
function row(content) {
  const element = make("div", "display:flex;align-items:center;gap:8px;flex:none;height:18px;padding-bottom:2px;");
  element.append(...content);
  return element;
}

/** @param {HTMLElement} element @param {string} text */
function setText(element, text) {
  element.textContent = text;
  element.title = text;
}
