// @ts-check
/** A run in words. */

import { formatDuration, formatMemory, formatPace, formatValue } from "./curves.js";
import { say } from "./say.js";
import { seriesOf } from "./series.js";

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./comfy").Note} Note */
/** @typedef {import("./run_record.js").RunRecord} RunRecord */

/** Where the run is: state, update, pace, remaining time, images, memory. @param {RunRecord} record */
export function statusLine(record) {
  const { state, step, total, secondsPerStep, facts } = record;
  if (state === "") return "not run yet";
  /** @type {string[]} */
  const parts = [state];
  if (step > 0) parts.push(`update ${step}/${total}`);
  if (Number.isFinite(secondsPerStep)) {
    parts.push(formatPace(secondsPerStep));
    if (state === "running" && step < total) parts.push(`ETA ${formatDuration((total - step) * secondsPerStep)}`);
  }
  if (facts.images > 0) parts.push(`${facts.images} images`);
  if (facts.peak_memory > 0) parts.push(`peak ${formatMemory(facts.peak_memory)}`);
  return parts.join(" · ");
}

/**
 * The best state so far: by the score where there is one, else where the held-out flow loss was lowest. The latest
 * note that is no warning, where nothing was measured.
 * @param {RunRecord} record
 */
export function bestLine(record) {
  const { score, held_out_loss } = record.columns;
  const { best_step, best_score } = record.facts;
  if (best_score !== undefined && score.values.length > 0) {
    const start = score.steps[0] === 0 && best_step > 0 ? ` (start ${formatShort(score.values[0])})` : "";
    return `best: ${best_step > 0 ? `update ${best_step}` : "the start"}, score ${formatShort(best_score)}${start}`;
  }
  if (held_out_loss.values.length > 0) {
    const lowest = Math.min(...held_out_loss.values);
    const step = held_out_loss.steps[held_out_loss.values.indexOf(lowest)];
    return `lowest held-out: ${step > 0 ? `update ${step}` : "the start"}, flow loss ${formatShort(lowest)}`;
  }
  const note = record.notes.findLast(([, , warning]) => !warning);
  return note ? noteText(note) : "";
}

/** @param {Note} note */
export function noteText([step, text]) {
  return step > 0 ? `update ${step}: ${text}` : text;
}

/** @param {Stage} stage @param {RunRecord} record */
export function spokenSummary(stage, record) {
  const parts = [`Training chart of the ${stage} stage: ${record.state || "not run yet"}`];
  if (record.step > 0) parts.push(`update ${record.step} of ${record.total}`);
  for (const { name, label } of seriesOf(stage)) {
    const { values } = record.columns[name];
    if (values.length > 0) parts.push(`${say(label)} ${formatValue(values[values.length - 1])}`);
  }
  return parts.join(", ");
}

/** Three significant digits: 0.78, 12.3, 0.0412. @param {number} value */
function formatShort(value) {
  return String(Number(value.toPrecision(3)));
}
