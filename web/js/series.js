// @ts-check
/** The curves: their names in the messages, their labels and colours. */

/** @typedef {import("./comfy").Stage} Stage */
/** @typedef {{name: string, label: string, color: string, dashed?: boolean, markers?: boolean}} Series */

/* The colours stay apart on dark and on light ground, and for colour-blind readers. */

/** @type {Series[]} */
const LOSSES = [
  { name: "diffusion_loss", label: "diffusion", color: "#3d8fe0" },
  { name: "adversarial_loss", label: "adversarial", color: "#e07b1f" },
  { name: "discriminator_loss", label: "discriminator", color: "#b266d9" },
  { name: "held_out_loss", label: "held-out", color: "#3d8fe0", markers: true },
];
/** @type {Series[]} */
export const ACCURACIES = [
  { name: "real_accuracy", label: "accuracy on real", color: "#22a07f" },
  { name: "fake_accuracy", label: "on fake", color: "#e0524a", dashed: true },
  { name: "pair_accuracy", label: "on pairs", color: "#d9a21b" },
];
/** @type {Record<Stage, Series[]>} */
export const LOSSES_OF = {
  diffusion: LOSSES.filter(({ name }) => name === "diffusion_loss" || name === "held_out_loss"),
  adversarial: LOSSES,
};
