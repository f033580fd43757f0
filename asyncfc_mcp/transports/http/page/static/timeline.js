// The time line: what of it is visible, and when it is drawn. Owns the range, following the present and the canvases;
// leaves input to `gestures`, places to `layout`, drawing to `bars`, `arrows` and `minimap`.

import { drawArrow } from "./arrows.js";
import { Range, ticks } from "./axis.js";
import { drawBar, measure } from "./bars.js";
import { at, setText, throttled } from "./dom.js";
import { endOf, firstAfter, HEADER, Lanes, rowAt, savedIn } from "./layout.js";
import { Minimap } from "./minimap.js";
import { LIVE } from "./state.js";
import { duration, plural, shorten } from "./text.js";
import { fitCanvas, readTheme } from "./theme.js";

const GUTTER = 128;
const AXIS = 24;
/** With more visible calls than this, arrows are drawn for the call under the pointer and the selected one only. */
const FEW = 150;
/** Most calls that "latest" shows. */
const LATEST = 80;
/** A pause in the calls of this many seconds separates what "latest" shows. */
const PAUSE_S = 90;

/** @typedef {import("./state.js").Entry} Entry */

export class TimeLine {
  /** @param {import("./state.js").Store} store */
  constructor(store) {
    this.store = store;
    this.range = new Range();
    this.lanes = new Lanes();
    /** @type {import("./layout.js").Row[]} */
    this.rows = [];
    this.height = 0;
    /** @type {string | null} */
    this.hovered = null;
    this.canvas = /** @type {HTMLCanvasElement} */ (at("lanes"));
    this.axis = /** @type {HTMLCanvasElement} */ (at("axis"));
    this.scroller = /** @type {HTMLElement} */ (at("scroller"));
    this.following = true;
    this._placed = false;
    this._theme = readTheme(/** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d")));
    this._calm = matchMedia("(prefers-reduced-motion: reduce)");
    this._frame = 0;
    /** @type {Map<string, number>} */
    this._top = new Map();
    this._size = { width: 1, height: 1 };
    this.moved = () => this.draw();
    this.minimap = new Minimap(store, this);
    store.on("calls", throttled(() => this._take(), 100));
    store.on("filter", throttled(() => this._rebuild()));
    store.on("selection", () => this.draw());
    store.on("view", () => this.draw());
    new ResizeObserver(() => this._resize()).observe(at("stage"));
    for (const query of ["(prefers-color-scheme: light)", `(resolution: ${window.devicePixelRatio}dppx)`]) {
      matchMedia(query).addEventListener("change", () => this._repaint());
    }
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    setInterval(() => this._tick(), 1000);
    this._resize();
  }

  get narrow() {
    return this._size.width < 640;
  }

  // -- what is visible

  /** Draw with the next frame. */
  draw() {
    if (!this._frame) this._frame = requestAnimationFrame(() => this._draw());
  }

  /** @param {boolean} on */
  follow(on) {
    if (on && !this.following) this.range.move(this.store.now() + this._lead - this.range.to);
    this.following = on;
    at("follow").setAttribute("aria-pressed", String(on));
    this.draw();
  }

  /** @param {number} factor @param {number} [around] */
  zoom(factor, around) {
    const now = this.store.now();
    const fixed = this.following ? now : (around ?? (this.range.from + this.range.to) / 2);
    this.range.zoom(factor, fixed);
    this.draw();
  }

  /** @param {number} seconds */
  pan(seconds) {
    this.follow(false);
    this.range.move(seconds);
    this.draw();
  }

  /** Show all calls that pass the filter. */
  fit() {
    const [from, to] = this._extent(Infinity);
    if (from === null) return this.follow(true);
    this.range.show(from, to);
    this.follow(false);
  }

  /** Show the latest calls: those without a long pause between them. */
  latest() {
    const [from, to] = this._extent(PAUSE_S, LATEST);
    const now = this.store.now();
    if (from === null || now - to < PAUSE_S) {
      const span = Math.min(900, Math.max(12, from === null ? 60 : (now - from) * 1.15));
      this.range.from = now - span;
      this.range.to = now;
      this.range.move(this._lead);
      this.follow(true);
    } else {
      this.range.show(from, Math.max(to, from + 5));
      this.follow(false);
    }
  }

  /** Bring a call into view. @param {string} id */
  reveal(id) {
    const entry = this.store.entries.get(id);
    const y = this._top.get(id);
    if (!entry || y === undefined) return;
    const end = Math.min(endOf(entry), this.store.now());
    if (entry.submitted_at > this.range.to || end < this.range.from) {
      this.follow(false);
      this.range.move((entry.submitted_at + end) / 2 - (this.range.from + this.range.to) / 2);
    }
    const view = this.scroller.clientHeight;
    if (y < this.scroller.scrollTop + HEADER) this.scroller.scrollTop = y - HEADER;
    else if (y + HEADER > this.scroller.scrollTop + view) this.scroller.scrollTop = y + HEADER * 2 - view;
    this.draw();
  }

  /**
   * What is at a place of the canvas.
   * @param {number} x
   * @param {number} y
   * @returns {{entry?: Entry, row?: import("./layout.js").Row}}
   */
  hit(x, y) {
    const row = this.rows[rowAt(this.rows, y + this.scroller.scrollTop)];
    if (!row || row.y > y + this.scroller.scrollTop) return {};
    if (row.kind !== "lane" || !row.lane || x < this.range.left) return { row };
    const slack = (5 / this.range.width) * this.range.span;
    const time = this.range.time(x);
    const { bars } = row.lane;
    const now = this.store.now();
    for (let n = firstAfter(bars, time + slack) - 1; n >= 0 && n > firstAfter(bars, time + slack) - 3; n -= 1) {
      if (Math.min(endOf(bars[n]), now) + slack >= time) return { entry: bars[n], row };
    }
    return { row };
  }

  /** Fold a conversation, or show its calls again. @param {string} key */
  fold(key) {
    if (!this.lanes.collapsed.delete(key)) this.lanes.collapsed.add(key);
    this._places();
  }

  // -- data

  _take() {
    if (!this._placed && this.store.entries.size) return this._rebuild();
    for (const id of this.store.changed) {
      const entry = this.store.entries.get(id);
      if (entry && this.store.passes(entry)) this.lanes.put(entry);
      else if (this.lanes.places.has(id)) return this._rebuild();
    }
    this.store.changed.clear();
    this._places();
  }

  _rebuild() {
    this.store.changed.clear();
    this.lanes.rebuild(this.store.shown());
    this._places();
    if (!this._placed && this.store.entries.size) {
      this._placed = true;
      this.latest();
    }
  }

  _places() {
    const { rows, height } = this.lanes.rows(this.narrow);
    this.rows = rows;
    this.height = height;
    this._top.clear();
    for (const row of rows) for (const bar of row.lane?.bars ?? []) this._top.set(bar.id, row.y);
    at("height").style.height = `${Math.max(0, height - this._size.height)}px`;
    this.draw();
  }

  /** @type {(pause: number, most?: number) => [number, number] | [null, 0]} */
  _extent(pause, most = Infinity) {
    const now = this.store.now();
    const all = this.store.shown().sort((a, b) => b.submitted_at - a.submitted_at);
    if (!all.length) return [null, 0];
    let from = all[0].submitted_at;
    let to = -Infinity;
    for (const each of all.slice(0, most)) {
      if (from - Math.min(endOf(each), now) > pause) break;
      from = Math.min(from, each.submitted_at);
      to = Math.max(to, Math.min(endOf(each), now));
    }
    return [from, to];
  }

  // -- drawing

  get _lead() {
    return this.range.span * 0.06;
  }

  _tick() {
    // With reduced motion the present moves once a second; otherwise each frame asks for the next one.
    if (this.following || this._anyLive()) this.draw();
  }

  _anyLive() {
    const counts = this.store.overview?.counts;
    if (counts) return counts.running + counts.waiting + counts.input_required > 0;
    return [...this.store.entries.values()].some((each) => LIVE.has(each.state));
  }

  _resize() {
    this._size = { width: this.scroller.clientWidth, height: this.scroller.clientHeight };
    this.range.left = this.narrow ? 6 : GUTTER;
    this.range.width = Math.max(40, this._size.width - this.range.left);
    this.minimap.resize();
    this._places();
  }

  _repaint() {
    this._theme = readTheme(/** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d")));
    this.minimap.resize();
    this.draw();
  }

  _draw() {
    this._frame = 0;
    if (this.store.view !== "timeline" || document.hidden) return;
    const now = this.store.now();
    if (this.following) this.range.move(now + this._lead - this.range.to);
    const { width, height } = this._size;
    const context = fitCanvas(this.canvas, width, height);
    const calm = this._calm.matches;
    const brush = { context, theme: this._theme, range: this.range, now, beat: calm ? 0 : (performance.now() / 900) % 1 };
    const grid = ticks(this.range);
    context.clearRect(0, 0, width, height);
    this._drawLanes(brush, grid);
    this._drawAxis(grid, now);
    this.minimap.draw(this._theme, now);
    setText(at("span"), duration(this.range.span));
    if (!calm && (this._visibleLive || (this.following && this._anyLive()))) this.draw();
  }

  /** @type {(brush: import("./bars.js").Brush, grid: ReturnType<typeof ticks>) => void} */
  _drawLanes(brush, grid) {
    const { context, theme, range, now } = brush;
    const { width, height } = this._size;
    const scroll = this.scroller.scrollTop;
    const first = rowAt(this.rows, scroll);
    let visible = 0;
    this._visibleLive = false;
    context.save();
    context.translate(0, -scroll);
    for (let n = first; n < this.rows.length && this.rows[n].y < scroll + height; n += 1) {
      const row = this.rows[n];
      if (row.kind !== "lane") continue;
      context.fillStyle = theme.colour.lane;
      context.fillRect(range.left, row.y + 1, range.width, row.h - 2);
    }
    context.fillStyle = theme.colour.line;
    for (const { at: when, strong } of grid) {
      context.globalAlpha = strong ? 1 : 0.55;
      context.fillRect(Math.round(range.x(when)), scroll, 1, height);
    }
    context.globalAlpha = 1;
    context.save();
    context.beginPath();
    context.rect(range.left, scroll, range.width, height);
    context.clip();
    for (let n = first; n < this.rows.length && this.rows[n].y < scroll + height; n += 1) {
      const { lane, y } = this.rows[n];
      if (lane) visible += this._drawLane(brush, lane.bars, y);
    }
    this._drawArrows(brush, visible <= FEW);
    const x = Math.round(range.x(now));
    context.fillStyle = theme.colour.accent;
    context.fillRect(x, scroll, 1, height);
    context.restore();
    for (let n = first; n < this.rows.length && this.rows[n].y < scroll + height; n += 1) this._drawLabel(brush, this.rows[n], width);
    context.restore();
  }

  /** @type {(brush: import("./bars.js").Brush, bars: Entry[], y: number) => number} */
  _drawLane(brush, bars, y) {
    const { range, now } = brush;
    const pixel = range.span / range.width;
    let drawn = 0;
    let reach = -Infinity;
    let n = Math.max(0, firstAfter(bars, range.from) - 1);
    while (n < bars.length && bars[n].submitted_at <= range.to) {
      const bar = bars[n];
      const end = Math.min(endOf(bar), now);
      if (LIVE.has(bar.state)) this._visibleLive = true;
      if (end >= range.from && end > reach) {
        const next = bars[n + 1];
        drawBar(brush, bar, y, next ? range.x(next.submitted_at) : Infinity);
        if (bar.id === this.store.selected || bar.id === this.hovered) this._ring(brush, bar, y);
        drawn += 1;
        reach = end;
        if (end - bar.submitted_at < pixel) reach = bar.submitted_at + pixel;
      }
      // Calls that end within the same pixel would be drawn upon each other.
      n = bars[n + 1] && bars[n + 1].submitted_at < reach ? Math.max(n + 1, firstAfter(bars, reach) - 1) : n + 1;
    }
    return drawn;
  }

  /** @type {(brush: import("./bars.js").Brush, entry: Entry, y: number) => void} */
  _ring({ context, theme, range, now }, entry, y) {
    const x0 = Math.max(range.left - 20, range.x(entry.submitted_at));
    const x1 = Math.min(range.left + range.width + 20, range.x(Math.min(endOf(entry), now)));
    context.strokeStyle = theme.colour[entry.id === this.store.selected ? "accent" : "line-strong"];
    context.lineWidth = 2;
    context.beginPath();
    context.roundRect(x0 - 2, y + 2, Math.max(2, x1 - x0) + 4, 20, 6);
    context.stroke();
  }

  /** @type {(brush: import("./bars.js").Brush, all: boolean) => void} */
  _drawArrows(brush, all) {
    const chosen = new Set([this.store.selected, this.hovered].filter((each) => each !== null));
    const scroll = this.scroller.scrollTop;
    /** @type {[import("./state.js").Entry, import("./state.js").Entry, string, boolean][]} */
    const arrows = [];
    const from = rowAt(this.rows, scroll);
    if (!all && !chosen.size) return;
    const rows = all ? this.rows.slice(from, rowAt(this.rows, scroll + this._size.height) + 1) : this.rows;
    for (const { lane } of rows) {
      if (!lane) continue;
      const { bars } = lane;
      for (let n = all && !chosen.size ? Math.max(0, firstAfter(bars, brush.range.from) - 1) : 0; n < bars.length; n += 1) {
        const bar = bars[n];
        if (bar.submitted_at > brush.range.to && !chosen.size) break;
        for (const [source, kind, decided] of reasons(bar, this.store.entries)) {
          const strong = chosen.has(bar.id) || chosen.has(source.id);
          if (strong || (all && decided)) arrows.push([source, bar, kind, strong]);
        }
      }
    }
    for (const [source, bar, kind, strong] of arrows.sort((a, b) => Number(a[3]) - Number(b[3]))) {
      const y0 = this._top.get(source.id);
      const y1 = this._top.get(bar.id);
      if (y0 === undefined || y1 === undefined) continue;
      drawArrow(brush, { entry: source, y: y0 }, { entry: bar, y: y1 }, kind, strong);
    }
  }

  /** @type {(brush: import("./bars.js").Brush, row: import("./layout.js").Row, width: number) => void} */
  _drawLabel({ context, theme, range }, row, width) {
    const { colour } = theme;
    if (row.kind === "conversation") {
      const { host, label, count, key } = row.conversation;
      const y = row.y + 19;
      context.fillStyle = colour.line;
      context.fillRect(0, row.y + row.h - 3, width, 1);
      context.fillStyle = colour.muted;
      context.beginPath();
      const folded = this.lanes.collapsed.has(key);
      if (folded) triangle(context, 10, row.y + 10, 10, row.y + 20, 16, row.y + 15);
      else triangle(context, 8, row.y + 12, 18, row.y + 12, 13, row.y + 18);
      context.font = theme.fontBold;
      context.fillStyle = colour.text;
      const title = shorten(host || (label ? "Conversation" : "Calls"), 40);
      context.fillText(title, 24, y);
      let x = 24 + measure(context, title) + 8;
      context.font = theme.fontSmall;
      context.fillStyle = colour.muted;
      const gained = savedIn(row.conversation);
      const words = [label && shorten(label, 24), plural(count, "call"), gained >= 0.05 && `${duration(gained)} saved`];
      for (const word of words) {
        if (!word || x + measure(context, word) > width) continue;
        context.fillText(word, x, y);
        x += measure(context, word) + 14;
      }
    } else if (row.server && (row.kind === "server" || (row.top && !this.narrow))) {
      context.font = theme.font;
      const inGutter = row.kind === "lane";
      let name = shorten(row.server.name, 30);
      const room = inGutter ? range.left - 32 : width - 30;
      while (name.length > 2 && measure(context, name) > room) name = `${name.slice(0, -2)}…`;
      context.fillStyle = colour.text;
      context.globalAlpha = 0.85;
      context.fillText(name, inGutter ? 24 : 10, row.y + (inGutter ? 16 : 13));
      context.globalAlpha = 1;
    }
  }

  /** @type {(grid: ReturnType<typeof ticks>, now: number) => void} */
  _drawAxis(grid, now) {
    const { width } = this._size;
    const context = fitCanvas(this.axis, width, AXIS);
    const { colour, fontSmall } = this._theme;
    const { range } = this;
    context.clearRect(0, 0, width, AXIS);
    context.font = fontSmall;
    const xNow = range.x(now);
    for (const { at: when, label, strong } of grid) {
      const x = Math.round(range.x(when));
      if (x < range.left) continue;
      context.fillStyle = strong ? colour["line-strong"] : colour.line;
      context.fillRect(x, AXIS - 6, 1, 6);
      const half = measure(context, label) / 2;
      if (Math.abs(x - xNow) < half + 22 || x + half > width) continue;
      context.fillStyle = strong ? colour.text : colour.muted;
      context.fillText(label, Math.max(range.left, x - half), 14);
    }
    if (xNow < range.left || xNow > width) return;
    context.fillStyle = colour.accent;
    context.beginPath();
    context.roundRect(Math.min(xNow - 16, width - 34), 3, 32, 15, 7);
    context.fill();
    context.fillStyle = colour.bg;
    context.font = fontSmall;
    context.fillText("now", Math.min(xNow - 16, width - 34) + 5.5, 14);
  }
}

/**
 * What a call has waited for: the other call, the kind, and whether it is worth an arrow of its own accord. That are
 * references and `_after`; of state and capacity, which may be many, the one that took longest; and nothing that has
 * ended while the call still waits.
 * @param {Entry} entry
 * @param {Map<string, Entry>} entries
 * @returns {[Entry, string, boolean][]}
 */
function reasons(entry, entries) {
  /** @type {[Entry, string, boolean][]} */
  const found = [];
  let last = -1;
  for (const { kind, on } of entry.waits ?? []) {
    const source = entries.get(on);
    if (!source) continue;
    const open = entry.state !== "waiting" || LIVE.has(source.state);
    const chosen = kind === "value" || kind === "after";
    if (!chosen && open && (last < 0 || endOf(source) > endOf(found[last][0]))) last = found.length;
    found.push([source, kind, chosen && open]);
  }
  if (last >= 0) found[last][2] = true;
  return found;
}

/** @type {(context: CanvasRenderingContext2D, ...points: number[]) => void} */
function triangle(context, x0, y0, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.lineTo(x2, y2);
  context.fill();
}
