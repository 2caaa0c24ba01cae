// @ts-check
/** One picture of a training folder: small, with its crop, its marks and the beginning of its caption. */

import { MUTED, make, show } from "./elements.js";
import { say } from "./say.js";

/** @typedef {import("./dataset_requests.js").Entry} Entry */
/** @typedef {import("./dataset_requests.js").About} About */

const SHOT = 96;
/** Of a picture's area: what is worth a warning when the crop takes it. */
const MUCH = 1 / 3;
const MARK = "padding:0 4px;border-radius:3px;font-size:10px;line-height:14px;white-space:nowrap;";

export class Tile {
  /** @param {Entry} entry @param {() => void} choose */
  constructor(entry, choose) {
    this.entry = entry;
    /** @type {About | undefined} */
    this.about = undefined;
    /** @type {string | undefined} why there is no thumbnail */
    this.failure = undefined;
    this.url = "";
    this.image = make("img", "display:block;width:100%;height:100%;");
    this.image.alt = "";
    this.image.draggable = false;
    this.crop = make("div", "position:absolute;box-shadow:0 0 0 999px #000a;outline:1px solid #fffc;");
    this.shot = make("div", "position:relative;overflow:hidden;", this.image, this.crop);
    const frame = make(
      "div",
      `flex:none;display:flex;align-items:center;justify-content:center;width:100%;height:${SHOT}px;` +
        "background:color-mix(in srgb, var(--fg-color) 8%, transparent);border-radius:4px;overflow:hidden;",
      this.shot,
    );
    this.marks = make("div", "display:flex;flex-wrap:wrap;gap:2px;min-height:14px;");
    this.caption = make(
      "div",
      "display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;overflow-wrap:anywhere;" +
        "font-size:11px;line-height:14px;height:28px;",
    );
    this.element = make(
      "button",
      "display:flex;flex-direction:column;gap:3px;min-width:0;padding:4px;border-radius:6px;border:1px solid transparent;" +
        "background:none;color:inherit;font:inherit;text-align:left;cursor:pointer;",
      frame,
      this.marks,
      this.caption,
    );
    this.element.type = "button";
    this.element.className = "fluxduel-tile";
    this.element.addEventListener("click", choose);
    this.#draw();
  }

  /** @param {Entry} entry @returns {boolean} whether its thumbnail is still that of this picture */
  update(entry) {
    const same = entry.version === this.entry.version && entry.mask === this.entry.mask;
    this.entry = entry;
    if (!same) this.clear();
    this.#draw();
    return same && (this.about !== undefined || this.failure !== undefined);
  }

  /** @param {Blob} blob @param {About} about */
  setPicture(blob, about) {
    this.clear();
    this.about = about;
    this.url = URL.createObjectURL(blob);
    this.image.src = this.url;
    this.#draw();
  }

  /** @param {string} why */
  setFailure(why) {
    this.clear();
    this.failure = why;
    this.#draw();
  }

  clear() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = "";
    this.image.removeAttribute("src");
    this.about = undefined;
    this.failure = undefined;
  }

  /** @param {boolean} chosen */
  setChosen(chosen) {
    this.element.style.borderColor = chosen ? "var(--p-primary-color, #3d8fe0)" : "transparent";
    this.element.setAttribute("aria-pressed", String(chosen));
  }

  /** What is odd about the picture, one sentence each. */
  warnings() {
    const found = [...this.entry.problems];
    if (this.failure !== undefined) found.push(this.failure);
    const bucket = this.entry.bucket;
    if (bucket && this.about) {
      const { width, height } = this.about;
      const [across, down] = cropShares(width, height, bucket);
      if (1 - across * down > MUCH) {
        found.push(say("The crop takes {share} % of it", { share: Math.round(100 * (1 - across * down)) }));
      };
      const scale = Math.max(bucket[0] / width, bucket[1] / height);
      if (scale > 1) found.push(say("It is enlarged {times} times, which teaches blur", { times: scale.toFixed(1) }));
    }
    return found;
  }

  #draw() {
    const { entry, about } = this;
    show(this.image, about !== undefined);
    if (about) {
      const scale = SHOT / Math.max(about.width, about.height);
      this.shot.style.width = `${Math.max(4, about.width * scale)}px`;
      this.shot.style.height = `${Math.max(4, about.height * scale)}px`;
    }
    show(this.crop, about !== undefined && entry.bucket !== null);
    if (about && entry.bucket) {
      const [across, down] = cropShares(about.width, about.height, entry.bucket);
      Object.assign(this.crop.style, {
        left: `${50 * (1 - across)}%`,
        top: `${50 * (1 - down)}%`,
        width: `${100 * across}%`,
        height: `${100 * down}%`,
      });
      show(this.crop, across < 0.995 || down < 0.995);
    }
    const warnings = this.warnings();
    const marks = [
      warnings.length > 0 ? mark(`⚠ ${warnings.length}`, warnings.join("\n"), "background:#d9a21b;color:#000;") : "",
      entry.held_out ? mark(say("held out"), say("Not trained on, to measure with"), "background:#2a6fb8;color:#fff;") : "",
      entry.bucket ? mark(entry.bucket.join("×"), say("Width and height of its bucket, in pixels"), PLAIN) : "",
      entry.mask !== null || about?.masked ? mark(say("mask"), say("The dimmed parts are not learned"), PLAIN) : "",
      entry.repeats !== 1 ? mark(`× ${entry.repeats}`, say("How often it comes, by its folder's name"), PLAIN) : "",
    ];
    this.marks.replaceChildren(...marks.filter(Boolean));
    const caption = entry.caption ?? "";
    this.caption.textContent = caption || (entry.caption === null ? say("no caption") : say("empty caption"));
    this.caption.style.fontStyle = caption ? "" : "italic";
    this.caption.style.color = caption ? "" : MUTED;
    this.element.title = [entry.name, caption].filter(Boolean).join("\n");
    const said = [entry.name, caption || say("no caption"), entry.held_out ? say("held out") : "", ...warnings];
    this.element.setAttribute("aria-label", said.filter(Boolean).join(". "));
  }
}

const PLAIN = "background:color-mix(in srgb, var(--fg-color) 15%, transparent);";

/** @param {string} text @param {string} title @param {string} style */
function mark(text, title, style) {
  const element = make("span", MARK + style, text);
  element.title = title;
  return element;
}

/**
 * The shares of width and height that are left when a picture is cropped to a bucket's aspect ratio.
 * @param {number} width @param {number} height @param {[number, number]} bucket
 */
export function cropShares(width, height, bucket) {
  const scale = Math.max(bucket[0] / width, bucket[1] / height);
  return [Math.min(1, bucket[0] / scale / width), Math.min(1, bucket[1] / scale / height)];
}
