// @ts-check
/** Where words in a chart stand: inside its axes, and none over another. No canvas in here. */

/** @typedef {{left: number, top: number, width: number, height: number}} Box in CSS pixels */
/** @typedef {"left" | "center" | "right"} Align */
/** @typedef {[x: number, y: number, align: Align]} Place x of the side that `align` names, y of the middle of the line */
/** @typedef {{text: string, color: string, places: Place[]}} Label places: where it may stand, the best first */
/** @typedef {{text: string, color: string, x: number, y: number, align: Align}} Placed */

const HEIGHT = 12;

/**
 * Each label at the first of its places that is free; one without a free place is left out. One that would reach over
 * the left or right edge is moved inside.
 *
 * @param {Label[]} labels the more important ones first
 * @param {Box} box
 * @param {Box[]} taken what they must not cover
 * @param {(text: string) => number} widthOf in CSS pixels
 * @returns {Placed[]}
 */
export function placeLabels(labels, box, taken, widthOf) {
  const used = [...taken];
  /** @type {Placed[]} */
  const placed = [];
  for (const { text, color, places } of labels) {
    const width = widthOf(text);
    if (width > box.width) continue;
    for (const [x, y, align] of places) {
      const wanted = x - { left: 0, center: 0.5, right: 1 }[align] * width;
      const left = Math.min(Math.max(wanted, box.left), box.left + box.width - width);
      const own = { left, top: y - HEIGHT / 2, width, height: HEIGHT };
      if (own.top < box.top || own.top + HEIGHT > box.top + box.height || used.some((other) => cover(own, other))) continue;
      used.push(own);
      placed.push({ text, color, x: x + left - wanted, y, align });
      break;
    }
  }
  return placed;
}

/** @param {Box} one @param {Box} other */
function cover(one, other) {
  return (
    one.left < other.left + other.width &&
    other.left < one.left + one.width &&
    one.top < other.top + other.height &&
    other.top < one.top + one.height
  );
}
