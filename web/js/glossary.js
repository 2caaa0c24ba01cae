// @ts-check
/** The words and colours of a run's curves: those of training/evidence/glossary.py, by the names of the messages. */

/** @typedef {{label: string, color: string}} Term */

/** @type {Record<string, Term>} */
export const GLOSSARY = {
  "diffusion_loss": { "label": "flow loss", "color": "#3d8fe0" },
  "held_out_loss": { "label": "held-out flow loss", "color": "#3d8fe0" },
  "adversarial_loss": { "label": "adversarial loss", "color": "#e07b1f" },
  "discriminator_loss": { "label": "discriminator loss", "color": "#b266d9" },
  "score": { "label": "score", "color": "#c2456e" },
  "diversity": { "label": "diversity", "color": "#8a6d3b" },
  "high_frequency": { "label": "high frequencies", "color": "#5b7bd5" },
  "real_accuracy": { "label": "accuracy on real", "color": "#22a07f" },
  "fake_accuracy": { "label": "accuracy on fake", "color": "#e0524a" },
  "pair_accuracy": { "label": "pair accuracy", "color": "#b8860b" }
};
