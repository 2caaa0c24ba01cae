// @ts-check
/** What the pack's scripts say, in the language that the page is set to. */

import { app } from "../../../scripts/app.js";
import { TRANSLATIONS } from "./translations.js";

/** A text that is said later. @param {string} english @returns {string} */
export function phrase(english) {
  return english;
}

/**
 * A text in the page's language; in English where it has no translation.
 *
 * @param {string} english with a {name} for each of `values`
 * @param {Record<string, string | number>} [values]
 */
export function say(english, values = {}) {
  const language = String(app.extensionManager?.setting.get("Comfy.Locale") ?? "");
  const words = TRANSLATIONS[english]?.[language] ?? english;
  return words.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}
