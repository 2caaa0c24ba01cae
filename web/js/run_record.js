// @ts-check
/** What the page knows of one training run: its state and, for each curve, a column of steps and values. */

import { GLOSSARY } from "./glossary.js";

/** @typedef {import("./comfy").StepEvent} StepEvent */
/** @typedef {import("./comfy").StateEvent} StateEvent */
/** @typedef {import("./comfy").History} History */
/** @typedef {import("./comfy").RunState} RunState */
/** @typedef {import("./comfy").Note} Note */
/** @typedef {{steps: number[], values: number[]}} Column steps ascending; values are finite */

/** Measured at few of the steps. */
const MEASURED = Object.freeze(["held_out_loss", "score", "diversity", "high_frequency"]);
/** The pace is the mean over this many steps: one slow step must not double the remaining time. */
const PACE_STEPS = 20;
/** More points than a chart has pixels. Of more, evenly spread ones are kept, as in the server's own memory. */
const MOST_POINTS = 4000;

export class RunRecord {
  /**
   * @param {string} run the server's id of the run; "" stands for "not run yet"
   * @param {number} sitting the server's number of it: records of different numbers are not of one curve
   */
  constructor(run, sitting) {
    this.run = run;
    this.sitting = sitting;
    /** Under which id the server runs the node. */
    this.node = "";
    /** Whether all of its past is here. */
    this.whole = true;
    /** @type {RunState | ""} */
    this.state = "";
    this.message = "";
    /** @type {Note[]} what the stage noticed and did */
    this.notes = [];
    /** @type {Record<string, number>} images, peak_memory (bytes), best_step, best_score, warmup, early, reused: as far as they are known */
    this.facts = {};
    this.step = 0;
    this.total = 0;
    /** @type {number[]} the steps that were reported, ascending */
    this.steps = [];
    /** Of so many steps side by side one is kept. */
    this.stride = 1;
    /** @type {Record<string, Column>} */
    this.columns = {};
    for (const name of Object.keys(GLOSSARY)) this.columns[name] = { steps: [], values: [] };
    /** @type {Column} */
    this.pace = { steps: [], values: [] };
  }

  /** @param {History} history the server's record of a run */
  static fromHistory(history) {
    const record = new RunRecord(history.run, history.sitting);
    record.state = history.state;
    record.message = history.message;
    record.notes = history.notes;
    record.facts = history.facts;
    record.total = history.total;
    for (const values of history.records) record.#store(values.step, values);
    return record;
  }

  /** @param {StepEvent} event of this run */
  addStep(event) {
    if (this.state === "") this.state = "running";
    this.total = event.total;
    Object.assign(this.facts, event.facts);
    this.#store(event.step, { ...event.scalars, seconds_per_step: event.seconds_per_step });
  }

  /** @param {StateEvent} event of this run */
  setState(event) {
    this.state = event.state;
    this.message = event.message;
    Object.assign(this.facts, event.facts);
    // A message brings the new notes alone.
    if (event.notes_before > this.notes.length) this.whole = false;
    else this.notes = [...this.notes.slice(0, event.notes_before), ...event.notes];
    if (event.records > 0 && this.steps.length === 0) this.whole = false;
  }

  /**
   * Add what arrived by events while this record was on its way from the server.
   * @param {RunRecord} live of the same sitting
   */
  absorb(live) {
    const isLater = live.state === "cancelling" ? this.state === "running" : live.state !== "" && !live.isGoing;
    if (isLater) {
      this.state = live.state;
      this.message = live.message;
    }
    if (live.notes.length > this.notes.length) this.notes = live.notes;
    this.facts = live.step > this.step ? { ...this.facts, ...live.facts } : { ...live.facts, ...this.facts };
    this.step = Math.max(this.step, live.step);
    for (const step of live.steps) insert(this.steps, step);
    for (const name of Object.keys(this.columns)) putAll(this.columns[name], live.columns[name]);
    putAll(this.pace, live.pace);
    this.#thin();
  }

