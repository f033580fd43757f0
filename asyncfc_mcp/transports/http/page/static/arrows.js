// Draws what calls wait for: an arrow from the call that was waited for to where the waiting one starts. Kinds differ by
// line and head, not by colour alone.

import { phases } from "./state.js";

/** @type {Record<string, number[]>} */
const DASHES = { value: [], after: [6, 4], state: [2, 3], capacity: [10, 3, 2, 3] };

/**
 * @param {import("./bars.js").Brush} brush
 * @param {{entry: import("./state.js").Entry, y: number}} from the call that is waited for
 * @param {{entry: import("./state.js").Entry, y: number}} to the call that waits
 * @param {string} kind
 * @param {boolean} strong
 */
export function drawArrow({ context, theme, range, now }, from, to, kind, strong) {
  const source = phases(from.entry, now);
  const target = phases(to.entry, now);
  const x0 = range.x(source.end);
  const x1 = range.x(Math.max(target.started ?? target.end, target.from));
  const left = range.left;
  if (Math.max(x0, x1) < left - 40 || Math.min(x0, x1) > left + range.width + 40) return;
  const y0 = from.y + 12;
  const y1 = to.y + 12;
  const bend = Math.min(36, Math.max(14, Math.abs(y1 - y0) / 3));
  const tip = x1 - 1;
  context.save();
  context.globalAlpha = strong ? 1 : 0.6;
  context.strokeStyle = context.fillStyle = theme.colour[`arrow-${kind}`] ?? theme.colour.muted;
  context.lineWidth = strong ? 2 : 1.3;
  context.lineCap = "butt";
  context.setLineDash(DASHES[kind] ?? []);
  context.beginPath();
  context.moveTo(x0, y0);
  context.bezierCurveTo(x0 + bend, y0, tip - 7 - bend, y1, tip - 7, y1);
  context.stroke();
  context.setLineDash([]);
  drawHead(context, kind, tip, y1);
  context.restore();
}

/** @type {(context: CanvasRenderingContext2D, kind: string, x: number, y: number) => void} */
function drawHead(context, kind, x, y) {
  context.beginPath();
  if (kind === "capacity") {
    context.arc(x - 4, y, 3.2, 0, 7);
    context.stroke();
  } else if (kind === "state") {
    context.moveTo(x - 8, y);
    context.lineTo(x - 4, y - 3.5);
    context.lineTo(x, y);
    context.lineTo(x - 4, y + 3.5);
    context.fill();
  } else if (kind === "after") {
    context.moveTo(x - 7, y - 4);
    context.lineTo(x, y);
    context.lineTo(x - 7, y + 4);
    context.stroke();
  } else {
    context.moveTo(x - 8, y - 4);
    context.lineTo(x, y);
    context.lineTo(x - 8, y + 4);
    context.fill();
  }
}
