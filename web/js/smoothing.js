// @ts-check
/** The smoothed line through a curve; training/evidence/smoothing.py draws the same one. */

/** Updates over which a weight falls to 1/e: a twentieth of the plan, so that a curve's past does not change shape. */
export function smoothingWindow(/** @type {number} */ total) {
  return Math.min(100, Math.max(1, total / 20));
}

/**
 * At each step the straight line that fits the values around it best, with weights exp(-|distance| / width). Such a
 * local linear fit does not lag behind a slope as a trailing mean does, not even at the end of the curve.
 *
 * @param {ArrayLike<number>} steps ascending, with gaps or without
 * @param {ArrayLike<number>} values
 * @param {number} width above 0, in steps
 * @returns {Float64Array} nothing leaves the range of the values
 */
export function smooth(steps, values, width) {
  const count = values.length;
  const fitted = new Float64Array(count);
  // Five sums over each point and all after it; those over all before are made on the way back.
  const after = new Float64Array(5 * count);
  let weight = 0, first = 0, second = 0, mean = 0, moment = 0;
  let gapBefore = -1, decay = 1;
  const move = (/** @type {number} */ gap, /** @type {number} */ value) => {
    if (gap !== gapBefore) {
      gapBefore = gap;
      decay = Math.exp(-gap / width);
    }
    second = decay * (second - 2 * gap * first + gap * gap * weight);
    first = decay * (first - gap * weight);
    moment = decay * (moment - gap * mean);
    weight = decay * weight + 1;
    mean = decay * mean + value;
  };
  let low = Infinity, high = -Infinity;
  for (let i = count - 1; i >= 0; i--) {
    move(i === count - 1 ? 0 : steps[i + 1] - steps[i], values[i]);
    const at = 5 * i;
    after[at] = weight;
    after[at + 1] = first;
    after[at + 2] = second;
    after[at + 3] = mean;
    after[at + 4] = moment;
    low = Math.min(low, values[i]);
    high = Math.max(high, values[i]);
  }
  weight = first = second = mean = moment = 0;
  for (let i = 0; i < count; i++) {
    move(i === 0 ? 0 : steps[i] - steps[i - 1], values[i]);
    // The point itself is in both sides; distances of the later side count the other way.
    const at = 5 * i;
    const w = weight + after[at] - 1;
    const x = first - after[at + 1];
    const xx = second + after[at + 2];
    const v = mean + after[at + 3] - values[i];
    const xv = moment - after[at + 4];
    const spread = w * xx - x * x;
    const fit = spread > 1e-9 * w * w ? (v * xx - xv * x) / spread : v / w;
    fitted[i] = Math.min(high, Math.max(low, fit));
  }
  return fitted;
}
