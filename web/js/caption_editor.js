// @ts-check
/** The chosen picture of a training folder in words: its size, what is odd about it, and its caption, which is edited. */

import { RequestError, saveCaption } from "./dataset_requests.js";
import { MUTED, WARNING, button, keepPointer, keepWheel, make, show } from "./elements.js";
import { say } from "./say.js";

/** @typedef {import("./dataset_tile.js").Tile} Tile */

/** Of a side, in the graph's units. */
const PICTURE = 88;

export class CaptionEditor {
  /** @param {() => void} saved is called when a caption was written */
  constructor(saved) {
    this.saved = saved;
    /** @type {Tile | undefined} */
    this.tile = undefined;
    this.folder = "";
    this.fixed = "";
    /** @type {string | null} what the caption's file held when it was shown */
    this.seen = null;
    this.title = make("span", "flex:1;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-weight:600;");
    this.status = make("span", `flex:none;color:${MUTED};`);
    this.status.setAttribute("role", "status");
    // The sheet has next to no room left beside it, and what is described has to be seen.
    this.picture = make("img", `flex:none;width:${PICTURE}px;height:${PICTURE}px;object-fit:contain;`);
    this.picture.draggable = false;
    this.facts = make("div", `color:${MUTED};`);
    this.warnings = make("ul", `margin:0;padding-left:16px;overflow-wrap:anywhere;color:${WARNING};`);
    this.text = make(
      "textarea",
      "box-sizing:border-box;width:100%;height:52px;resize:none;font:inherit;padding:4px;border-radius:4px;" +
        "border:1px solid var(--border-color);background:var(--comfy-input-bg);color:var(--input-text);",
    );
    this.readOnly = make("div", `color:${MUTED};`);
    this.text.spellcheck = false;
    keepWheel(this.text);
    keepPointer(this.text);
    const close = button("×", say("Close (Escape)"), () => this.close());
    this.element = make(
      "div",
      "flex:none;display:flex;flex-direction:column;gap:3px;max-height:65%;overflow:auto;padding:5px 6px;" +
        "border-top:1px solid var(--border-color);",
      make("div", "display:flex;gap:6px;align-items:center;", this.title, this.status, close),
      make(
        "div",
        "display:flex;gap:6px;align-items:flex-start;",
        this.picture,
        make("div", "flex:1;min-width:0;display:flex;flex-direction:column;gap:3px;", this.facts, this.warnings, this.text, this.readOnly),
      ),
    );
    show(this.element, false);
    this.text.addEventListener("change", () => this.save());
    this.text.addEventListener("input", () => (this.status.textContent = say("Ctrl+Enter saves")));
    this.element.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {Tile} tile @param {string} folder @param {string} fixed why its captions are not edited, where that is so */
  open(tile, folder, fixed) {
    this.save();
    this.tile?.setChosen(false);
    this.tile = tile;
    this.folder = folder;
    this.fixed = fixed;
    tile.setChosen(true);
    this.seen = tile.entry.text;
    this.text.value = shownText(tile.entry.text ?? tile.entry.caption);
    this.status.textContent = "";
    show(this.element, true);
    this.refresh();
    if (tile.entry.editable) this.text.focus();
  }

  /** Show what has become known of the picture, and leave the text that is being typed alone. */
  refresh() {
    if (!this.tile) return;
    const { entry, about } = this.tile;
    this.title.textContent = this.title.title = entry.name;
    if (this.tile.url) this.picture.src = this.tile.url;
    this.picture.alt = entry.name;
    show(this.picture, this.tile.url !== "");
    this.facts.textContent = [
      about ? say("{size} pixels", { size: `${about.width} × ${about.height}` }) : "",
      entry.bucket ? say("bucket {size}", { size: entry.bucket.join(" × ") }) : "",
      entry.held_out ? say("held out") : "",
      entry.mask ? say("mask {name}", { name: entry.mask }) : "",
      entry.editable && entry.caption !== null && entry.caption !== entry.text
        ? say("trained as: {caption}", { caption: entry.caption })
        : "",
      ...(about?.remarks ?? []),
    ].filter(Boolean).join(" · ");
    this.warnings.replaceChildren(...this.tile.warnings().map((text) => make("li", "", text)));
    show(this.warnings, this.warnings.childElementCount > 0);
    this.text.readOnly = !entry.editable;
    this.text.style.background = entry.editable ? "var(--comfy-input-bg)" : "none";
    this.text.style.borderStyle = entry.editable ? "solid" : "dashed";
    this.text.style.cursor = entry.editable ? "" : "default";
    this.readOnly.textContent = say("Read only.") + ` ${this.fixed}`;
    show(this.readOnly, !entry.editable);
    this.text.placeholder = entry.editable ? say("Describe the picture. It is saved beside it as a .txt file.") : "";
    this.text.setAttribute("aria-label", say("Caption of {name}", { name: entry.name }));
    const typing = this.text.value !== shownText(this.seen);
    if (!typing && entry.text !== null && entry.text !== this.seen) {
      this.seen = entry.text;
      this.text.value = shownText(entry.text);
    }
  }

  async save() {
    const { tile, folder, seen } = this;
    const text = this.text.value;
    if (!tile?.entry.editable || text === shownText(seen)) return;
    try {
      await saveCaption(folder, tile.entry.name, text, seen);
      if (this.tile === tile) {
        this.seen = text;
        this.status.textContent = say("saved");
      }
      this.saved();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (this.tile !== tile) return;
      this.status.textContent = error.message;
      // What is there now is shown beside; saving once more writes over it.
      if (error.status === 409 && error.body.now !== undefined) {
        this.seen = error.body.now;
        this.status.textContent = say("Changed elsewhere to “{text}”. Save again to write over it.", {
          text: error.body.now ?? "",
        });
      }
    }
  }

  close() {
    this.save();
    if (this.element.contains(document.activeElement)) this.tile?.element.focus();
    this.tile?.setChosen(false);
    this.tile = undefined;
    show(this.element, false);
  }

  /** @param {KeyboardEvent} event in the sheet, while a picture is chosen */
  #key(event) {
    if (event.key === "Escape") this.close();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.save();
    else return;
    // To the editor the same keys mean to run the graph, and to leave a subgraph.
    event.preventDefault();
    event.stopPropagation();
  }
}

/** A caption as it is edited: the line break that ends most files is no part of it. @param {string | null} text */
function shownText(text) {
  return (text ?? "").replace(/\s+$/, "");
}
