// @ts-check
/** Elements in the editor's own colours. */

export const TEXT_FONT = "12px/1.4 system-ui, sans-serif";
/**
 * What is said by the way. Not the theme's own colour for that, --descrip-text, which some themes leave hard to read.
 * @param {string} text @param {string} ground @returns {string} a colour of CSS
 */
export const mutedColor = (text, ground) => `color-mix(in srgb, ${text} 78%, ${ground})`;
export const MUTED = mutedColor("var(--input-text)", "var(--comfy-input-bg)");
/** Text that warns: gold, as dark or as light as the theme's own text. */
export const WARNING = "color-mix(in srgb, #d9a21b 55%, var(--input-text))";

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag @param {string} style @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, style, ...children) {
  const element = document.createElement(tag);
  element.style.cssText = style;
  element.append(...children);
  return element;
}

/** @param {string} text @param {string} title @param {() => void} press */
export function button(text, title, press) {
  const element = make(
    "button",
    "flex:none;padding:2px 8px;border-radius:4px;border:1px solid var(--border-color);cursor:pointer;font:inherit;" +
      "background:var(--comfy-input-bg);color:var(--input-text);",
    text,
  );
  element.type = "button";
  element.title = title;
  element.addEventListener("click", press);
  return element;
}

/** @param {HTMLElement} element @param {boolean} visible */
export function show(element, visible) {
  element.style.display = visible ? "" : "none";
}

/**
 * A list scrolls by the wheel as long as it can; the rest of the wheel's way is the editor's.
 * @param {HTMLElement} list @param {HTMLElement} owner which the focus is in while the list is used
 */
export function keepWheel(list, owner = list) {
  list.addEventListener("wheel", (event) => {
    if (event.ctrlKey || list.scrollHeight <= list.clientHeight) return;
    const end = list.scrollTop + list.clientHeight >= list.scrollHeight - 1;
    if (event.deltaY < 0 ? list.scrollTop > 0 : !end) event.stopPropagation();
  });
  // What Nodes 2.0 asks, which otherwise takes every wheel for its zoom before it arrives here. Newer ones also want the
  // focus in it.
  list.addEventListener("pointermove", () => {
    owner.dataset.captureWheel = String(list.scrollHeight > list.clientHeight);
  });
}

/** A text is selected by dragging and copied by its menu, which to the editor are its own. @param {HTMLElement} text */
export function keepPointer(text) {
  for (const type of ["pointerdown", "contextmenu"]) text.addEventListener(type, (event) => event.stopPropagation());
}
