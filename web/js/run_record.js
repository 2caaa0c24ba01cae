// @ts-check
/** What the page knows of one training run: its state and, for each scalar, a column of steps and values. */

/** @typedef {import("./comfy").StepEvent} StepEvent */
/** @typedef {import("./comfy").StateEvent} StateEvent */
/** @typedef {import("./comfy").History} History */
/** @typedef {import("./comfy").RunState} RunState */
/** @typedef {{steps: number[], values: number[]}} Column steps ascending; values are finite */

export const SCALARS = Object.freeze([
  "diffusion_loss",
  "adversarial_loss",
  "discriminator_loss",
  "held_out_loss",
  "real_accuracy",
  "fake_accuracy",
  "pair_accuracy",
]);

/** The pace is the mean over this many steps: one slow step must not double the remaining time. */
const PACE_STEPS = 20;

export class RunRecord {
  /** @param {string} run the server's id of the run; "" stands for "not run yet" */
  constructor(run) {
    this.run = run;
    /** @type {RunState | ""} */
    this.state = "";
    this.message = "";
    /** @type {[number, string][]} what the stage noticed and did, by step */
    this.notes = [];
    this.step = 0;
    this.total = 0;
    /** @type {number[]} every step that was reported, ascending */
    this.steps = [];
    /** @type {Record<string, Column>} */
    this.columns = {};
    for (const name of SCALARS) this.columns[name] = { steps: [], values: [] };
    /** @type {Column} */
    this.pace = { steps: [], values: [] };
  }

  /** @param {History} history the server's record of a run */
  static fromHistory(history) {
    const record = new RunRecord(history.run);
    record.state = history.state;
    record.message = history.message;
    record.notes = history.notes ?? [];
    record.total = history.total;
    for (const values of history.records) record.#store(values.step, values);
    return record;
  }

  /** @param {StepEvent} event of this run */
  addStep(event) {
    if (this.state === "") this.state = "running";
    this.total = event.total;
    this.#store(event.step, { ...event.scalars, seconds_per_step: event.seconds_per_step });
  }

  /** @param {StateEvent} event of this run */
  setState(event) {
    this.state = event.state;
    this.message = event.message;
    this.notes = event.notes ?? this.notes;
  }

  /**
   * Add what arrived by events while this record was on its way from the server.
   * @param {RunRecord} live of the same run
   */
  absorb(live) {
    if (live.state !== "" && live.state !== "running") {
      this.state = live.state;
      this.message = live.message;
    }
    if (live.notes.length > this.notes.length) this.notes = live.notes;
    this.step = Math.max(this.step, live.step);
    for (const step of live.steps) insert(this.steps, step);
    for (const name of SCALARS) putAll(this.columns[name], live.columns[name]);
    putAll(this.pace, live.pace);
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
    for (const name of SCALARS) put(this.columns[name], step, values[name]);
    // The measurement before the first update is no step and took no time.
    if (values.seconds_per_step > 0) put(this.pace, step, values.seconds_per_step);
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
