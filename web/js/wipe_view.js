// @ts-check
/** The wipe's element: what stands at the left and at the right, the two pictures, and the line between them. */

import { MUTED, button, make } from "./elements.js";
import { openLarge } from "./large_view.js";
import { phrase, say } from "./say.js";
import { showPicture } from "./zoomed_picture.js";

/** @typedef {{ filename: string, subfolder: string, type: string }} Picture */
/** @typedef {{ prompt: string, columns: string[], cells: Array<Array<Picture | null>> }} Group */
/** @typedef {{ rows: string[], groups: Group[], sheet?: Picture }} Comparison */
/** @typedef {"left" | "right"} Side */
/** @typedef {{ line: number, sides: string[][] }} Choice where the line stands, and a row and a column for each side */

export const MIN_HEIGHT = 250;
const SIDES = /** @type {Side[]} */ (["left", "right"]);
const SIDE_WORDS = {
  left: { label: phrase("left"), row: phrase("LoRA at the left"), column: phrase("Column at the left") },
  right: { label: phrase("right"), row: phrase("LoRA at the right"), column: phrase("Column at the right") },
};
/** Where the line stands, in percent of the picture's width. */
const MIDDLE = 50;
const WAITING = phrase("Run the graph to wipe any two of its pictures over each other here.");
const GONE = phrase("This picture is no longer there: ComfyUI was restarted. Run the graph again.");
const MOVING = /^(Arrow|Page|Home$|End$)/;
const FONT = "12px system-ui, sans-serif";
const SELECT =
  "min-width:0;padding:2px 4px;border-radius:4px;border:1px solid var(--border-color);font:inherit;" +
  "background:var(--comfy-input-bg);color:var(--input-text);text-overflow:ellipsis;";
const CAPTION =
  "position:absolute;bottom:4px;max-width:48%;padding:1px 6px;border-radius:4px;pointer-events:none;overflow:hidden;" +
  "text-overflow:ellipsis;white-space:nowrap;background:#000a;color:#fff;box-sizing:border-box;";

