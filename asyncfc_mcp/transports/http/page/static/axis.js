// The visible part of time, and the ticks of its axis. Pure: no page.

import { clock, day } from "./text.js";

const STEPS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800,
  21600, 43200, 86400, 172800, 604800, 2592000,
];
const SHORTEST = 0.02;
const LONGEST = 400 * 86400;

/** What is visible: from a time to another, over a width in pixels. */
export class Range {
  constructor() {
    this.from = 0;
    this.to = 60;
    this.left = 0;
    this.width = 1;
  }

  get span() {
    return this.to - this.from;
  }

  /** @param {number} at seconds @returns {number} pixels */
  x(at) {
    return this.left + ((at - this.from) / (this.to - this.from)) * this.width;
  }

  /** @param {number} x pixels @returns {number} seconds */
  time(x) {
    return this.from + ((x - this.left) / this.width) * (this.to - this.from);
  }

  /** Zoom around a time. @param {number} factor above 1 shows more @param {number} around */
  zoom(factor, around) {
    const span = Math.min(LONGEST, Math.max(SHORTEST, this.span * factor));
    const share = (around - this.from) / this.span;
    this.from = around - span * share;
    this.to = this.from + span;
  }

  /** @param {number} seconds */
  move(seconds) {
    this.from += seconds;
    this.to += seconds;
  }

  /** Show two times with some room around them. @param {number} from @param {number} to @param {number} [room] */
  show(from, to, room = 0.04) {
    const span = Math.max(SHORTEST, to - from);
    this.from = from - span * room;
    this.to = Math.max(to, from + span) + span * room;
  }
}

/**
 * Ticks at round times of the local clock.
 * @param {Range} range
 * @returns {{at: number, label: string, strong: boolean}[]}
 */
export function ticks(range) {
  const least = (range.span / range.width) * 84;
  const step = STEPS.find((each) => each >= least) ?? STEPS[STEPS.length - 1];
  const shift = new Date(range.from * 1000).getTimezoneOffset() * 60;
  const found = [];
  const first = Math.ceil((range.from - shift) / step);
  for (let n = first; n <= first + 200; n += 1) {
    const at = n * step + shift;
    if (at > range.to) break;
    found.push({ at, label: tickLabel(at, step), strong: step < 60 ? isRound(at - shift, 60) : isRound(at - shift, 86400) });
  }
  return found;
}

/** @type {(at: number, whole: number) => boolean} */
function isRound(at, whole) {
  return Math.abs(at / whole - Math.round(at / whole)) < 1e-7;
}

/** @type {(at: number, step: number) => string} */
function tickLabel(at, step) {
  if (step >= 86400) return day(at);
  if (step >= 60) {
    const time = clock(at).slice(0, 5);
    return time === "00:00" ? day(at) : time;
  }
  if (step >= 1) return clock(Math.round(at));
  const digits = step >= 0.1 ? 1 : step >= 0.01 ? 2 : 3;
  const rounded = Math.round(at / step) * step;
  const seconds = ((rounded % 60) + 60) % 60;
  return `${clock(Math.floor(rounded + 1e-6)).slice(0, 6)}${seconds.toFixed(digits).padStart(digits + 3, "0")}`;
}
