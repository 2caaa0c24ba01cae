// @ts-check
/** What the classic editor does not see over an HTML element: the wheel, and the buttons for its menu and for panning. */

import { app } from "../../../scripts/app.js";

const MAIN_BUTTON = 0;

/** Hand on to the editor what is meant for it. In Nodes 2.0 it gets all of it by itself. @param {HTMLElement} element */
export function forwardToEditor(element) {
  const classic = () => !app.extensionManager.setting.get("Comfy.VueNodes.Enabled");
  const hand = (/** @type {Event} */ event, /** @type {Event} */ copy) => {
    event.preventDefault();
    event.stopPropagation();
    app.canvas.canvas.dispatchEvent(copy);
  };
  element.addEventListener(
    "wheel",
    (event) => {
      if (classic()) hand(event, new WheelEvent(event.type, event));
    },
    { passive: false },
  );
  // The editor captures the pointer, and with it the rest of the press.
  element.addEventListener("pointerdown", (event) => {
    if (classic() && event.button !== MAIN_BUTTON) hand(event, new PointerEvent(event.type, event));
  });
  element.addEventListener("contextmenu", (event) => {
    if (classic()) event.preventDefault();
  });
}
