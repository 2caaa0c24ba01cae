// @ts-check
/** A picture as large as one likes: zoomed by wheel, press, buttons and keys, moved by dragging and scrolling. */

import { button, make } from "./elements.js";
import { openLarge } from "./large_view.js";
import { say } from "./say.js";

const STEP = 1.4;
/** Screen pixels for a pixel of the picture. */
const LARGEST = 8;
/** A press that moves farther than so many pixels drags. */
const STILL = 4;

/** @param {string} title @param {string} address of the picture */
export function showPicture(title, address) {
  const picture = new ZoomedPicture(title, address);
  const link = make("a", "color:inherit;", say("new tab"));
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener";
  const tools = [
    button("−", say("smaller"), () => picture.zoom(1 / STEP)),
    button("+", say("larger"), () => picture.zoom(STEP)),
    button(say("whole"), "0", () => picture.zoom(0)),
    link,
  ];
  openLarge(title, picture.element, tools, () => picture.dispose());
}

class ZoomedPicture {
  /** @param {string} title @param {string} address */
  constructor(title, address) {
    this.scale = 1;
    this.image = make("img", "display:block;margin:auto;flex:none;cursor:zoom-in;");
    this.image.alt = title;
    this.image.draggable = false;
    this.message = make("div", "margin:auto;");
    this.element = make("div", "flex:1;min-height:0;display:flex;overflow:auto;outline:none;", this.image, this.message);
    this.element.tabIndex = 0;
    this.image.addEventListener("load", () => this.#set(this.#readable));
    this.image.addEventListener("error", () => {
      this.image.remove();
      this.message.textContent = say("This picture is no longer there: ComfyUI was restarted. Run the graph again.");
    });
    this.element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.image.addEventListener("pointerdown", (event) => this.#press(event));
    this.resized = new ResizeObserver(() => this.scale < this.#whole && this.#set(this.#whole));
    this.resized.observe(this.element);
    this.image.src = address;
  }

  dispose() {
    this.resized.disconnect();
  }

  /** The scale at which all of it is seen. */
  get #whole() {
    const { naturalWidth, naturalHeight } = this.image;
    const { clientWidth, clientHeight } = this.element;
    return naturalWidth ? Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight, LARGEST) : 0;
  }

  /** As wide as there is room, where that is not too large: what is below comes by scrolling. */
  get #readable() {
    return Math.max(this.#whole, Math.min(1, this.element.clientWidth / this.image.naturalWidth));
  }

  /** @param {number} factor 0: back to the whole picture @param {{clientX: number, clientY: number}} [at] what stays in place */
  zoom(factor, at) {
    const box = this.element.getBoundingClientRect();
    const point = at ?? { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
    const before = this.image.getBoundingClientRect();
    const across = (point.clientX - before.left) / before.width;
    const down = (point.clientY - before.top) / before.height;
    this.#set(Math.min(LARGEST, Math.max(this.#whole, this.scale * factor)));
    const after = this.image.getBoundingClientRect();
    this.element.scrollLeft += after.left + across * after.width - point.clientX;
    this.element.scrollTop += after.top + down * after.height - point.clientY;
  }

  /** @param {number} scale */
  #set(scale) {
    this.scale = scale;
    this.image.style.width = `${this.image.naturalWidth * scale}px`;
    this.image.style.height = `${this.image.naturalHeight * scale}px`;
    this.image.style.cursor = scale > this.#whole * 1.01 ? "grab" : "zoom-in";
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    // A tall sheet is read by the wheel, as a page is; with Ctrl, and where there is nothing to scroll, it zooms.
    const scrolls = this.element.scrollHeight > this.element.clientHeight || this.element.scrollWidth > this.element.clientWidth;
    if (scrolls && !event.ctrlKey) return;
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? STEP : 1 / STEP, event);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const factor = { "+": STEP, "=": STEP, "-": 1 / STEP, 0: 0 }[event.key];
    if (factor !== undefined && !event.ctrlKey && !event.metaKey) this.zoom(factor);
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.element.focus();
    const { image, element } = this;
    const start = { x: event.clientX, y: event.clientY, left: element.scrollLeft, top: element.scrollTop };
    let moved = false;
    image.setPointerCapture(event.pointerId);
    const over = new AbortController();
    const { signal } = over;
    image.addEventListener("pointermove", ({ clientX, clientY }) => {
      moved ||= Math.hypot(clientX - start.x, clientY - start.y) > STILL;
      if (!moved) return;
      element.scrollLeft = start.left + start.x - clientX;
      element.scrollTop = start.top + start.y - clientY;
    }, { signal });
    image.addEventListener("pointercancel", () => over.abort(), { signal });
    image.addEventListener("pointerup", (released) => {
      over.abort();
      if (!moved) this.zoom(this.scale > this.#whole * 1.01 ? 0 : 2 * STEP, released);
    }, { signal });
  }
}
