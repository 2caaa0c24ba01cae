// @ts-check
/** The picture of a run: its panels, one below the other, and the values under the cursor. */

import { formatValue } from "./curves.js";
import { MARGIN, Panel } from "./panel.js";
import { disc, drawText, line } from "./pen.js";
import { valueAt } from "./run_record.js";
import { say } from "./say.js";
import { PANELS, withoutSpare } from "./series.js";

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {import("./panel.js").Box} Box */
/** @typedef {import("./pen.js").Theme} Theme */
/** @typedef {import("./run_record.js").RunRecord} RunRecord */
/** @typedef {{logarithmic: boolean, cursor: number | undefined, density: number}} View density: canvas pixels a CSS pixel */

const ROW = 15;
const GAP = 4;
/** Of the lowest panel; below it what is spare makes room. */
const LEAST_HEIGHT = 40;

/**
 * Draw a run that has at least one step.
 *
 * @param {CanvasRenderingContext2D} pen
 * @param {{width: number, height: number}} size in CSS pixels
 * @param {Theme} theme
 * @param {Stage} stage
 * @param {RunRecord} record
 * @param {View} view
 * @returns {Panel} the upper panel, to read steps off positions
 */
export function drawPlot(pen, size, theme, stage, record, view) {
  const first = record.steps[0];
  const last = Math.max(record.steps[record.steps.length - 1], first + 1);
  let laid = layOut(pen, size, record, PANELS[stage]);
  if (Math.min(...laid.heights) < LEAST_HEIGHT) laid = layOut(pen, size, record, PANELS[stage].map(withoutSpare));
  const { panels, legends, heights } = laid;
  panels.forEach((panel, i) => {
    panel.fitRange(view.logarithmic && panel.plan.losses === true, Math.max(3, Math.round(heights[i] / 32)));
  });
  const left = Math.ceil(Math.max(...panels.map((panel) => panel.tickWidth(pen)))) + 12;

  let top = 0;
  panels.forEach((panel, i) => {
    const width = Math.max(1, size.width - left - MARGIN.right);
    panel.place({ left, top: top + legends[i].height + GAP, width, height: heights[i] }, [first, last]);
    panel.drawLegend(pen, theme, top, legends[i]);
    panel.drawGrid(pen, theme, i === panels.length - 1);
    panel.drawCurves(pen, theme, view.density);
    top = panel.bottom + GAP;
  });
  const [losses] = panels;
  const warmup = stage === "adversarial" ? drawWarmup(pen, theme, record, panels) : [];
  for (const panel of panels) panel.drawLabels(pen, theme, panel === losses ? warmup : []);
  if (view.cursor !== undefined) drawReadout(pen, theme, panels, view.cursor);
  return losses;
}

/**
 * The panels that the run has something for, with their legends, and how high each is.
 * @param {CanvasRenderingContext2D} pen @param {{width: number, height: number}} size @param {RunRecord} record
 * @param {import("./series.js").PanelPlan[]} plans
 */
function layOut(pen, size, record, plans) {
  const made = plans.map((plan) => new Panel(record, plan));
  // The losses always have a place; what is not measured in this run has none.
  const panels = made.filter((panel) => panel.plan.losses || panel.series.length > 0);
  const legends = panels.map((panel) => panel.layOutLegend(pen, size.width - 12));
  const free = size.height - MARGIN.bottom - legends.reduce((sum, { height }) => sum + height + 2 * GAP, 0);
  const weights = panels.reduce((sum, panel) => sum + panel.plan.weight, 0);
  const heights = panels.map((panel) => Math.max(1, (free * panel.plan.weight) / weights));
  return { panels, legends, heights };
}

/**
 * Shade the steps in which the discriminator alone is trained.
 * @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {RunRecord} record @param {Panel[]} panels
 * @returns {import("./labels.js").Label[]} what that is
 */
function drawWarmup(pen, theme, record, panels) {
  const [, last] = panels[0].steps;
  const begin = record.columns.adversarial_loss.steps[0] ?? last;
  if (!(record.columns.discriminator_loss.steps[0] < begin)) return [];
  const { left } = panels[0].box;
  const right = panels[0].x(begin);
  pen.globalAlpha = 0.1;
  pen.fillStyle = theme.muted;
  for (const { box } of panels) pen.fillRect(left, box.top, right - left, box.height);
  pen.globalAlpha = 1;
  const text = [say("warm-up of the discriminator"), say("warm-up")].find(
    (words) => pen.measureText(words).width < right - left - 8,
  );
  if (!text) return [];
  const { box, bottom } = panels[0];
  return [{ text, color: theme.muted, places: [[right - 4, bottom - 8, "right"], [right - 4, box.top + 8, "right"]] }];
}

/**
 * A line at the cursor's step, and a box with every value measured there.
 * @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {Panel[]} panels @param {number} step
 */
function drawReadout(pen, theme, panels, step) {
  const x = panels[0].x(step);
  const { left, top, width } = panels[0].box;
  pen.strokeStyle = theme.muted;
  pen.lineWidth = 1;
  for (const { box, bottom } of panels) line(pen, x, box.top, x, bottom);
  /** @type {{label: string, value: string, color: string}[]} */
  const rows = [];
  for (const panel of panels) {
    for (const { name, label, color } of panel.series) {
      const value = valueAt(panel.raw[name], step);
      if (value === undefined) continue;
      rows.push({ label: say(label), value: formatValue(value), color });
      pen.fillStyle = color;
      if (panel.shows(value)) disc(pen, x, panel.y(value), 3);
    }
  }
  const title = say("update {step}", { step });
  const widest = (/** @type {string[]} */ texts) => Math.max(0, ...texts.map((text) => pen.measureText(text).width));
  const labels = widest(rows.map((row) => row.label));
  const values = widest(rows.map((row) => row.value));
  const boxWidth = Math.max(labels + values + 42, pen.measureText(title).width + 16);
  const boxHeight = (rows.length + 1) * ROW + 8;
  const boxLeft = x + 10 + boxWidth < left + width ? x + 10 : Math.max(0, x - 10 - boxWidth);
  const boxTop = top + 6;
  pen.fillStyle = theme.background;
  pen.strokeStyle = theme.grid;
  pen.beginPath();
  pen.roundRect(boxLeft, boxTop, boxWidth, boxHeight, 4);
  pen.globalAlpha = 0.94;
  pen.fill();
  pen.globalAlpha = 1;
  pen.stroke();
  drawText(pen, title, boxLeft + 8, boxTop + 4 + ROW / 2, theme.muted, "left");
  rows.forEach((row, i) => {
    const y = boxTop + 4 + (i + 1.5) * ROW;
    pen.fillStyle = row.color;
    disc(pen, boxLeft + 12, y, 3.5);
    drawText(pen, row.label, boxLeft + 22, y, theme.text, "left");
    drawText(pen, row.value, boxLeft + boxWidth - 8, y, theme.text, "right");
  });
}
