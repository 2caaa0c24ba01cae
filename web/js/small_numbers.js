// @ts-check
/** Small numbers in the Nodes 2.0 of older frontends, which show 0.0001 as 0 and set 1 for a typed 0.00015. */

import { app } from "../../../scripts/app.js";

/** More than any step of the pack's numbers asks for. */
const DIGITS = 10;

app.registerExtension({
  name: "FluxDuel.SmallNumbers",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("FluxDuel")) return;
    for (const { options } of node.widgets ?? []) {
      // What those frontends' number field is given: it has three digits by itself. Others do not look at it.
      if (options?.precision) options.maxFractionDigits = DIGITS;
    }
  },
});
