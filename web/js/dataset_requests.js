// @ts-check
/** What the page asks the server about training folders, and what it has it change. */

import { api } from "../../../scripts/api.js";
import { say } from "./say.js";

/**
 * What a node of training pictures has chosen.
 * @typedef {{folder: string, caption_rule: string, trigger_word: string, mask_rule: string}} Choices
 */
/**
 * One picture of a folder, as the server describes it.
 * @typedef {object} Entry
 * @property {string} name path inside the folder
 * @property {number} repeats
 * @property {string | null} text what its caption file holds
 * @property {string | null} caption what is trained on
 * @property {string | null} mask name of its mask file
 * @property {boolean} editable
 * @property {boolean} shown
 * @property {string} version
 * @property {string[]} problems
 * @property {[number, number] | null} bucket width and height in pixels, known once the folder was encoded
 * @property {boolean} held_out
 */
/**
 * @typedef {object} Part of a folder
 * @property {number} pictures
 * @property {number} trained
 * @property {number} without_caption
 * @property {number} without_mask
 * @property {string[]} problems
 * @property {number} start
 * @property {Entry[]} entries
 * @property {boolean} own whether it may be changed
 */
/** @typedef {{width: number, height: number, masked: boolean, remarks: string[]}} About a picture */

const ROUTE = "/fluxduel/dataset";
/** Thumbnails that are asked for at once: the server makes two at a time. */
const MOST_AT_ONCE = 4;

/** An answer that is not what was asked for. `body` is what the server says about it. */
export class RequestError extends Error {
  /** @param {number} status @param {{error?: string, exists?: boolean, now?: string | null}} body */
  constructor(status, body) {
    super(body.error ?? say("The server answered with {status}.", { status }));
    this.status = status;
    this.body = body;
  }
}

/** @param {Choices} choices @param {number} start @param {number} count @param {AbortSignal} signal @returns {Promise<Part>} */
export async function fetchPart(choices, start, count, signal) {
  const query = new URLSearchParams({ ...choices, start: String(start), count: String(count) });
  return (await asked(`${ROUTE}?${query}`, { signal })).json();
}

/** Thumbnails, a few at a time, in the order in which they were asked for. */
export class ThumbnailQueue {
  constructor() {
    /** @type {Array<() => Promise<void>>} */
    this.waiting = [];
    this.running = 0;
  }

  /**
   * @param {Choices} choices
   * @param {Entry} entry
   * @param {AbortSignal} signal
   * @returns {Promise<{blob: Blob, about: About}>}
   */
  fetch(choices, entry, signal) {
    return new Promise((resolve, reject) => {
      this.waiting.push(() => fetchThumbnail(choices, entry, signal).then(resolve, reject));
      this.#next();
    });
  }

  #next() {
    if (this.running >= MOST_AT_ONCE) return;
    const work = this.waiting.shift();
    if (!work) return;
    this.running += 1;
    work().finally(() => {
      this.running -= 1;
      this.#next();
    });
  }
}

/** @param {Choices} choices @param {Entry} entry @param {AbortSignal} signal */
async function fetchThumbnail(choices, entry, signal) {
  signal.throwIfAborted();
  const { folder, mask_rule } = choices;
  const query = new URLSearchParams({ folder, mask_rule, name: entry.name, version: entry.version });
  if (entry.mask !== null) query.set("mask", entry.mask);
  const answer = await asked(`${ROUTE}/thumbnail?${query}`, { signal });
  const about = /** @type {About} */ (JSON.parse(answer.headers.get("X-FluxDuel-Picture") ?? "{}"));
  return { blob: await answer.blob(), about };
}

/**
 * Write the caption of a picture. `seen` is what its file held when it was shown.
 * @param {string} folder @param {string} name @param {string} text @param {string | null} seen
 */
export async function saveCaption(folder, name, text, seen) {
  await postJSON("caption", { folder, name, text, seen });
}

/** Make a folder below the host's input folder. @param {string} name @returns {Promise<string>} its label */
export async function makeFolder(name) {
  return (await (await postJSON("folder", { name })).json()).folder;
}

/**
 * Add a file to a folder.
 * @param {string} folder @param {string} name @param {Blob} content @param {boolean} replace one that is there
 * @returns {Promise<"written" | "same">}
 */
export async function upload(folder, name, content, replace) {
  const query = new URLSearchParams({ folder, name, replace: replace ? "1" : "0" });
  const headers = { "Content-Type": "application/octet-stream" };
  const answer = await asked(`${ROUTE}/upload?${query}`, { method: "POST", headers, body: content });
  return (await answer.json()).state;
}

/** @param {string} route @param {object} body */
function postJSON(route, body) {
  const headers = { "Content-Type": "application/json" };
  return asked(`${ROUTE}/${route}`, { method: "POST", headers, body: JSON.stringify(body) });
}

/** @param {string} route @param {RequestInit} options */
async function asked(route, options) {
  const answer = await api.fetchApi(route, options);
  if (answer.ok) return answer;
  throw new RequestError(answer.status, await answer.json().catch(() => ({})));
}
