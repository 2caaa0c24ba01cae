// @ts-check
/** Colours of the pack's own sockets and wires, in both renderers and under every theme. */

import { app } from "../../../scripts/app.js";

/** Readable on the dark and the light canvas. @type {Record<string, string>} */
const COLORS = {
  FLUXDUEL_FLUX_LORA: "#b07cf0",
  FLUXDUEL_REAL_LATENTS: "#2fa8c9",
  FLUXDUEL_DISCRIMINATOR: "#e08a2e",
  FLUXDUEL_TRAINING_LOG: "#8a9a3c",
  FLUXDUEL_OPTIONS: "#7d8ca3",
};

/** Give each type its colour where the theme has none of its own: themes blank the types that they do not know. */
function paint() {
  const { canvas } = app;
  const { link_type_colors: wires } = /** @type {{ link_type_colors?: Record<string, string> }} */ (
    /** @type {unknown} */ (canvas.constructor)
  );
  const palettes = [canvas.default_connection_color_byType, wires];
  for (const [type, color] of Object.entries(COLORS)) {
    for (const palette of palettes) if (palette) palette[type] ||= color;
    const { style } = document.documentElement;
    const name = `--color-datatype-${type}`;
    if (!style.getPropertyValue(name)) style.setProperty(name, color);
  }
}

app.registerExtension({
  name: "FluxDuel.Sockets",
  setup() {
    paint();
    // A theme that is chosen later blanks them again.
    const themes = new MutationObserver(paint);
    for (const element of [document.documentElement, document.body]) {
      themes.observe(element, { attributes: true, attributeFilter: ["style", "class"] });
    }
  },
  afterConfigureGraph: paint,
});
