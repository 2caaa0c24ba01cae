// @ts-check
/** A run in words. */

import { formatDuration, formatPace, formatValue } from "./curves.js";
import { ACCURACIES, LOSSES_OF } from "./series.js";

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./run_record.js").RunRecord} RunRecord */

/** @param {RunRecord} record */
export function statusLine(record) {
  const { state, step, total, secondsPerStep } = record;
  if (state === "") return "not run yet";
  /** @type {string[]} */
  const parts = [state];
  if (step > 0) parts.push(`step ${step}/${total}`);
  if (Number.isFinite(secondsPerStep)) {
    parts.push(formatPace(secondsPerStep));
    if (state === "running") parts.push(`${formatDuration((total - step) * secondsPerStep)} left`);
  }
  return parts.join("  ·  ");
}

/** @param {Stage} stage @param {RunRecord} record */
export function spokenSummary(stage, record) {
  const parts = [`Training chart of the ${stage} stage: ${record.state || "not run yet"}`];
  if (record.step > 0) parts.push(`step ${record.step} of ${record.total}`);
  for (const { name, label } of [...LOSSES_OF[stage], ...ACCURACIES]) {
    const { values } = record.columns[name];
    const kind = name.endsWith("_loss") ? `${label} loss` : label.startsWith("on ") ? `accuracy ${label}` : label;
    if (values.length > 0) parts.push(`${kind} ${formatValue(values[values.length - 1])}`);
  }
  return parts.join(", ");
}
