// Input of the time line: pointer, wheel, two fingers, keys. Owns what they mean; leaves what is shown to `timeline`.

import { at, el } from "./dom.js";
import { phases } from "./state.js";
import { called, duration, shorten, STATE_WORDS, WAIT_WORDS } from "./text.js";

const STEP = 1.4;
const SHARE = 0.15;

/** @typedef {import("./state.js").Entry} Entry */

export class Gestures {
  /**
   * @param {import("./timeline.js").TimeLine} line
   * @param {{open: (id: string) => void, say: (text: string) => void}} on
   */
  constructor(line, on) {
    this._line = line;
    this._on = on;
    this._store = line.store;
    /** @type {Map<number, {x: number, y: number}>} */
    this._fingers = new Map();
    this._dragged = false;
    const { canvas } = line;
    canvas.addEventListener("pointerdown", (event) => this._down(event));
    canvas.addEventListener("pointermove", (event) => this._move(event));
    canvas.addEventListener("pointerup", (event) => this._up(event));
    canvas.addEventListener("pointercancel", (event) => this._fingers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this._hover(null, 0, 0));
    canvas.addEventListener("dblclick", (event) => this._double(event));
    canvas.addEventListener("keydown", (event) => this._key(event));
    canvas.addEventListener("wheel", (event) => this._wheel(event, false), { passive: false });
    for (const id of ["axis", "minimap"]) at(id).addEventListener("wheel", (/** @type {WheelEvent} */ event) => this._wheel(event, true), { passive: false });
    at("minimap").addEventListener("taken", () => line.follow(false));
    at("zoom-in").addEventListener("click", () => line.zoom(1 / STEP));
    at("zoom-out").addEventListener("click", () => line.zoom(STEP));
    at("fit").addEventListener("click", () => line.fit());
    at("follow").addEventListener("click", () => line.follow(!line.following));
  }

  /** @param {PointerEvent} event */
  _down(event) {
    if (event.button !== 0) return;
    this._fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    this._line.canvas.setPointerCapture(event.pointerId);
    this._dragged = false;
  }

  /** @param {PointerEvent} event */
  _move(event) {
    const finger = this._fingers.get(event.pointerId);
    const { range } = this._line;
    if (!finger) {
      const { entry } = this._line.hit(event.offsetX, event.offsetY);
      return this._hover(entry ?? null, event.offsetX, event.offsetY);
    }
    const others = [...this._fingers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const other = others[0][1];
      const before = Math.max(8, Math.abs(finger.x - other.x));
      const after = Math.max(8, Math.abs(event.offsetX - other.x));
      this._line.zoom(before / after, range.time((event.offsetX + other.x) / 2));
      this._dragged = true;
    } else {
      const dx = event.offsetX - finger.x;
      const dy = event.offsetY - finger.y;
      if (!this._dragged && Math.hypot(dx, dy) < 4) return;
      this._dragged = true;
      this._line.canvas.classList.add("dragging");
      if (dx) this._line.pan((-dx / range.width) * range.span);
      if (dy) this._line.scroller.scrollTop -= dy;
    }
    finger.x = event.offsetX;
    finger.y = event.offsetY;
  }

  /** @param {PointerEvent} event */
  _up(event) {
    this._line.canvas.classList.remove("dragging");
    if (!this._fingers.delete(event.pointerId) || this._dragged) return;
    const { entry, row } = this._line.hit(event.offsetX, event.offsetY);
    if (entry) this._on.open(entry.id);
    else if (row?.kind === "conversation") this._line.fold(row.conversation.key);
    else this._store.select(null);
  }

  /** @param {MouseEvent} event */
  _double(event) {
    const { entry } = this._line.hit(event.offsetX, event.offsetY);
    if (!entry) return this._line.fit();
    const { from, end } = phases(entry, this._store.now());
    this._line.follow(false);
    this._line.range.show(from, Math.max(end, from + 0.05), 0.5);
    this._line.draw();
  }

