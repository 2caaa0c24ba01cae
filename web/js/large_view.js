// @ts-check
/** Something of a node over the whole page, until Escape, its button or a press beside it. */

import { button, make } from "./elements.js";
import { say } from "./say.js";

const FRAME =
  "box-sizing:border-box;width:97vw;height:97vh;max-width:none;max-height:none;margin:auto;padding:0;overflow:hidden;" +
  "border:1px solid var(--border-color);border-radius:8px;background:var(--comfy-menu-bg);color:var(--input-text);" +
  "box-shadow:0 0 0 100vmax #000a;font:13px system-ui, sans-serif;pointer-events:auto;";
/** What the editor, below, takes for its own. */
const OWN_EVENTS = ["pointerdown", "mousedown", "wheel", "keydown", "keyup", "contextmenu", "dblclick", "copy", "paste"];

/**
 * @param {string} title
 * @param {HTMLElement} content which takes all the room
 * @param {HTMLElement[]} tools beside the title
 * @param {() => void} [closed] called once it is closed
 */
export function openLarge(title, content, tools, closed) {
  const dialog = make("dialog", FRAME);
  dialog.setAttribute("aria-label", title);
  const close = button(say("close"), "Escape", () => dialog.close());
  const bar = make("div", "flex:none;display:flex;align-items:center;gap:8px;", make("b", "flex:1;", title), ...tools, close);
  dialog.append(
    make("div", "display:flex;flex-direction:column;gap:8px;box-sizing:border-box;height:100%;padding:10px;", bar, content),
  );
  for (const type of OWN_EVENTS) dialog.addEventListener(type, (event) => event.stopPropagation());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    closed?.();
  });
  // Inside a node Nodes 2.0 would take the wheel for its zoom.
  document.body.append(dialog);
  dialog.showModal();
  content.focus();
}
