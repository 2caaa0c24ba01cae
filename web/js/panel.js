// @ts-check
/** One pair of axes with its legend and curves. */

import { decimate, formatTick, formatValue, linearTicks, logTicks, valueRange } from "./curves.js";
import { placeLabels } from "./labels.js";
import { diamond, disc, drawLabel, drawText, line, ring } from "./pen.js";
import { valueAt } from "./run_record.js";
import { say } from "./say.js";
import { smooth, smoothingWindow } from "./smoothing.js";

/** @typedef {import("./pen.js").Theme} Theme */
/** @typedef {import("./series.js").Series} Series */
/** @typedef {import("./series.js").PanelPlan} PanelPlan */
/** @typedef {import("./run_record.js").Column} Column */
/** @typedef {import("./run_record.js").RunRecord} RunRecord */
/** @typedef {import("./labels.js").Box} Box */
/** @typedef {import("./labels.js").Label} Label */

const LEGEND_LINE = 15;
const BEST_RADIUS = 6.5;
const GRID_OPACITY = 0.5;
/** Room to the right of the axes, and below them for the steps. */
export const MARGIN = Object.freeze({ right: 10, bottom: 18 });
/** Diamonds nearer to each other than this, in CSS pixels, would be a smear. */
const MARKER_GAP = 8;

export class Panel {
  /**
   * @param {RunRecord} record
   * @param {PanelPlan} plan
   */
  constructor(record, plan) {
    this.plan = plan;
    this.series = plan.series.filter(({ name }) => record.columns[name].steps.length > 0);
    /** @type {Record<string, Column>} */
    this.raw = {};
    /** @type {Record<string, ArrayLike<number>>} */
    this.smoothed = {};
    const width = smoothingWindow(record.total);
    for (const { name, markers, relative } of this.series) {
      const { steps, values } = record.columns[name];
      this.raw[name] = { steps, values: relative && values[0] > 0 ? values.map((value) => value / values[0]) : values };
      this.smoothed[name] = markers ? this.raw[name].values : smooth(steps, values, width);
    }
    const startColumn = plan.start === undefined ? undefined : record.columns[plan.start];
    /** What the LoRA was worth before the stage, where that was measured. */
    this.start = startColumn && valueAt(startColumn, 0);
    const { best_step } = record.facts;
    /** The best state's step and score. */
    this.best = plan.best ? { step: best_step, value: valueAt(record.columns.score, best_step) } : undefined;
    /** @type {Box} */
    this.box = { left: 0, top: 0, width: 1, height: 1 };
    /** @type {[number, number]} */
    this.steps = [0, 1];
    /** @type {[number, number]} */
    this.range = plan.range ?? [0, 1];
    /** @type {number[]} */
    this.ticks = plan.ticks ?? [];
    this.logarithmic = false;
    /** Whether a logarithmic axis leaves values out. */
    this.hidesValues = false;
  }

  /**
   * Fit the value axis to the curves, unless it is fixed.
   * @param {boolean} logarithmic
   * @param {number} count of ticks, about
   */
  fitRange(logarithmic, count) {
    if (this.plan.range) return;
    const levels = [this.start, this.plan.level].filter((value) => value !== undefined);
    const lines = [...this.series.map(({ name }) => this.smoothed[name]), levels];
    const clouds = this.series.map(({ name }) => this.raw[name].values);
    const above = (/** @type {ArrayLike<number>} */ values) => Array.from(values).filter((value) => value > 0);
    const range = logarithmic ? valueRange(lines.map(above), clouds.map(above)) : valueRange(lines, clouds);
    this.logarithmic = logarithmic && range !== undefined;
    this.hidesValues = logarithmic && clouds.some((values) => values.some((value) => value <= 0));
    const [low, high] = range ?? [0, 1];
    if (this.logarithmic) {
      const margin = (high / low) ** 0.04;
      this.range = [low / margin, high * margin];
      this.ticks = logTicks(this.range[0], this.range[1], count);
      return;
    }
    const margin = (high - low) * (this.plan.losses ? 0.05 : 0.15);
    // Losses are read against 0 where it is near.
    const floor = this.plan.losses && low >= 0 && low < high * 0.35 ? 0 : low - margin;
    this.range = [floor, high + margin];
    this.ticks = linearTicks(this.range[0], this.range[1], count);
    // A single number says nothing of the scale.
    if (this.ticks.length < 2) this.ticks = linearTicks(this.range[0], this.range[1], 2 * count);
  }

