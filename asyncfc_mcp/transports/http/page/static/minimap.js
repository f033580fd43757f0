// The strip above the time line: all calls that the page knows, and which part of them is visible. Drag it to move.

import { at, throttled } from "./dom.js";
import { Range } from "./axis.js";
import { endOf } from "./layout.js";
import { fitCanvas } from "./theme.js";

export const HEIGHT = 34;

export class Minimap {
  /**
   * @param {import("./state.js").Store} store
   * @param {{range: Range, moved: () => void}} line
   */
  constructor(store, line) {
    this._store = store;
    this._line = line;
    this._canvas = /** @type {HTMLCanvasElement} */ (at("minimap"));
    this._all = new Range();
    /** @type {{count: Float32Array, failed: Uint8Array, most: number}} */
    this._density = { count: new Float32Array(1), failed: new Uint8Array(1), most: 1 };
    this._width = 1;
    this._stale = true;
    const refresh = throttled(() => { this._stale = true; line.moved(); }, 500);
    store.on("calls", refresh);
    store.on("filter", refresh);
    this._listen();
  }

  resize() {
    this._stale = true;
  }

  /** @param {import("./theme.js").Theme} theme @param {number} now */
  draw(theme, now) {
    const width = this._canvas.clientWidth;
    if (!width) return;
    const context = fitCanvas(this._canvas, width, HEIGHT);
    if (this._stale || width !== this._width) this._count(width, now);
    const { range } = this._line;
    this._all.to = Math.max(now, this._all.from + 1);
    const { count, failed, most } = this._density;
    context.clearRect(0, 0, width, HEIGHT);
    const step = width / count.length;
    for (let n = 0; n < count.length; n += 1) {
      if (!count[n]) continue;
      const height = Math.max(3, (Math.sqrt(count[n] / most)) * (HEIGHT - 8));
      context.fillStyle = theme.colour.completed;
      context.globalAlpha = 0.75;
      context.fillRect(n * step, HEIGHT - 2 - height, step + 0.2, height);
      context.globalAlpha = 1;
      if (failed[n]) {
        context.fillStyle = theme.colour.failed;
        context.fillRect(n * step, HEIGHT - 5, Math.max(2, step), 3);
      }
    }
    const x0 = Math.max(0, Math.min(width - 4, this._all.x(range.from)));
    const x1 = Math.max(x0 + 4, Math.min(width, this._all.x(range.to)));
    context.fillStyle = theme.colour.bg;
    context.globalAlpha = 0.62;
    context.fillRect(0, 0, x0, HEIGHT);
    context.fillRect(x1, 0, width - x1, HEIGHT);
    context.globalAlpha = 1;
    context.strokeStyle = theme.colour.accent;
    context.lineWidth = 1.5;
    context.beginPath();
    context.roundRect(x0 + 0.75, 0.75, Math.max(3, x1 - x0 - 1.5), HEIGHT - 1.5, 4);
    context.stroke();
  }

  /** @type {(width: number, now: number) => void} */
  _count(width, now) {
    this._stale = false;
    this._width = width;
    const all = this._store.shown();
    let from = Infinity;
    for (const each of all) from = Math.min(from, each.submitted_at);
    if (!Number.isFinite(from)) from = now - 60;
    this._all.from = from - Math.max(1, (now - from) * 0.01);
    this._all.to = now;
    this._all.left = 0;
    this._all.width = width;
    const buckets = Math.max(1, Math.floor(width / 3));
    const changes = new Float32Array(buckets + 1);
    const failed = new Uint8Array(buckets);
    const place = (/** @type {number} */ at) => Math.min(buckets - 1, Math.max(0, Math.floor((this._all.x(at) / width) * buckets)));
    for (const each of all) {
      const first = place(each.submitted_at);
      const last = place(Math.min(now, endOf(each)));
      changes[first] += 1;
      changes[last + 1] -= 1;
      if (each.state === "failed") failed[last] = 1;
    }
    const count = new Float32Array(buckets);
    let sum = 0;
    let most = 1;
    for (let n = 0; n < buckets; n += 1) {
      sum += changes[n];
      count[n] = sum;
      most = Math.max(most, sum);
    }
    this._density = { count, failed, most };
  }

  _listen() {
    const move = (/** @type {PointerEvent} */ event) => {
      const { range } = this._line;
      const around = this._all.time(event.clientX - this._canvas.getBoundingClientRect().left);
      range.move(around - (range.from + range.to) / 2);
      this._line.moved();
    };
    this._canvas.addEventListener("pointerdown", (event) => {
      this._canvas.setPointerCapture(event.pointerId);
      this._canvas.dispatchEvent(new CustomEvent("taken"));
      move(event);
    });
    this._canvas.addEventListener("pointermove", (event) => {
      if (this._canvas.hasPointerCapture(event.pointerId)) move(event);
    });
  }
}