export class WipeView {
  /** @param {{ addressOf: (picture: Picture) => string, chosen: (choice: Choice) => void }} node `chosen` is told what the user sets */
  constructor(node) {
    this.node = node;
    /** @type {Comparison | undefined} */
    this.comparison = undefined;
    const view = buildView();
    this.view = view;
    this.element = view.element;
    for (const side of SIDES) {
      const { row, column, image } = view.sides[side];
      for (const select of [row, column]) {
        select.addEventListener("change", () => {
          this.#showSide(side);
          node.chosen(this.#choice());
        });
      }
      image.addEventListener("load", () => this.#fit());
      image.addEventListener("error", () => this.#say(GONE));
    }
    view.slider.addEventListener("input", () => this.#move());
    view.sheet.addEventListener("click", () => this.#showSheet());
    view.enlarge.addEventListener("click", () => this.#enlarge());
    // The editor would move a node with the same keys.
    view.element.addEventListener("keydown", (event) => MOVING.test(event.key) && event.stopPropagation());
    view.stage.addEventListener("pointerdown", (event) => this.#drag(event));
    this.resizeObserver = new ResizeObserver(() => this.#fit());
    this.resizeObserver.observe(view.room);
    this.#say(WAITING);
    this.#draw();
  }

  /**
   * @param {Comparison} comparison
   * @param {Choice} [choice] what the user has set; without one, what is shown now
   */
  show(comparison, choice = this.comparison && this.#choice()) {
    this.comparison = comparison;
    this.view.sheet.disabled = !comparison.sheet;
    this.view.enlarge.disabled = false;
    const rows = comparison.rows.map((name, place) => ({ name, value: String(place) }));
    const columns = comparison.groups.flatMap((group, number) =>
      group.columns.map((name, place) => ({
        name: comparison.groups.length > 1 ? `${name} · ${group.prompt || `prompt ${number + 1}`}` : name,
        value: `${number} ${place}`,
      })),
    );
    for (const side of SIDES) {
      fill(this.view.sides[side].row, rows);
      fill(this.view.sides[side].column, columns);
      this.view.sides[side].column.value = columns[0]?.value ?? "";
    }
    this.view.sides.left.row.value = "0";
    this.view.sides.right.row.value = String(lastFull(comparison));
    // What was looked at before is what one wants to see of the new pictures, too.
    if (choice) this.#choose(choice);
    for (const side of SIDES) this.#showSide(side);
  }

  dispose() {
    this.resizeObserver.disconnect();
  }

  /** @returns {Choice} */
  #choice() {
    const { slider, sides } = this.view;
    return { line: Number(slider.value), sides: SIDES.map((side) => [sides[side].row.value, sides[side].column.value]) };
  }

  /** @param {Choice} choice what is no longer there stays as it is */
  #choose({ line, sides }) {
    this.view.slider.value = String(line);
    SIDES.forEach((side, place) => {
      const { row, column } = this.view.sides[side];
      for (const [select, value] of /** @type {const} */ ([[row, sides[place][0]], [column, sides[place][1]]])) {
        if ([...select.options].some((option) => option.value === value)) select.value = value;
      }
    });
  }

  /** @param {Side} side */
  #showSide(side) {
    if (!this.comparison) return;
    const { row, column, image, caption } = this.view.sides[side];
    const [number, place] = column.value.split(" ").map(Number);
    const group = this.comparison.groups[number];
    const picture = group?.cells[Number(row.value)]?.[place] ?? null;
    const name = this.comparison.rows[Number(row.value)] ?? "";
    caption.textContent = picture ? name : say("{name}: none here", { name });
    image.alt = `${name}, ${group?.columns[place] ?? ""}, ${group?.prompt ?? ""}`;
    row.title = name;
    column.title = column.selectedOptions[0]?.textContent ?? "";
    image.style.visibility = picture ? "visible" : "hidden";
    this.#say("");
    if (picture) image.src = this.node.addressOf(picture);
    else image.removeAttribute("src");
    this.#draw();
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    if (event.button !== 0 || !this.comparison) return;
    event.preventDefault();
    event.stopPropagation();
    const { stage, slider } = this.view;
    stage.setPointerCapture(event.pointerId);
    /** @param {PointerEvent} moved */
    const follow = (moved) => {
      // By the box as it is seen, whatever the zoom of the editor.
      const { left, width } = stage.getBoundingClientRect();
      slider.value = String((100 * (moved.clientX - left)) / width);
      this.#move();
    };
    const release = () => {
      stage.removeEventListener("pointermove", follow);
      stage.removeEventListener("pointerup", release);
      stage.removeEventListener("pointercancel", release);
    };
    stage.addEventListener("pointermove", follow);
    stage.addEventListener("pointerup", release);
    stage.addEventListener("pointercancel", release);
    follow(event);
    slider.focus({ preventScroll: true });
  }

  /** The user has moved the line. */
  #move() {
    this.#draw();
    this.node.chosen(this.#choice());
  }

  #showSheet() {
    const { sheet } = /** @type {Comparison} */ (this.comparison);
    if (sheet) showPicture(say("All pictures of the comparison"), this.node.addressOf(sheet));
  }

  /** The wipe itself, over the page, until it is closed there. */
  #enlarge() {
    const { column, element, enlarge } = this.view;
    const room = make("div", "flex:1;min-height:0;position:relative;", column);
    enlarge.style.display = "none";
    openLarge(say("Wipe between two pictures"), room, [], () => {
      enlarge.style.display = "";
      element.append(column);
    });
    this.view.slider.focus();
  }

  /** The stage as large as the room allows, in the first picture's proportions. */
  #fit() {
    const { room, stage, sides } = this.view;
    const shown = SIDES.map((side) => sides[side].image).find((image) => image.naturalWidth > 0);
    if (!shown || room.clientWidth === 0 || room.clientHeight === 0) return;
    const scale = Math.min(room.clientWidth / shown.naturalWidth, room.clientHeight / shown.naturalHeight);
    stage.style.width = `${Math.round(shown.naturalWidth * scale)}px`;
    stage.style.height = `${Math.round(shown.naturalHeight * scale)}px`;
  }

  #draw() {
    const { slider, line, sides } = this.view;
    const share = Number(slider.value);
    sides.left.image.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    sides.right.image.style.clipPath = `inset(0 0 0 ${share}%)`;
    line.style.left = `${share}%`;
    const names = SIDES.map((side) => sides[side].row.selectedOptions[0]?.textContent ?? "");
    const values = { share: Math.round(share), left: names[0], right: names[1] };
    slider.setAttribute("aria-valuetext", say("{share}% {left}, the rest {right}", values));
  }

  /** @param {string} text in English, or nothing */
  #say(text) {
    this.view.message.textContent = text && say(text);
    this.view.message.style.display = text ? "" : "none";
    this.view.stage.style.visibility = text ? "hidden" : "visible";
  }
}

