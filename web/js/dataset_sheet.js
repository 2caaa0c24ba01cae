// @ts-check
/** The pictures of a training folder inside the node that reads it: a grid that fills as it is scrolled. */

import { CaptionEditor } from "./caption_editor.js";
import { RequestError, ThumbnailQueue, fetchPart } from "./dataset_requests.js";
import { Tile } from "./dataset_tile.js";
import { Uploads } from "./dataset_uploads.js";
import { droppedFiles, holdsFiles, namedFiles } from "./dropped_files.js";
import { TEXT_FONT, WARNING, button, keepWheel, make, show } from "./elements.js";
import { say } from "./say.js";

/** @typedef {import("./dataset_requests.js").Choices} Choices */
/** @typedef {import("./dataset_requests.js").Part} Part */

export const MIN_HEIGHT = 220;
/** Pictures that are asked for at once, while the list is scrolled. */
const PART = 50;
/** The server takes no more. */
const MOST_IN_A_PART = 100;
const TILE_WIDTH = 104;

const queue = new ThumbnailQueue();

export class DatasetSheet {
  /** @param {{choices: () => Choices, chooseFolder: (label: string) => void}} node */
  constructor(node) {
    this.node = node;
    /** @type {Map<string, Tile>} by the picture's name, in their order */
    this.tiles = new Map();
    /** @type {Part | undefined} */
    this.part = undefined;
    /** @type {Choices | undefined} those that are shown */
    this.choices = undefined;
    this.loading = new AbortController();
    this.timer = 0;
    this.summary = make("span", "flex:1 1 120px;");
    this.summary.setAttribute("role", "status");
    const files = make("input", "display:none;");
    files.type = "file";
    files.multiple = true;
    files.addEventListener("change", () => {
      this.uploads.add(namedFiles(files.files ?? []));
      files.value = "";
    });
    const add = button(
      say("Add pictures"),
      say("Pictures, and captions (.txt) and masks of the same names"),
      () => files.click(),
    );
    const folder = button(say("New folder"), say("In ComfyUI's input folder"), () =>
      this.uploads.askForFolder(say("Name of the new folder:")),
    );
    const header = make("div", "flex:none;display:flex;flex-wrap:wrap;gap:3px 6px;align-items:center;padding:0 6px 4px;", this.summary, add, folder, files);
    this.problems = make(
      "div",
      `flex:none;max-height:70px;overflow:auto;padding:0 6px 4px;white-space:pre-line;overflow-wrap:anywhere;color:${WARNING};`,
    );
    this.uploads = new Uploads({
      target: () => ({ folder: this.node.choices().folder, own: this.part?.own ?? false }),
      chosen: (label) => {
        this.node.chooseFolder(label);
        // It is of the host's input folder, where files may be added.
        if (this.part) this.part.own = true;
      },
      done: () => this.refresh(),
    });
    this.end = make("div", "height:1px;grid-column:1/-1;");
    this.list = make(
      "div",
      `flex:1;min-height:0;overflow:auto;display:grid;grid-template-columns:repeat(auto-fill,minmax(${TILE_WIDTH}px,1fr));` +
        "grid-auto-rows:max-content;gap:2px;align-content:start;padding:0 2px;",
      this.end,
    );
    this.list.setAttribute("role", "group");
    this.list.setAttribute("aria-label", say("Training pictures"));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    this.editor = new CaptionEditor(() => this.refresh());
    const column = make(
      "div",
      "position:absolute;inset:0;display:flex;flex-direction:column;box-sizing:border-box;padding:6px 2px 2px;" +
        `border-radius:6px;background:color-mix(in srgb, var(--comfy-input-bg) 55%, transparent);color:var(--input-text);font:${TEXT_FONT};`,
      header,
      this.problems,
      this.uploads.element,
      this.list,
      this.editor.element,
    );
    this.element = make("div", `position:relative;width:100%;height:100%;min-height:${MIN_HEIGHT}px;`, column);
    // How the first releases of Nodes 2.0 (frontend 1.32) know a widget that wants the node's spare height.
    this.element.className = "widget-expands";
    // A click anywhere in it takes the focus, without which newer editors zoom by a wheel over it.
    this.element.tabIndex = -1;
    this.element.style.outline = "none";
    // What was changed by other ways shows when the pointer comes.
    this.element.addEventListener("pointerenter", () => this.#follow());
    keepWheel(this.list, this.element);
    this.#receiveDrops(column);
    this.visible = new IntersectionObserver((changes) => this.#see(changes), { root: this.list, rootMargin: "150px" });
    this.visible.observe(this.end);
  }

  /** @param {HTMLElement} column */
  #receiveDrops(column) {
    const over = (/** @type {boolean} */ on) => (column.style.outline = on ? "2px dashed var(--p-primary-color, #3d8fe0)" : "");
    for (const type of ["dragenter", "dragover"]) {
      this.element.addEventListener(type, (event) => {
        if (!holdsFiles(/** @type {DragEvent} */ (event))) return;
        // Else the editor opens the picture as a graph.
        event.preventDefault();
        event.stopPropagation();
        over(true);
      });
    }
    this.element.addEventListener("dragleave", (event) => {
      if (!this.element.contains(/** @type {Node | null} */ (event.relatedTarget))) over(false);
    });
    this.element.addEventListener("drop", async (event) => {
      over(false);
      if (!event.dataTransfer || !holdsFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      await this.receive(event.dataTransfer);
    });
  }

  /** Add what was dropped to the folder. @param {DataTransfer} transfer */
  async receive(transfer) {
    await this.uploads.add(await droppedFiles(transfer));
  }

  /** Ask anew after a moment, in which more may change. @param {number} milliseconds */
  refreshSoon(milliseconds) {
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.refresh(), milliseconds);
  }

  /** Ask the server for what is shown, and show what has changed. */
  async refresh() {
    clearTimeout(this.timer);
    this.loading.abort();
    this.loading = new AbortController();
    const { signal } = this.loading;
    const choices = this.node.choices();
    const moved = choices.folder !== this.choices?.folder;
    if (moved) {
      if (this.editor.tile) this.editor.close();
      this.list.scrollTop = 0;
    }
    this.choices = choices;
    const wanted = moved ? PART : Math.max(PART, this.tiles.size);
    try {
      /** @type {Part | undefined} */
      let whole;
      do {
        const start = whole?.entries.length ?? 0;
        const part = await fetchPart(choices, start, Math.min(MOST_IN_A_PART, wanted - start), signal);
        whole = { ...part, entries: [...(whole?.entries ?? []), ...part.entries] };
      } while (whole.entries.length < Math.min(wanted, whole.pictures));
      this.part = whole;
      if (moved) this.#removeAll();
      this.#place(whole.entries);
    } catch (error) {
      this.#failed(error);
    }
    this.#describe();
  }

  dispose() {
    clearTimeout(this.timer);
    this.loading.abort();
    this.visible.disconnect();
    this.#removeAll();
  }

  #follow() {
    const now = this.node.choices();
    const shown = this.choices;
    if (!shown || Object.entries(now).some(([name, value]) => shown[/** @type {keyof Choices} */ (name)] !== value)) {
      this.refresh();
    }
  }