  /** Whether it has not ended yet. */
  get isGoing() {
    return this.state === "running" || this.state === "cancelling";
  }

  /** Whether steps between the first and the last are missing: the server sends at most five a second. */
  get hasGaps() {
    const count = this.steps.length;
    return count > 0 && this.steps[count - 1] - this.steps[0] + 1 > count;
  }

  /** Seconds a step, over the last steps; NaN before the first. */
  get secondsPerStep() {
    const recent = this.pace.values.slice(-PACE_STEPS);
    return recent.reduce((sum, value) => sum + value, 0) / recent.length;
  }

  /** @param {number} step @param {Record<string, number>} values */
  #store(step, values) {
    this.step = Math.max(this.step, step);
    insert(this.steps, step);
    for (const name of Object.keys(this.columns)) put(this.columns[name], step, values[name]);
    // The measurement before the first update is no step and took no time.
    if (values.seconds_per_step > 0) put(this.pace, step, values.seconds_per_step);
    this.#thin();
  }

  /** Of so many steps side by side the first is kept, and besides the last of all and what was measured. */
  #thin() {
    const { steps } = this;
    const last = steps.length - 1;
    if (this.stride > 1 && last > 1 && !this.#isKept(steps[last - 1], steps[last - 2])) this.#leaveOut([steps[last - 1]]);
    while (this.steps.length > MOST_POINTS) {
      const before = this.steps.length;
      this.stride *= 2;
      this.#leaveOut(this.steps.filter((step, i) => i > 0 && i < last && !this.#isKept(step, this.steps[i - 1])));
      // Measurements alone are never too many to draw.
      if (this.steps.length === before) return;
    }
  }

  /** @param {number} step @param {number} before the step before it */
  #isKept(step, before) {
    const isFirst = Math.floor(step / this.stride) !== Math.floor(before / this.stride);
    return isFirst || MEASURED.some((name) => valueAt(this.columns[name], step) !== undefined);
  }

  /** @param {number[]} unwanted ascending */
  #leaveOut(unwanted) {
    if (unwanted.length === 0) return;
    const gone = new Set(unwanted);
    for (const column of [...Object.values(this.columns), this.pace]) {
      const from = lowerBound(column.steps, unwanted[0]);
      const kept = column.steps.slice(from).map((step, i) => /** @type {const} */ ([step, column.values[from + i]]));
      const left = kept.filter(([step]) => !gone.has(step));
      column.steps.splice(from, Infinity, ...left.map(([step]) => step));
      column.values.splice(from, Infinity, ...left.map(([, value]) => value));
    }
    const from = lowerBound(this.steps, unwanted[0]);
    this.steps.splice(from, Infinity, ...this.steps.slice(from).filter((step) => !gone.has(step)));
  }
}

/**
 * The value of a column at a step.
 * @param {Column} column
 * @param {number} step
 * @returns {number | undefined}
 */
export function valueAt(column, step) {
  const place = lowerBound(column.steps, step);
  return column.steps[place] === step ? column.values[place] : undefined;
}

/** Index of the first entry that is not below `step`. @param {number[]} steps @param {number} step */
export function lowerBound(steps, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** @param {number[]} steps @param {number} step @returns {[number, boolean]} place, and whether it is new there */
function insert(steps, step) {
  const place = lowerBound(steps, step);
  const isNew = steps[place] !== step;
  if (isNew) steps.splice(place, 0, step);
  return [place, isNew];
}

/** @param {Column} column @param {number} step @param {number | null | undefined} value */
function put(column, step, value) {
  if (!Number.isFinite(value)) return;
  const [place, isNew] = insert(column.steps, step);
  column.values.splice(place, isNew ? 0 : 1, /** @type {number} */ (value));
}

/** @param {Column} column @param {Column} source */
function putAll(column, source) {
  source.steps.forEach((step, i) => put(column, step, source.values[i]));
}