  /** @type {(event: WheelEvent, always: boolean) => void} */
  _wheel(event, always) {
    const { range, scroller } = this._line;
    const unit = event.deltaMode === 1 ? 16 : 1;
    const sideways = event.shiftKey ? event.deltaX || event.deltaY : event.deltaX;
    if (Math.abs(sideways) > Math.abs(event.deltaY) || event.shiftKey) {
      event.preventDefault();
      return this._line.pan(((sideways * unit) / range.width) * range.span);
    }
    const scrolls = scroller.scrollHeight > scroller.clientHeight + 1;
    if (!always && scrolls && !event.ctrlKey && !event.metaKey && !event.altKey) return;
    event.preventDefault();
    const x = event.clientX - this._line.canvas.getBoundingClientRect().left;
    this._line.zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY * unit)) * (event.ctrlKey ? 0.006 : 0.0025)), range.time(x));
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { range } = this._line;
    const moves = /** @type {Record<string, () => void>} */ ({
      ArrowLeft: () => (event.shiftKey ? this._line.pan(-range.span * SHARE) : this._select("before")),
      ArrowRight: () => (event.shiftKey ? this._line.pan(range.span * SHARE) : this._select("after")),
      ArrowUp: () => this._select("up"),
      ArrowDown: () => this._select("down"),
      Home: () => this._select("first"),
      End: () => this._select("last"),
      Enter: () => this._store.selected && this._on.open(this._store.selected),
      " ": () => this._store.selected && this._on.open(this._store.selected),
      "+": () => this._line.zoom(1 / STEP, this._middle()),
      "=": () => this._line.zoom(1 / STEP, this._middle()),
      "-": () => this._line.zoom(STEP, this._middle()),
      "0": () => this._line.fit(),
    });
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }

  _middle() {
    const entry = this._store.entries.get(this._store.selected ?? "");
    const { range } = this._line;
    if (!entry || entry.submitted_at < range.from || entry.submitted_at > range.to) return undefined;
    return entry.started_at ?? entry.submitted_at;
  }

  /** @param {"before"|"after"|"up"|"down"|"first"|"last"} where */
  _select(where) {
    const found = this._neighbour(where);
    if (!found) return;
    this._store.select(found.id);
    this._line.reveal(found.id);
    this._on.say(summary(found, this._store.now()));
  }

  /** @type {(where: string) => Entry | undefined} */
  _neighbour(where) {
    const lanes = this._line.rows.filter((row) => row.lane);
    if (!lanes.length) return undefined;
    const current = this._store.entries.get(this._store.selected ?? "");
    const index = lanes.findIndex((row) => row.lane?.bars.some((bar) => bar.id === current?.id));
    if (!current || index < 0 || where === "first" || where === "last") {
      const all = lanes.flatMap((row) => row.lane?.bars ?? []).sort((a, b) => a.submitted_at - b.submitted_at);
      return where === "first" ? all[0] : all[all.length - 1];
    }
    if (where === "up" || where === "down") {
      const row = lanes[index + (where === "up" ? -1 : 1)];
      const near = (/** @type {Entry} */ bar) => Math.abs(bar.submitted_at - current.submitted_at);
      return row?.lane?.bars.reduce((best, bar) => (near(bar) < near(best) ? bar : best));
    }
    // Sideways: the next call of the conversation in time, whichever its lane.
    const all = lanes
      .filter((row) => row.conversation === lanes[index].conversation)
      .flatMap((row) => row.lane?.bars ?? [])
      .sort((a, b) => a.submitted_at - b.submitted_at || (a.id < b.id ? -1 : 1));
    return all[all.indexOf(current) + (where === "before" ? -1 : 1)] ?? current;
  }

  /** @type {(entry: Entry | null, x: number, y: number) => void} */
  _hover(entry, x, y) {
    const tip = at("tip");
    this._line.canvas.classList.toggle("pointing", Boolean(entry));
    if ((entry?.id ?? null) !== this._line.hovered) {
      this._line.hovered = entry?.id ?? null;
      this._line.draw();
      tip.hidden = !entry;
      if (entry) tip.replaceChildren(...tipOf(entry, this._store));
    }
    if (!entry) return;
    const { offsetWidth, offsetHeight } = tip;
    const stage = at("stage");
    const top = y + this._line.scroller.offsetTop;
    tip.style.left = `${Math.max(4, Math.min(x + 14, stage.clientWidth - offsetWidth - 6))}px`;
    tip.style.top = `${top + 22 + offsetHeight > stage.clientHeight ? top - offsetHeight - 10 : top + 20}px`;
  }
}

/** @type {(entry: Entry, store: import("./state.js").Store) => Node[]} */
function tipOf(entry, store) {
  const { from, end, started, queueEnd } = phases(entry, store.now());
  const waited = queueEnd - from;
  const lines = [
    el("strong", {}, el("bdi", {}, shorten(entry.tool, 80))),
    el("span.muted", {}, el("bdi", {}, called(entry))),
    el("div", {}, el(`span.swatch.${entry.state}`), ` ${STATE_WORDS[entry.state] ?? entry.state}`,
      waited > 0.02 ? `, waited ${duration(waited)}` : "", started !== null ? `, ran ${duration(end - started)}` : ""),
  ];
  for (const wait of (entry.waits ?? []).slice(0, 4)) {
    lines.push(el("div.muted", {}, `${WAIT_WORDS[wait.kind] ?? wait.kind} ${shorten(wait.on, 20)}`, wait.path ? ` (${shorten(wait.path, 40)})` : ""));
  }
  if (entry.question) lines.push(el("div", {}, "Asks: ", el("bdi", {}, shorten(entry.question, 160))));
  if (entry.failure) lines.push(el("div.bad", {}, el("bdi", {}, shorten(entry.failure, 160))));
  return lines;
}

/** @type {(entry: Entry, now: number) => string} */
export function summary(entry, now) {
  const { end, started } = phases(entry, now);
  const ran = started === null ? "" : `, ran ${duration(end - started)}`;
  return `${called(entry)}, ${shorten(entry.tool, 60)}, ${STATE_WORDS[entry.state] ?? entry.state}${ran}`;
}
