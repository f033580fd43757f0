// Colours and patterns of the canvases, read from the style sheet so that both themes are in one place.

const NAMES = [
  "bg", "lane", "lane-alt", "line", "line-strong", "text", "muted", "accent", "wait-fill", "wait-line", "queued-fill", "queued-line", "running",
  "running-text", "input_required", "input_required-text", "completed", "completed-text", "failed", "failed-text", "cancelled",
  "arrow-value", "arrow-after", "arrow-state", "arrow-capacity", "header",
];

/** @typedef {{colour: Record<string, string>, font: string, fontSmall: string, fontBold: string, hatch: CanvasPattern, dots: CanvasPattern, stripes: CanvasPattern}} Theme */

/** @param {CanvasRenderingContext2D} context @returns {Theme} */
export function readTheme(context) {
  const style = getComputedStyle(document.documentElement);
  /** @type {Record<string, string>} */
  const colour = {};
  for (const name of NAMES) colour[name] = style.getPropertyValue(`--${name}`).trim();
  const family = style.getPropertyValue("--font").trim();
  return {
    colour,
    font: `12px ${family}`,
    fontSmall: `11px ${family}`,
    fontBold: `600 12px ${family}`,
    hatch: pattern(context, 7, colour["wait-fill"], (each) => {
      each.strokeStyle = colour["wait-line"];
      each.lineWidth = 1.4;
      each.beginPath();
      for (const x of [-7, 0, 7]) {
        each.moveTo(x, 7);
        each.lineTo(x + 7, 0);
      }
      each.stroke();
    }),
    dots: pattern(context, 5, colour["queued-fill"], (each) => {
      each.fillStyle = colour["queued-line"];
      each.beginPath();
      each.arc(2.5, 2.5, 1.1, 0, 7);
      each.fill();
    }),
    stripes: pattern(context, 8, "transparent", (each) => {
      each.strokeStyle = "rgba(255,255,255,0.15)";
      each.lineWidth = 2;
      each.beginPath();
      for (const x of [-8, 0, 8]) {
        each.moveTo(x, 0);
        each.lineTo(x + 8, 8);
      }
      each.stroke();
    }),
  };
}

/** @type {(context: CanvasRenderingContext2D, size: number, back: string, draw: (each: CanvasRenderingContext2D) => void) => CanvasPattern} */
function pattern(context, size, back, draw) {
  const scale = window.devicePixelRatio || 1;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.round(size * scale);
  const each = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  each.scale(canvas.width / size, canvas.width / size);
  each.fillStyle = back;
  each.fillRect(0, 0, size, size);
  draw(each);
  const made = /** @type {CanvasPattern} */ (context.createPattern(canvas, "repeat"));
  made.setTransform(new DOMMatrix().scale(size / canvas.width));
  return made;
}

/**
 * Give a canvas the size that it has on the page, in pixels of the screen.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
export function fitCanvas(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const w = Math.max(1, Math.round(width * scale));
  const h = Math.max(1, Math.round(height * scale));
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}
