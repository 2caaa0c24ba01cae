// @ts-check
/** The chart's elements: lines of text, buttons, room for more buttons, and a canvas. */

import { FONT } from "./pen.js";
import { say } from "./say.js";

/** Of a message that is longer, the rest scrolls. */
const MESSAGE_HEIGHT = 75;
const BUTTON =
  "flex:none;padding:1px 7px;border-radius:4px;border:1px solid var(--border-color);background:transparent;" +
  "color:var(--input-text);cursor:pointer;font:inherit;";

/**
 * Both of the editor's renderers give the element a size only if it asks for all of it, with its minimum in CSS.
 * @param {number} minHeight
 */
export function buildView(minHeight) {
  const element = make("div", `position:relative;width:100%;height:100%;min-height:${minHeight}px;`);
  // How the first releases of Nodes 2.0 (frontend 1.32) know a widget that wants the node's spare height.
  element.className = "widget-expands";
  const column = make(
    "div",
    "position:absolute;inset:0;display:flex;flex-direction:column;box-sizing:border-box;padding:6px 2px 2px;" +
      `border-radius:6px;background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);font:${FONT};`,
  );
  const dot = make("span", "flex:none;width:8px;height:8px;border-radius:50%;");
  // In a narrow node the long line of a running stage takes two.
  const status = make("span", "flex:1;min-width:0;");
  const header = row([dot, status]);
  const best = make("span", "flex:1 1 auto;overflow-wrap:anywhere;");
  const notes = makeButton("", say("What the stage has noticed so far"));
  const logarithmic = makeButton(say("log axis"), say("Logarithmic axis for the losses"));
  const copy = makeButton(say("copy numbers"), say("Copy all numbers of this run as a table, for a spreadsheet"));
  const path = makeButton(say("copy path"), say("Copy the path of this run's folder, and show it"));
  const goOn = makeButton(
    say("go on to the end"),
    say("Queue the graph again; this run then goes on from where it was finished to its last update"),
  );
  const buttons = make("span", "flex:0 1 auto;display:flex;flex-wrap:wrap;justify-content:flex-end;gap:6px;margin-left:auto;");
  buttons.append(goOn, notes, logarithmic, copy, path);
  const tools = row([best, buttons]);
  // What does not fit beside the buttons gets a line of its own.
  tools.style.flexWrap = "wrap";
  const message = textBlock();
  const warning = textBlock();
  // The curves need the room; all of it is among the notes.
  warning.dataset.shown = "-webkit-box";
  warning.style.cssText += "-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;";
  const list = textBlock();
  // Others put their buttons here; without any it takes no room.
  const slot = make("div", "flex:none;display:flex;flex-wrap:wrap;gap:6px;padding:0 6px;");
  slot.className = "fluxduel-buttons";
  const canvasBox = make("div", "flex:1;min-height:0;position:relative;margin-top:4px;");
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%;";
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  canvasBox.append(canvas);
  column.append(header, tools, message, warning, list, slot, canvasBox);
  element.append(column);
  return { element, dot, status, best, goOn, notes, logarithmic, copy, path, message, warning, list, canvasBox, canvas };
}

/** @param {HTMLElement} element @param {string} text @param {string} [title] */
export function setText(element, text, title = text) {
  if (element.textContent === text) return;
  element.textContent = text;
  element.title = title;
}

/** @param {HTMLElement} element @param {string} text without one it takes no room */
export function setBlock(element, text) {
  setText(element, text);
  element.style.display = text ? (element.dataset.shown ?? "") : "none";
}

/** @param {HTMLButtonElement} button @param {boolean} pressed */
export function setPressed(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
  button.style.background = pressed ? "var(--input-text)" : "transparent";
  button.style.color = pressed ? "var(--comfy-input-bg)" : "var(--input-text)";
}

/** @param {string} tag @param {string} style */
function make(tag, style) {
  const element = document.createElement(tag);
  element.style.cssText = style;
  return element;
}

/** @param {HTMLElement[]} content */
function row(content) {
  const element = make("div", "display:flex;align-items:center;gap:6px;padding:0 6px 3px;flex:none;min-height:18px;line-height:15px;");
  element.append(...content);
  return element;
}

/** @param {string} text @param {string} title */
function makeButton(text, title) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.title = title;
  button.style.cssText = BUTTON;
  return button;
}

function textBlock() {
  return make(
    "div",
    `display:none;flex:none;padding:0 6px;margin-bottom:3px;max-height:${MESSAGE_HEIGHT}px;overflow:auto;` +
      "line-height:15px;white-space:pre-line;overflow-wrap:anywhere;",
  );
}
