// @ts-check
/** Adding pictures, captions and masks to a training folder: a line that says how it goes, and what is asked. */

import { RequestError, makeFolder, upload } from "./dataset_requests.js";
import { button, make, show } from "./elements.js";
import { say } from "./say.js";

/** @typedef {import("./dropped_files.js").NamedFile} NamedFile */

const AT_ONCE = 3;
const SHOWN_FAULTS = 5;

export class Uploads {
  /** @param {{target: () => {folder: string, own: boolean}, chosen: (label: string) => void, done: () => void}} host */
  constructor(host) {
    this.host = host;
    /** @type {NamedFile[]} files that wait for a folder, or for a word about replacing */
    this.waiting = [];
    this.text = make("span", "flex:1;min-width:0;overflow-wrap:anywhere;white-space:pre-line;");
    this.text.setAttribute("role", "status");
    this.name = make(
      "input",
      "flex:1;min-width:60px;font:inherit;padding:2px 6px;border-radius:4px;border:1px solid var(--border-color);" +
        "background:var(--comfy-input-bg);color:var(--input-text);",
    );
    this.name.type = "text";
    this.name.setAttribute("aria-label", say("Name of the new folder"));
    this.name.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.#makeFolder();
      if (event.key === "Escape") this.#rest("");
    });
    this.makeButton = button(say("Make"), say("Make this folder in ComfyUI's input folder"), () => this.#makeFolder());
    this.replaceButton = button(say("Replace"), say("Write over the files that are there"), () => this.#replace());
    this.leaveButton = button(say("Leave"), say("Keep the files that are there"), () => this.#rest(""));
    this.element = make(
      "div",
      "flex:none;display:flex;flex-wrap:wrap;gap:6px;align-items:center;padding:4px 6px;max-height:110px;overflow:auto;",
      this.text,
      this.name,
      this.makeButton,
      this.replaceButton,
      this.leaveButton,
    );
    this.#rest("");
  }

  /** @param {NamedFile[]} files */
  async add(files) {
    if (files.length === 0) return;
    if (!this.host.target().own) {
      this.waiting = files;
      this.askForFolder(say("A folder for the new files ({count}):", { count: files.length }));
      return;
    }
    await this.#send(files, false);
  }

  /** @param {string} why */
  askForFolder(why) {
    this.#ask(why, [this.name, this.makeButton, this.leaveButton]);
    this.name.value ||= "my_pictures";
    this.name.focus();
    this.name.select();
  }

  async #makeFolder() {
    const files = this.waiting;
    try {
      const label = await makeFolder(this.name.value.trim());
      this.host.chosen(label);
      this.#rest("");
      if (files.length > 0) await this.#send(files, false);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      this.waiting = files;
      this.text.textContent = error.message;
    }
  }

  #replace() {
    this.#send(this.waiting, true);
  }

  /** @param {NamedFile[]} files @param {boolean} replace */
  async #send(files, replace) {
    const { folder } = this.host.target();
    this.#rest("");
    let written = 0;
    let same = 0;
    let next = 0;
    /** @type {NamedFile[]} */
    const there = [];
    /** @type {string[]} */
    const faults = [];
    const work = async () => {
      while (next < files.length) {
        const { name, file } = files[next++];
        this.text.textContent = say("Adding {next} of {count}", { next, count: files.length });
        try {
          if ((await upload(folder, name, file, replace)) === "same") same += 1;
          else written += 1;
        } catch (error) {
          if (!(error instanceof RequestError)) throw error;
          if (error.body.exists) there.push({ name, file });
          else faults.push(error.message);
        }
      }
    };
    show(this.element, true);
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    const lines = [
      say("Files added: {count}.", { count: written }),
      same ? say("Already there: {count}.", { count: same }) : "",
      ...faults.slice(0, SHOWN_FAULTS),
      faults.length > SHOWN_FAULTS ? say("And {count} more that were not added.", { count: faults.length - SHOWN_FAULTS }) : "",
    ].filter(Boolean);
    this.#rest(lines.join("\n"));
    if (there.length > 0) {
      this.waiting = there;
      const names = there.slice(0, 3).map(({ name }) => name).join(", ");
      const which =
        there.length === 1
          ? say("Another {names} is there already.", { names })
          : say("{count} others of the same names ({names}…) are there already.", { count: there.length, names });
      this.#ask([...lines, which].join("\n"), [this.replaceButton, this.leaveButton]);
    }
    this.host.done();
  }

  /** @param {string} text @param {HTMLElement[]} answers */
  #ask(text, answers) {
    this.text.textContent = text;
    for (const each of [this.name, this.makeButton, this.replaceButton, this.leaveButton]) show(each, answers.includes(each));
    this.leaveButton.textContent = answers.includes(this.name) ? say("Cancel") : say("Leave");
    show(this.element, true);
  }

  /** Nothing is asked. @param {string} text */
  #rest(text) {
    this.waiting = [];
    this.#ask(text, []);
    show(this.element, text !== "");
  }
}
