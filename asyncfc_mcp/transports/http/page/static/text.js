// Text and figures as people read them. Pure: no page, no state.

// Characters that are not seen but change how what is around them is shown: controls, direction overrides, tags.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\u{e0000}-\\u{e007f}]",
  "gu",
);

/**
 * Text of a call with its unseen characters made visible, so that none of them changes what stands around it.
 * @param {unknown} value
 * @returns {string}
 */
export function visible(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return text.replace(UNSEEN, (each) => `⟨U+${(each.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

/**
 * One line of at most `limit` characters.
 * @param {unknown} value
 * @param {number} limit
 */
export function shorten(value, limit) {
  const text = visible(String(value ?? "").slice(0, limit * 4)).replace(/\s+/g, " ");
  return text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
}

/**
 * The name of a tool without the server before it, which the lane says already.
 * @param {import("./state.js").Entry} entry
 */
export function shortTool(entry) {
  const prefix = `${entry.server}__`;
  return entry.tool.startsWith(prefix) ? entry.tool.slice(prefix.length) : entry.tool;
}

/** @param {import("./state.js").Entry} entry */
export function called(entry) {
  return entry.name ? `${shorten(entry.name, 60)} (${shorten(entry.id, 60)})` : shorten(entry.id, 60);
}

/**
 * A duration, as the commands write it (`cli/figures.py`).
 * @param {number | null | undefined} seconds
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s < 0.0005) return "0 s";
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return parts(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.floor(whole / 60);
  if (minutes < 1440) return parts(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.floor(whole / 3600);
  return parts(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** @type {(large: number, unit: string, small: number, below: string) => string} */
function parts(large, unit, small, below) {
  return small ? `${large} ${unit} ${small} ${below}` : `${large} ${unit}`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const FULL = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

/** Time of day. @param {number} at seconds of the wall clock */
export const clock = (at) => CLOCK.format(at * 1000);
/** Day and month. @param {number} at */
export const day = (at) => DAY.format(at * 1000);
/** Day and time. @param {number} at */
export const full = (at) => FULL.format(at * 1000);

/** @param {number} bytes */
export function size(bytes) {
  for (const [unit, scale] of SIZES) if (bytes >= scale) return `${Number((bytes / scale).toPrecision(3))} ${unit}`;
  return `${bytes} bytes`;
}
const SIZES = /** @type {[string, number][]} */ ([["GB", 2 ** 30], ["MB", 2 ** 20], ["KB", 2 ** 10]]);

/** @type {(n: number, one: string, many?: string) => string} */
export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString()} ${n === 1 ? one : many}`;

/** Words for states, as chips, table and details show them. @type {Record<string, string>} */
export const STATE_WORDS = {
  waiting: "waiting",
  running: "running",
  input_required: "question",
  completed: "completed",
  failed: "failed",
  cancelled: "cancelled",
};

/** Why a call waits for another one. @type {Record<string, string>} */
export const WAIT_WORDS = {
  value: "needs the result of",
  after: "runs after",
  state: "touches the same state as",
  capacity: "waits for a place taken by",
};
