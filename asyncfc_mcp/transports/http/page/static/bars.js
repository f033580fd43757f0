// Draws calls: a bar of phases each, its mark and its label. The phases differ by pattern and mark, not by colour alone.

import { phases } from "./state.js";
import { shorten, shortTool } from "./text.js";

const HEIGHT = 16;
const RADIUS = 4;

/** @type {Map<string, number>} */
const widths = new Map();

/** @param {CanvasRenderingContext2D} context @param {string} text */
export function measure(context, text) {
  const key = `${context.font}\n${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    if (widths.size > 20_000) widths.clear();
    width = context.measureText(text).width;
    widths.set(key, width);
  }
  return width;
}

/**
 * @typedef {{context: CanvasRenderingContext2D, theme: import("./theme.js").Theme, range: import("./axis.js").Range, now: number,
 *   beat: number}} Brush
 */

/**
 * Draw one call in its lane.
 * @param {Brush} brush
 * @param {import("./state.js").Entry} entry
 * @param {number} y top of the lane
 * @param {number} room first pixel of the next call in the lane
 */
export function drawBar(brush, entry, y, room) {
  const { context, theme, range, now } = brush;
  const { from, waitEnd, queueEnd, started, end } = phases(entry, now);
  const left = range.left - 20;
  const right = range.left + range.width + 20;
  const clamp = (/** @type {number} */ x) => Math.min(right, Math.max(left, x));
  const x0 = clamp(range.x(from));
  const xWait = clamp(range.x(waitEnd));
  const xQueue = clamp(range.x(queueEnd));
  const x1 = Math.max(clamp(range.x(end)), x0 + 1.5);
  const top = y + 4;
  const live = entry.ended_at === null || entry.ended_at === undefined;
  if (x1 - x0 < 4) {
    context.fillStyle = theme.colour[entry.state === "waiting" ? "wait-line" : entry.state];
    context.fillRect(x0, top, x1 - x0, HEIGHT);
    if (entry.state === "failed") flag(context, theme, x0, top);
    return;
  }
  context.save();
  context.beginPath();
  context.roundRect(x0, top, x1 - x0, HEIGHT, Math.min(RADIUS, (x1 - x0) / 2));
  context.clip();
  if (xWait - x0 > 0.5) fill(context, theme.hatch, x0, top, xWait - x0);
  if (xQueue - xWait > 0.5) fill(context, theme.dots, xWait, top, xQueue - xWait);
  if (started !== null) drawRun(brush, entry, xQueue, x1, top, live);
  context.restore();
  if (started === null || entry.state === "cancelled") outline(context, theme.colour[entry.state === "waiting" ? "wait-line" : entry.state], x0, top, x1);
  else if (xQueue - x0 > 2) outline(context, theme.colour["wait-line"], x0, top, xQueue);
  const xRun = started === null ? x1 : Math.max(xQueue, range.left);
  const markRoom = drawMark(brush, entry, xRun, x1, top);
  label(brush, entry, xRun, x1 - markRoom, x1 + (markRoom ? 0 : badgeWidth(entry)), top, room);
}

/** @type {(context: CanvasRenderingContext2D, style: string | CanvasPattern, x: number, y: number, width: number) => void} */
function fill(context, style, x, y, width) {
  context.fillStyle = style;
  context.fillRect(x, y, width, HEIGHT);
}

/** @type {(context: CanvasRenderingContext2D, colour: string, x0: number, top: number, x1: number) => void} */
function outline(context, colour, x0, top, x1) {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  context.roundRect(x0 + 0.5, top + 0.5, Math.max(1, x1 - x0 - 1), HEIGHT - 1, RADIUS - 0.5);
  context.stroke();
}

/** @type {(brush: Brush, entry: import("./state.js").Entry, x: number, x1: number, top: number, live: boolean) => void} */
function drawRun({ context, theme, beat }, entry, x, x1, top, live) {
  const width = Math.max(1.5, x1 - x);
  if (entry.state === "cancelled") {
    context.globalAlpha = 0.25;
    fill(context, theme.colour.cancelled, x, top, width);
    context.globalAlpha = 1;
    context.strokeStyle = theme.colour.cancelled;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x, top + HEIGHT / 2);
    context.lineTo(x + width, top + HEIGHT / 2);
    context.stroke();
    return;
  }
  fill(context, theme.colour[entry.state] ?? theme.colour.running, x, top, width);
  if (live) {
    context.save();
    context.translate(beat * 8, 0);
    fill(context, theme.stripes, x - 8, top, width + 8);
    context.restore();
    const { progress } = entry;
    if (progress && progress.total) {
      const share = Math.min(1, Math.max(0, progress.done / progress.total));
      context.fillStyle = "rgba(255,255,255,0.85)";
      context.fillRect(x, top + HEIGHT - 3, width * share, 3);
    }
  } else if (entry.state === "failed") {
    context.globalAlpha = 0.5;
    context.fillStyle = theme.stripes;
    context.fillRect(x, top, width, HEIGHT);
    context.globalAlpha = 1;
  }
}

/**
 * The mark at the end of a bar: a tick, a cross, a question mark.
 * @type {(brush: Brush, entry: import("./state.js").Entry, xRun: number, x1: number, top: number) => number}
 * @returns {number} the pixels that it takes within the bar
 */
function drawMark({ context, theme, range }, entry, xRun, x1, top) {
  const { state } = entry;
  const middle = top + HEIGHT / 2;
  if (x1 > range.left + range.width + 10) return 0;
  context.lineWidth = 1.6;
  context.lineCap = "round";
  if (state === "completed") {
    if (x1 - xRun < 24) return 0;
    context.strokeStyle = theme.colour["completed-text"];
    context.beginPath();
    context.moveTo(x1 - 14, middle);
    context.lineTo(x1 - 11, middle + 3);
    context.lineTo(x1 - 6, middle - 3.5);
    context.stroke();
    return 16;
  }
  if (state === "failed") {
    const inside = x1 - xRun >= 24;
    const x = inside ? x1 - 10 : x1 + 7;
    context.strokeStyle = inside ? theme.colour["failed-text"] : theme.colour.failed;
    context.beginPath();
    context.moveTo(x - 3.2, middle - 3.2);
    context.lineTo(x + 3.2, middle + 3.2);
    context.moveTo(x + 3.2, middle - 3.2);
    context.lineTo(x - 3.2, middle + 3.2);
    context.stroke();
    return inside ? 16 : 0;
  }
  if (state === "input_required") {
    context.fillStyle = theme.colour.input_required;
    context.strokeStyle = theme.colour.bg;
    context.beginPath();
    context.arc(x1, middle, 9, 0, 7);
    context.fill();
    context.stroke();
    context.fillStyle = theme.colour["input_required-text"];
    context.font = theme.fontBold;
    context.fillText("?", x1 - 3.2, middle + 4.2);
    return 0;
  }
  return 0;
}

/** @param {import("./state.js").Entry} entry */
function badgeWidth(entry) {
  return entry.state === "failed" ? 11 : entry.state === "input_required" ? 9 : 0;
}

/** @type {(context: CanvasRenderingContext2D, theme: import("./theme.js").Theme, x: number, top: number) => void} */
function flag(context, theme, x, top) {
  context.fillStyle = theme.colour.failed;
  context.beginPath();
  context.moveTo(x - 3, top - 4);
  context.lineTo(x + 5, top - 4);
  context.lineTo(x + 1, top + 2);
  context.fill();
}

/** @type {(brush: Brush, entry: import("./state.js").Entry, x0: number, x1: number, outer: number, top: number, room: number) => void} */
function label({ context, theme, range }, entry, x0, x1, outer, top, room) {
  const tool = shorten(shortTool(entry), 40);
  const extra = entry.name ? shorten(entry.name, 24) : shorten(entry.id, 12);
  context.font = theme.font;
  const width = measure(context, tool);
  const extraWidth = measure(context, extra) + 6;
  const y = top + 12;
  const from = Math.max(x0, range.left) + 6;
  const inside = Math.min(x1, range.left + range.width) - 5 - from;
  if (width <= inside) {
    context.fillStyle = entry.state === "cancelled" ? theme.colour.text : (theme.colour[`${entry.state}-text`] ?? theme.colour.text);
    context.fillText(tool, from, y);
    if (width + extraWidth <= inside) {
      context.globalAlpha = 0.72;
      context.fillText(extra, from + width + 6, y);
      context.globalAlpha = 1;
    }
    return;
  }
  const beside = outer + 6;
  const free = Math.min(room - 4, range.left + range.width) - beside;
  if (width > free || beside < range.left) return;
  context.fillStyle = theme.colour.text;
  context.fillText(tool, beside, y);
  if (width + extraWidth <= free) {
    context.fillStyle = theme.colour.muted;
    context.fillText(extra, beside + width + 6, y);
  }
}
