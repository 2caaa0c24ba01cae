// @ts-check
/** A run in words. */

import { formatDuration, formatMemory, formatPace, formatValue } from "./curves.js";
import { phrase, say } from "./say.js";
import { seriesOf } from "./series.js";

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./comfy").Note} Note */
/** @typedef {import("./run_record.js").RunRecord} RunRecord */

const STATES = Object.freeze({
  "": phrase("not run yet"),
  running: phrase("running"),
  cancelling: phrase("cancelling"),
  finished: phrase("finished"),
  stopped: phrase("stopped"),
  failed: phrase("failed"),
});
const SUMMARIES = Object.freeze({
  diffusion: phrase("Training chart of the diffusion stage: {state}"),
  adversarial: phrase("Training chart of the adversarial stage: {state}"),
});

/** Where the run is: state, update, pace, remaining time, images, memory. @param {RunRecord} record */
export function statusLine(record) {
  const { state, step, total, secondsPerStep, facts } = record;
  const parts = [say(STATES[state])];
  if (step > 0) {
    const { warmup } = facts;
    // The updates of the discriminator alone count too; the rest is what the node was asked for.
    const apart = warmup > 0 ? ` (${say("warm-up {warmup} + {steps}", { warmup, steps: total - warmup })})` : "";
    parts.push(say("update {step}/{total}", { step, total }) + apart);
  }
  if (Number.isFinite(secondsPerStep)) {
    parts.push(formatPace(secondsPerStep));
    if (state === "running" && step < total) {
      parts.push(say("ETA {time}", { time: formatDuration((total - step) * secondsPerStep) }));
    }
  }
  if (facts.images > 0) parts.push(say("{count} images", { count: facts.images }));
  if (facts.peak_memory > 0) parts.push(say("peak {memory}", { memory: formatMemory(facts.peak_memory) }));
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
    const best = say("best: {place}, score {score}", { place: placeText(best_step), score: formatShort(best_score) });
    if (score.steps[0] !== 0 || best_step === 0) return best;
    return `${best} ${say("(start {score})", { score: formatShort(score.values[0]) })}`;
  }
  if (held_out_loss.values.length > 0) {
    const lowest = Math.min(...held_out_loss.values);
    const place = placeText(held_out_loss.steps[held_out_loss.values.indexOf(lowest)]);
    return say("lowest held-out flow loss: {place}, {loss}", { place, loss: formatShort(lowest) });
  }
  const note = record.notes.findLast(([, , warning]) => !warning);
  return note ? noteText(note) : "";
}

/** Why the run ends or ended as it did, where it did not simply go to its last update now. @param {RunRecord} record */
export function endLine(record) {
  const { state, message, facts, total } = record;
  if (state === "failed" || state === "stopped") return message;
  if (state === "cancelling") return say("Cancelled: the stage ends once this update is done, and what it has learned is kept.");
  if (state !== "finished") return "";
  const { early } = facts;
  if (facts.reused && early !== undefined) {
    return say(
      "Reused: this run was finished early, at update {early} of {total}. It can go on to the end; another seed trains anew.",
      { early, total },
    );
  }
  if (facts.reused) return say("Reused: the same run was finished before. Another setting or seed trains anew.");
  if (early !== undefined) {
    return say("Finished early, at update {early} of {total}. It can go on to the end.", { early, total });
  }
  return "";
}

/** Whether there is more to train of a run that is over. @param {RunRecord} record */
export function canGoOn(record) {
  return record.state === "finished" && record.facts.early !== undefined;
}

/** @param {Note} note */
export function noteText([step, words]) {
  return step > 0 ? `${say("update {step}", { step })}: ${words}` : words;
}

/** @param {Stage} stage @param {RunRecord} record */
export function spokenSummary(stage, record) {
  const parts = [say(SUMMARIES[stage], { state: say(STATES[record.state]) })];
  if (record.step > 0) parts.push(say("update {step} of {total}", { step: record.step, total: record.total }));
  for (const { name, label } of seriesOf(stage)) {
    const { values } = record.columns[name];
    if (values.length > 0) parts.push(`${say(label)} ${formatValue(values[values.length - 1])}`);
  }
  return parts.join(", ");
}

/** @param {number} step */
function placeText(step) {
  return step > 0 ? say("update {step}", { step }) : say("the start");
}

/** Three significant digits: 0.78, 12.3, 0.0412. @param {number} value */
function formatShort(value) {
  return String(Number(value.toPrecision(3)));
}
