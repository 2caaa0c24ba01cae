// @ts-check
/** Which curves a stage's chart has, and in which panels. */

import { GLOSSARY } from "./glossary.js";

/** @typedef {import("./comfy").Stage} Stage */
/**
 * @typedef {object} Series
 * @property {string} name in the messages
 * @property {string} label
 * @property {string} color
 * @property {boolean} [dashed]
 * @property {boolean} [markers] measured now and then, and drawn as it is
 * @property {boolean} [relative] drawn as a share of its first value
 * @property {boolean} [spare] left out where there is little room
 */
/**
 * @typedef {object} PanelPlan
 * @property {Series[]} series
 * @property {number} weight share of the height
 * @property {string} [start] the series whose value before the first update is drawn as a line
 * @property {number} [level] a line at this value
 * @property {[number, number]} [range] of the axis, where it is always the same
 * @property {number[]} [ticks] those of a fixed range
 * @property {boolean} [losses] may have a logarithmic axis
 * @property {boolean} [best] the best state is marked
 */

/** @param {string} name @param {Partial<Series>} [how] @returns {Series} */
function series(name, how = {}) {
  return { name, ...GLOSSARY[name], ...how };
}

const HELD_OUT = series("held_out_loss", { markers: true });

/** @type {Record<Stage, PanelPlan[]>} */
export const PANELS = {
  diffusion: [{ series: [series("diffusion_loss"), HELD_OUT], weight: 1, start: "held_out_loss", losses: true }],
  adversarial: [
    {
      series: [series("diffusion_loss"), series("adversarial_loss"), series("discriminator_loss"), HELD_OUT],
      weight: 3,
      start: "held_out_loss",
      losses: true,
    },
    { series: [series("score", { markers: true })], weight: 1.7, start: "score", best: true },
    {
      series: [series("diversity", { markers: true, relative: true }), series("high_frequency", { markers: true })],
      weight: 1.4,
      level: 1,
    },
    {
      series: [series("real_accuracy", { spare: true }), series("fake_accuracy", { dashed: true, spare: true }), series("pair_accuracy")],
      weight: 1.6,
      level: 0.5,
      range: [-0.03, 1.03],
      ticks: [0, 0.5, 1],
    },
  ],
};

/** @param {PanelPlan} plan @returns {PanelPlan} */
export function withoutSpare(plan) {
  return { ...plan, series: plan.series.filter(({ spare }) => !spare) };
}

/** @param {Stage} stage @returns {Series[]} */
export function seriesOf(stage) {
  return PANELS[stage].flatMap((plan) => plan.series);
}
