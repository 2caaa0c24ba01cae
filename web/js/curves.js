// @ts-check
/** The arithmetic of the chart: thinning, axis ranges, ticks, numbers as text. No DOM in here. */

/**
 * Which points to draw when there are more of them than pixels: of each pixel column the first, the lowest, the
 * highest and the last, in their order. The line through them covers the same pixels as the line through all.
 *
 * @param {ArrayLike<number>} steps ascending
 * @param {ArrayLike<number>} values
 * @param {number} low step at the left edge
 * @param {number} high step at the right edge
 * @param {number} columns width in pixels
 * @returns {number[]} indices, ascending
 */
export function decimate(steps, values, low, high, columns) {
  const count = steps.length;
  if (count <= 2 * columns || high <= low) return Array.from({ length: count }, (_, i) => i);
  /** @type {number[]} */
  const kept = [];
  const columnOf = (/** @type {number} */ i) => Math.floor(((steps[i] - low) / (high - low)) * columns);
  let start = 0;
  while (start < count) {
    const column = columnOf(start);
    let lowest = start;
    let highest = start;
    let end = start;
    while (end < count && columnOf(end) === column) {
      if (values[end] < values[lowest]) lowest = end;
      if (values[end] > values[highest]) highest = end;
      end++;
    }
    const chosen = new Set([start, lowest, highest, end - 1]);
    kept.push(...[...chosen].sort((a, b) => a - b));
    start = end;
  }
  return kept;
}

/**
 * The range that an axis should show: all of `lines`, and of `clouds` what is left without the most extreme
 * hundredth on either side, so that one wild batch does not flatten the curve.
 *
 * @param {ArrayLike<number>[]} lines
 * @param {ArrayLike<number>[]} clouds
 * @returns {[number, number] | undefined} undefined when there are no values
 */
export function valueRange(lines, clouds) {
  let low = Infinity;
  let high = -Infinity;
  const cover = (/** @type {number} */ value) => {
    low = Math.min(low, value);
    high = Math.max(high, value);
  };
  for (const line of lines) for (let i = 0; i < line.length; i++) cover(line[i]);
  for (const cloud of clouds) {
    if (cloud.length === 0) continue;
    const sorted = Float64Array.from(cloud).sort();
    const cut = Math.floor(sorted.length / 100);
    cover(sorted[cut]);
    cover(sorted[sorted.length - 1 - cut]);
  }
  if (low > high) return undefined;
  if (low < high) return [low, high];
  const margin = Math.abs(low) / 10 || 1;
  return [low - margin, high + margin];
}

/**
 * About `count` round numbers (1, 2 or 5 times a power of ten apart) inside [low, high].
 *
 * @param {number} low
 * @param {number} high
 * @param {number} count
 * @returns {number[]}
 */
export function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const gap = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999) ?? rough;
  const ticks = [];
  for (let i = Math.ceil(low / gap - 1e-9); i * gap <= high + gap * 1e-9; i++) {
    ticks.push(Number((i * gap).toPrecision(12)));
  }
  return ticks;
}

/**
 * Ticks of a logarithmic axis: powers of ten, with 2 and 5 times them where there is room; plain round numbers
 * when [low, high] spans too little for that.
 *
 * @param {number} low above 0
 * @param {number} high
 * @param {number} count
 * @returns {number[]}
 */
export function logTicks(low, high, count) {
  for (const factors of [[1, 2, 5], [1]]) {
    const ticks = [];
    for (let exponent = Math.floor(Math.log10(low)); exponent <= Math.log10(high); exponent++) {
      for (const factor of factors) ticks.push(Number((factor * 10 ** exponent).toPrecision(12)));
    }
    const inside = ticks.filter((tick) => tick >= low && tick <= high);
    if (inside.length < 3) return linearTicks(low, high, count).filter((tick) => tick > 0);
    if (inside.length <= 2 * count) return inside;
  }
  const decades = Math.ceil(Math.log10(high / low) / count);
  const ticks = [];
  for (let exponent = Math.ceil(Math.log10(low)); exponent <= Math.log10(high); exponent += decades) {
    ticks.push(Number((10 ** exponent).toPrecision(12)));
  }
  return ticks;
}

/** A loss with four significant digits: 0.4231, 12.35, 3.1e-5. @param {number} value */
export function formatValue(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  if (size >= 1000) return value.toFixed(0);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

/** A tick as short as it can be: 0.25, 1000, 20k, 1e-5. @param {number} value */
export function formatTick(value) {
  const size = Math.abs(value);
  if (size >= 10_000) return `${Number((value / 1000).toPrecision(6))}k`;
  if (size !== 0 && size < 1e-3) return value.toExponential().replace("e+", "e");
  return String(Number(value.toPrecision(6)));
}

/** 8 s, 3 min 20 s, 2 h 5 min. @param {number} seconds */
export function formatDuration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** 12 ms/step, 0.83 s/step, 14 s/step. @param {number} seconds */
export function formatPace(seconds) {
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms/step`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 0)} s/step`;
}

/** 840 MiB, 11.2 GiB. @param {number} bytes */
export function formatMemory(bytes) {
  const gib = bytes / 2 ** 30;
  return gib < 1 ? `${Math.round(gib * 1024)} MiB` : `${gib.toFixed(1)} GiB`;
}
