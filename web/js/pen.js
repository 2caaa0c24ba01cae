// @ts-check
/** Strokes on a canvas, and the colours of the editor's theme. */

import { mutedColor } from "./elements.js";

/** @typedef {{text: string, muted: string, grid: string, background: string, ground: string}} Theme */

export const FONT = "11px Inter, system-ui, sans-serif";

/** @param {HTMLElement} element @returns {Theme} the theme's colours where the element is */
export function readTheme(element) {
  const style = getComputedStyle(element);
  const read = (/** @type {string} */ name, /** @type {string} */ otherwise) =>
    style.getPropertyValue(name).trim() || otherwise;
  const text = read("--input-text", "#ddd");
  const ground = read("--comfy-input-bg", "#222");
  return {
    text,
    muted: mutedColor(text, ground),
    grid: read("--border-color", "#4e4e4e"),
    background: read("--comfy-menu-bg", "#353535"),
    ground,
  };
}

/** @param {CanvasRenderingContext2D} pen @param {string} text @param {number} x @param {number} y @param {string} color @param {CanvasTextAlign} align */
export function drawText(pen, text, x, y, color, align) {
  pen.fillStyle = color;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.fillText(text, x, y);
}

/** Text that lies over curves: with a rim of the ground around it. @param {CanvasRenderingContext2D} pen @param {Theme} theme @param {string} text @param {number} x @param {number} y @param {string} color @param {CanvasTextAlign} align */
export function drawLabel(pen, theme, text, x, y, color, align) {
  pen.strokeStyle = theme.ground;
  pen.lineWidth = 3;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.strokeText(text, x, y);
  drawText(pen, text, x, y, color, align);
}

/** @param {CanvasRenderingContext2D} pen @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1 */
export function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

/** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {number} radius */
export function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

/** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {string} stroke @param {string} fill */
export function diamond(pen, x, y, stroke, fill) {
  const radius = 4;
  pen.beginPath();
  pen.moveTo(x, y - radius);
  pen.lineTo(x + radius, y);
  pen.lineTo(x, y + radius);
  pen.lineTo(x - radius, y);
  pen.closePath();
  pen.fillStyle = fill;
  pen.fill();
  pen.strokeStyle = stroke;
  pen.lineWidth = 1.5;
  pen.stroke();
}

/** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {number} radius @param {string} color */
export function ring(pen, x, y, radius, color) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.strokeStyle = color;
  pen.lineWidth = 1.5;
  pen.stroke();
}