  /** @param {import("./dataset_requests.js").Entry[]} entries all that are to be shown */
  #place(entries) {
    const names = new Set(entries.map(({ name }) => name));
    for (const [name, tile] of this.tiles) if (!names.has(name)) this.#remove(name, tile);
    for (const entry of entries) {
      const tile = this.tiles.get(entry.name) ?? this.#newTile(entry);
      if (!tile.update(entry)) this.visible.observe(tile.element);
      // In their order, which a new picture may change.
      this.list.insertBefore(tile.element, this.end);
    }
    this.editor.refresh();
    this.#lookAtEnd();
  }

  /** @param {import("./dataset_requests.js").Entry} entry */
  #newTile(entry) {
    const tile = new Tile(entry, () => this.editor.open(tile, this.choices?.folder ?? "", this.#fixed()));
    this.tiles.set(entry.name, tile);
    return tile;
  }

  /** Why no caption of the folder is edited here; empty where it is not the folder's doing. */
  #fixed() {
    if (this.choices?.caption_rule !== "text file") {
      return say("caption_rule makes the captions: {rule}.", { rule: this.choices?.caption_rule ?? "" });
    }
    if (!this.part?.own) return say("These pictures come with the pack. Put your own into a new folder.");
    return "";
  }

  #removeAll() {
    for (const [name, tile] of this.tiles) this.#remove(name, tile);
  }

  /** @param {string} name @param {Tile} tile */
  #remove(name, tile) {
    if (this.editor.tile === tile) this.editor.close();
    this.visible.unobserve(tile.element);
    tile.clear();
    tile.element.remove();
    this.tiles.delete(name);
  }

  /** @param {IntersectionObserverEntry[]} changes */
  #see(changes) {
    for (const { isIntersecting, target } of changes) {
      if (!isIntersecting) continue;
      if (target === this.end) {
        this.#more();
        continue;
      }
      const tile = [...this.tiles.values()].find(({ element }) => element === target);
      if (!tile) continue;
      this.visible.unobserve(target);
      this.#fetch(tile);
    }
  }

  /** @param {Tile} tile */
  async #fetch(tile) {
    const { choices, loading } = this;
    if (!choices || !tile.entry.shown) return;
    try {
      const { blob, about } = await queue.fetch(choices, tile.entry, loading.signal);
      if (!this.tiles.has(tile.entry.name)) return;
      tile.setPicture(blob, about);
    } catch (error) {
      if (loading.signal.aborted) {
        // The folder is asked for anew; whoever is still there is seen again.
        this.visible.observe(tile.element);
        return;
      }
      tile.setFailure(error instanceof Error ? error.message : String(error));
    }
    if (this.editor.tile === tile) this.editor.refresh();
  }

  /** The next pictures of the folder, when its end comes into view. */
  async #more() {
    const { part, choices, loading } = this;
    if (!part || !choices || part.entries.length >= part.pictures) return;
    try {
      const next = await fetchPart(choices, part.entries.length, PART, loading.signal);
      if (this.part !== part || next.entries.length === 0) return;
      this.part = { ...next, entries: [...part.entries, ...next.entries] };
      for (const entry of next.entries) {
        const tile = this.#newTile(entry);
        this.list.insertBefore(tile.element, this.end);
        this.visible.observe(tile.element);
      }
      this.#lookAtEnd();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** The observer tells of changes alone, and a short part may leave the end in view. */
  #lookAtEnd() {
    this.visible.unobserve(this.end);
    this.visible.observe(this.end);
  }

  /** @param {unknown} error */
  #failed(error) {
    if (error instanceof DOMException && error.name === "AbortError") return;
    if (!(error instanceof RequestError)) throw error;
    this.part = undefined;
    this.#removeAll();
    this.problems.textContent = error.message;
    show(this.problems, true);
  }

  #describe() {
    const { part } = this;
    if (!part) {
      this.summary.textContent = "";
      return;
    }
    const missing = [
      part.without_caption ? say("{count} without caption", { count: part.without_caption }) : "",
      part.without_mask ? say("{count} without mask", { count: part.without_mask }) : "",
    ];
    const trained = part.trained === part.pictures ? "" : say("{count} with repeats", { count: part.trained });
    const pictures = part.pictures === 1 ? say("1 picture") : say("{count} pictures", { count: part.pictures });
    this.summary.textContent = [pictures, trained, ...missing].filter(Boolean).join(", ");
    this.summary.title = this.summary.textContent;
    const empty = say("Drop pictures here, each with its caption in a .txt file of the same name.");
    this.problems.textContent = [...(part.pictures === 0 ? [empty] : []), ...part.problems].join("\n");
    show(this.problems, this.problems.textContent !== "");
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Escape" && this.editor.tile) {
      event.stopPropagation();
      this.editor.close();
      return;
    }
    const tiles = [...this.tiles.values()];
    const at = tiles.findIndex(({ element }) => element === document.activeElement);
    const across = getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
    const stride = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (at < 0 || stride === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    tiles[Math.min(tiles.length - 1, Math.max(0, at + stride))].element.focus();
  }
}
