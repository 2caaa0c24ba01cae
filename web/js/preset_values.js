// @ts-check
/** Sets of values to start from. What they are founded on is in docs/TUNING.md; for a real FLUX it is extrapolated. */

/**
 * @typedef {Record<string, unknown>} Values by widget
 * @typedef {Record<string, Values>} Nodes by type; option nodes that are missing are added
 * @typedef {{name: string, about: string, diffusion?: Nodes, adversarial?: Nodes}} Preset what it sets in front of each stage
 */

import { phrase } from "./say.js";

const STAGE_1 = "FluxDuelTrainDiffusionStage";
const STAGE_2 = "FluxDuelTrainAdversarialStage";
const ENCODE = "FluxDuelEncodeRealLatents";
const OPTIMISER = "FluxDuelOptimiserOptions";
const NOISE = "FluxDuelNoiseOptions";
const ADVERSARIAL = "FluxDuelAdversarialOptions";
const JUDGED = "FluxDuelJudgedSampleOptions";

/** @param {number} resolution @returns {{diffusion: Nodes, adversarial: Nodes}} */
function card(resolution) {
  const shared = { [ENCODE]: { resolution }, [OPTIMISER]: { gradient_accumulation: 4 } };
  return {
    diffusion: { ...shared, [STAGE_1]: { batch_size: 1 } },
    adversarial: { ...shared, [STAGE_2]: { batch_size: 1 } },
  };
}

/** @type {Array<{title: string, presets: Preset[]}>} */
const groups = [
  {
    title: phrase("What is learned"),
    presets: [
      {
        name: phrase("style"),
        about: phrase("A way of drawing, from a few dozen pictures. Stage 2 holds to what stage 1 has learned, at guidance 3.5."),
        diffusion: { [STAGE_1]: { steps: 1000, learning_rate: 1e-4 } },
        adversarial: {
          [STAGE_2]: { steps: 300, learning_rate: 2e-5, adversarial_weight: 3 },
          [ADVERSARIAL]: { anchor: "start" },
          [NOISE]: { guidance: 3.5 },
        },
      },
      {
        name: phrase("character"),
        about: phrase("A person, a thing or an animal. Shorter, and gentler in stage 2, which must not change who it is."),
        diffusion: { [STAGE_1]: { steps: 800, learning_rate: 1e-4 } },
        adversarial: {
          [STAGE_2]: { steps: 200, learning_rate: 2e-5, adversarial_weight: 1 },
          [ADVERSARIAL]: { anchor: "start" },
          [NOISE]: { guidance: 3.5 },
        },
      },
      {
        name: phrase("texture"),
        about: phrase("Surfaces and materials, from a hundred pictures or more. Where stage 2 does most: it sharpens."),
        diffusion: { [STAGE_1]: { steps: 1500, learning_rate: 1e-4 } },
        adversarial: {
          [STAGE_2]: { steps: 300, learning_rate: 2e-5, adversarial_weight: 1.5 },
          [ADVERSARIAL]: { anchor: "pictures" },
          [NOISE]: { guidance: 1 },
        },
      },
    ],
  },
  {
    title: phrase("How it is sampled"),
    presets: [
      {
        name: phrase("few steps"),
        about: phrase("For 4 sampling steps."),
        adversarial: { [STAGE_2]: { target: "target_steps", target_steps: 4 } },
      },
      {
        name: phrase("many steps"),
        about: phrase("For 20 sampling steps and more."),
        adversarial: { [STAGE_2]: { target: "target_steps", target_steps: 25 } },
      },
      {
        name: phrase("both"),
        about: phrase("One LoRA for both: prompts for few steps begin with few_step_phrase. Practice prompts are then left out."),
        adversarial: {
          [STAGE_2]: { target: "two_samplers", target_steps: 4 },
          [ENCODE]: { few_step_phrase: "quick draft" },
          [JUDGED]: { practice_share: 0 },
        },
      },
    ],
  },
  {
    title: phrase("The card, for a real FLUX"),
    presets: [
      { name: "8 GB", about: phrase("512 pixels, one picture at a time. What is streamed is planned when a stage starts."), ...card(512) },
      { name: "12 GB", about: phrase("768 pixels, one picture at a time."), ...card(768) },
      { name: "24 GB", about: phrase("1024 pixels, one picture at a time."), ...card(1024) },
    ],
  },
];

export const GROUPS = Object.freeze(groups);