  /** @param {Box} box @param {[number, number]} steps at the left and the right edge */
  place(box, steps) {
    this.box = box;
    this.steps = steps;
  }

  get bottom() {
    return this.box.top + this.box.height;
  }

  /** @param {number} value */
  shows(value) {
    return value >= this.range[0] && value <= this.range[1];
  }

  /** The step at a horizontal position, not rounded. @param {number} x */
  stepAt(x) {
    return this.steps[0] + ((x - this.box.left) / this.box.width) * (this.steps[1] - this.steps[0]);
  }

  /** @param {CanvasRenderingContext2D} pen */
  tickWidth(pen) {
    return Math.max(0, ...this.ticks.map((tick) => pen.measureText(formatTick(tick)).width));
  }

  /** @param {number} step */
  x(step) {
    const [first, last] = this.steps;
    return this.box.left + ((step - first) / (last - first)) * this.box.width;
  }

  /** @param {number} value */
  y(value) {
    const [low, high] = this.range;
    const share = this.logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    return this.box.top + (1 - share) * this.box.height;
  }

  /**
   * Break the legend into lines.
   * @param {CanvasRenderingContext2D} pen
   * @param {number} width
   */
  layOutLegend(pen, width) {
    let x = 0;
    let row = 0;
    const entries = this.series.map((series) => {
      const values = this.smoothed[series.name];
      const value = formatValue(values[values.length - 1]);
      const label = pen.measureText(`${say(series.label)} `).width;
      const size = 16 + label + pen.measureText(value).width + 12;
      if (x > 0 && x + size - 12 > width) {
        x = 0;
        row++;
      }
      const entry = { series, value, x, row, label };
      x += size;
      return entry;
    });
    return { entries, height: (row + 1) * LEGEND_LINE };
  }

  /** @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {number} top @param {ReturnType<Panel["layOutLegend"]>} legend */
  drawLegend(pen, theme, top, legend) {
    for (const { series, value, x, row, label } of legend.entries) {
      const y = top + (row + 0.5) * LEGEND_LINE;
      pen.strokeStyle = pen.fillStyle = series.color;
      if (series.markers) {
        diamond(pen, x + 12, y, series.color, theme.text);
      } else {
        pen.lineWidth = 2;
        pen.setLineDash(series.dashed ? [4, 2] : []);
        line(pen, x + 6, y, x + 18, y);
        pen.setLineDash([]);
      }
      drawText(pen, say(series.label), x + 22, y, theme.muted, "left");
      drawText(pen, value, x + 22 + label, y, theme.text, "left");
    }
  }

  /** @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {boolean} withSteps */
  drawGrid(pen, theme, withSteps) {
    const { left, top, width, height } = this.box;
    pen.lineWidth = 1;
    pen.strokeStyle = theme.grid;
    for (const tick of this.ticks) {
      const y = Math.round(this.y(tick)) + 0.5;
      pen.globalAlpha = GRID_OPACITY;
      line(pen, left, y, left + width, y);
      pen.globalAlpha = 1;
      drawText(pen, formatTick(tick), left - 6, y, theme.muted, "right");
    }
    const [first, last] = this.steps;
    for (const tick of linearTicks(first, last, Math.max(2, width / 80))) {
      if (!Number.isInteger(tick)) continue;
      const x = Math.round(this.x(tick)) + 0.5;
      pen.globalAlpha = GRID_OPACITY;
      line(pen, x, top, x, top + height);
      pen.globalAlpha = 1;
      if (!withSteps) continue;
      const text = formatTick(tick);
      const half = pen.measureText(text).width / 2;
      drawText(pen, text, Math.min(x, left + width + MARGIN.right - half - 1), top + height + 10, theme.muted, "center");
    }
    pen.strokeStyle = theme.muted;
    line(pen, left - 0.5, top, left - 0.5, top + height);
  }

  /** @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {number} density canvas pixels a CSS pixel */
  drawCurves(pen, theme, density) {
    const { left, top, width, height } = this.box;
    for (const level of [this.plan.level, this.start]) if (level !== undefined) this.#level(pen, theme, level);
    const lines = this.series.filter(({ markers }) => !markers);
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width + 2, height);
    pen.clip();
    // Smoothed lines above all raw ones, whichever series they belong to.
    for (const series of lines) this.#curve(pen, density, series, this.raw[series.name].values, 0.28, 1);
    for (const series of lines) this.#curve(pen, density, series, this.smoothed[series.name], 1, 1.8);
    pen.restore();
    for (const series of this.series) if (series.markers) this.#markers(pen, theme, series);
    if (this.#bestPlace) ring(pen, ...this.#bestPlace, BEST_RADIUS, theme.text);
  }

