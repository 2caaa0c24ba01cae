// @ts-check
/** A word where Run did not wait for all of the check before it. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { say } from "./say.js";

app.registerExtension({
  name: "FluxDuel.CheckNotice",
  setup() {
    api.addEventListener("fluxduel.unchecked", ({ detail }) => {
      app.extensionManager.toast.add({
        severity: "warn",
        summary: say("Run goes on before all was checked"),
        detail: detail.parts.join("; "),
        life: 12_000,
      });
    });
  },
});