/** The last row that has as many pictures as the first: real pictures may be fewer. @param {Comparison} comparison */
function lastFull({ rows, groups }) {
  const pictures = rows.map((_, row) => groups.reduce((sum, group) => sum + group.cells[row].filter(Boolean).length, 0));
  return pictures.lastIndexOf(pictures[0]);
}

/** @param {HTMLSelectElement} select @param {Array<{ name: string, value: string }>} options */
function fill(select, options) {
  select.replaceChildren(...options.map(({ name, value }) => new Option(name, value)));
}

/** Both of the editor's renderers give the element a size only if it asks for all of it, with its minimum in CSS. */
function buildView() {
  const element = make("div", `position:relative;width:100%;height:100%;min-height:${MIN_HEIGHT}px;`);
  // How the first releases of Nodes 2.0 (frontend 1.32) know a widget that wants the node's spare height.
  element.className = "widget-expands";
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", say("Wipe between two pictures"));
  const column = make(
    "div",
    "position:absolute;inset:0;display:flex;flex-direction:column;gap:4px;box-sizing:border-box;padding:6px;" +
      "border-radius:6px;background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);" +
      `color:var(--input-text);font:${FONT};`,
  );
  const choices = make(
    "div",
    "flex:none;display:grid;grid-template-columns:auto minmax(0,2fr) minmax(0,3fr);gap:4px 6px;align-items:center;",
  );
  const room = make("div", "flex:1;min-height:0;position:relative;display:flex;align-items:center;justify-content:center;");
  const stage = make(
    "div",
    "position:relative;overflow:hidden;cursor:ew-resize;touch-action:none;user-select:none;width:100%;height:100%;",
  );
  const line = make(
    "div",
    "position:absolute;top:0;bottom:0;width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 3px #000;" +
      "pointer-events:none;",
  );
  const message = make("div", "position:absolute;inset:0;display:grid;place-items:center;text-align:center;padding:0 12px;");
  message.style.color = MUTED;
  message.setAttribute("role", "status");
  const sides = { left: buildSide("left"), right: buildSide("right") };
  for (const side of SIDES) choices.append(sides[side].label, sides[side].row, sides[side].column);
  stage.append(sides.left.image, sides.right.image, line, sides.left.caption, sides.right.caption);
  room.append(stage, message);
  const slider = make("input", "flex:1;min-width:0;margin:0;accent-color:var(--input-text);");
  slider.type = "range";
  slider.min = "0";
  slider.max = "100";
  slider.step = "any";
  slider.value = String(MIDDLE);
  slider.setAttribute("aria-label", say("Line between the two pictures"));
  const sheet = button(say("whole sheet"), say("All pictures of this run on one sheet, large"), () => {});
  const enlarge = button(say("enlarge"), say("The wipe over the whole page"), () => {});
  sheet.disabled = enlarge.disabled = true;
  column.append(choices, room, make("div", "flex:none;display:flex;align-items:center;gap:6px;", slider, sheet, enlarge));
  element.append(column);
  return { element, column, room, stage, line, message, slider, sheet, enlarge, sides };
}

/** @param {Side} side */
function buildSide(side) {
  const words = SIDE_WORDS[side];
  const label = make("span", `color:${MUTED};`, say(words.label));
  const row = make("select", SELECT);
  row.setAttribute("aria-label", say(words.row));
  const column = make("select", SELECT);
  column.setAttribute("aria-label", say(words.column));
  const image = make("img", "position:absolute;inset:0;width:100%;height:100%;object-fit:contain;pointer-events:none;");
  image.draggable = false;
  const caption = make("span", `${CAPTION}${side}:4px;`);
  return { label, row, column, image, caption };
}
