// @ts-check
/** Keeps the buttons of training nodes in step with what is going on. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { count, follow, lookAgain, previewed } from "./run_buttons.js";

app.registerExtension({
  name: "FluxDuel.RunButtons",
  setup() {
    api.addEventListener("fluxduel.state", ({ detail }) => follow(detail));
    api.addEventListener("fluxduel.step", ({ detail }) => count(detail));
    api.addEventListener("fluxduel.preview", ({ detail }) => previewed(detail));
    api.addEventListener("reconnected", lookAgain);
  },
  afterConfigureGraph: lookAgain,
});