  /**
   * The words inside the axes, of which none covers another.
   * @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {Label[]} others less important than the panel's own
   */
  drawLabels(pen, theme, others) {
    const { left, top, width } = this.box;
    /** @type {Label[]} */
    const own = [];
    /** @type {Box[]} */
    const taken = [];
    if (this.#bestPlace) {
      const [x, y] = this.#bestPlace;
      const [radius, aside] = [BEST_RADIUS, BEST_RADIUS + 4];
      taken.push({ left: x - radius, top: y - radius, width: 2 * radius, height: 2 * radius });
      own.push({
        text: say("best"),
        color: theme.text,
        places: [[x, y - 14, "center"], [x, y + 15, "center"], [x + aside, y, "left"], [x - aside, y, "right"]],
      });
    }
    if (this.start !== undefined && this.shows(this.start)) {
      const y = this.y(this.start);
      /** @type {import("./labels.js").Place[]} */
      const places = [];
      for (const x of [left + width, left + width / 2, left + 40]) places.push([x, y - 7, "right"], [x, y + 8, "right"]);
      own.push({ text: say("start"), color: theme.muted, places });
    }
    if (this.hidesValues) {
      const text = say("values of 0 and below are not shown");
      own.push({ text, color: theme.muted, places: [[left + 4, top + 8, "left"], [left + 4, top + 22, "left"]] });
    }
    const widthOf = (/** @type {string} */ text) => pen.measureText(text).width;
    for (const { text, x, y, color, align } of placeLabels([...own, ...others], this.box, taken, widthOf)) {
      drawLabel(pen, theme, text, x, y, color, align);
    }
  }

  /** @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {number} value */
  #level(pen, theme, value) {
    if (!this.shows(value)) return;
    const { left, width } = this.box;
    const y = Math.round(this.y(value)) + 0.5;
    pen.strokeStyle = theme.muted;
    pen.lineWidth = 1;
    pen.setLineDash([2, 3]);
    line(pen, left, y, left + width, y);
    pen.setLineDash([]);
  }

  /** @returns {[number, number] | undefined} the middle of the best state's point */
  get #bestPlace() {
    if (this.best?.value === undefined) return undefined;
    return [this.x(this.best.step), this.y(this.best.value)];
  }

  /**
   * @param {CanvasRenderingContext2D} pen @param {number} density @param {Series} series
   * @param {ArrayLike<number>} values @param {number} opacity @param {number} thickness
   */
  #curve(pen, density, series, values, opacity, thickness) {
    const { steps } = this.raw[series.name];
    pen.globalAlpha = opacity;
    pen.strokeStyle = pen.fillStyle = series.color;
    pen.lineWidth = thickness;
    pen.setLineDash(series.dashed && opacity === 1 ? [5, 3] : []);
    pen.beginPath();
    let drawing = false;
    for (const i of decimate(steps, values, this.steps[0], this.steps[1], Math.ceil(this.box.width * density))) {
      if (this.logarithmic && values[i] <= 0) {
        drawing = false;
        continue;
      }
      if (drawing) pen.lineTo(this.x(steps[i]), this.y(values[i]));
      else pen.moveTo(this.x(steps[i]), this.y(values[i]));
      drawing = true;
    }
    pen.stroke();
    pen.setLineDash([]);
    if (steps.length === 1) disc(pen, this.x(steps[0]), this.y(values[0]), 2.5);
    pen.globalAlpha = 1;
  }

  /** @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {Series} series */
  #markers(pen, theme, series) {
    const { steps, values } = this.raw[series.name];
    const shown = steps.map((step, i) => ({ step, value: values[i] })).filter(({ value }) => this.shows(value));
    pen.strokeStyle = series.color;
    pen.lineWidth = 1.2;
    pen.beginPath();
    for (const { step, value } of shown) pen.lineTo(this.x(step), this.y(value));
    pen.stroke();
    pen.setLineDash([]);
    if (shown.length * MARKER_GAP > this.box.width) return;
    for (const { step, value } of shown) diamond(pen, this.x(step), this.y(value), series.color, theme.text);
  }
}
