// What the page knows: calls, overview, filter, selection, connection. Owns the data and says when it has changed;
// shows nothing and asks no server.

/**
 * @typedef {{kind: "value"|"after"|"state"|"capacity", on: string, path?: string}} Wait
 * @typedef {{
 *   id: string, name?: string | null, tool: string, server: string, state: string, scope?: string,
 *   conversation?: string | null, host?: string | null, submitted_at: number, queued_at?: number | null,
 *   started_at?: number | null, ended_at?: number | null, read_at?: number | null, waits?: Wait[] | null,
 *   waiting_for?: {ids: string[], why: string} | null,
 *   progress?: {done: number, total?: number | null, message?: string | null} | null,
 *   question?: string | null, failure?: string | null, cause?: string | null, attempts?: number, size?: number | null,
 *   private?: boolean, elsewhere?: boolean}} Entry
 * @typedef {{text: string, server: string, tool: string, states: Set<string>}} Filter
 * @typedef {"calls"|"overview"|"filter"|"selection"|"connection"|"view"} Topic
 * @typedef {{state: "connecting"|"live"|"lost"|"refused", text: string, reason?: string, retryAt?: number}} Connection
 */

export const LIVE = new Set(["waiting", "running", "input_required"]);
export const STATES = ["waiting", "running", "input_required", "completed", "failed", "cancelled"];
/** Most calls that the page keeps; the oldest ones are dropped, and can be loaded again. */
export const MOST_CALLS = 20_000;

export class Store {
  constructor() {
    /** @type {Map<string, Entry>} */
    this.entries = new Map();
    /** @type {any} */
    this.overview = null;
    /** @type {Filter} */
    this.filter = { text: "", server: "", tool: "", states: new Set() };
    /** IDs that the server has found by arguments or results, which entries do not hold. @type {Set<string>} */
    this.matched = new Set();
    /** @type {string | null} */
    this.selected = null;
    this.view = "timeline";
    /** @type {Connection} */
    this.connection = { state: "connecting", text: "Connecting" };
    /** Whether the first calls have arrived. */
    this.loaded = false;
    /** Whether the bridge has calls that are older than the first ones which it sent. */
    this.older = false;
    /** Entries that changed since the views last took them. @type {Set<string>} */
    this.changed = new Set();
    this._offset = 0;
    /** Time of the last known state, while the connection is lost. @type {number | null} */
    this._frozen = null;
    /** @type {Map<Topic, Set<() => void>>} */
    this._listeners = new Map();
  }

  /** Call `run` whenever a topic has changed. @param {Topic} topic @param {() => void} run */
  on(topic, run) {
    const listeners = this._listeners.get(topic) ?? new Set();
    this._listeners.set(topic, listeners.add(run));
  }

  /** @param {Topic} topic */
  tell(topic) {
    for (const run of this._listeners.get(topic) ?? []) run();
  }

  /** Seconds of the server's wall clock. */
  now() {
    return this._frozen ?? Date.now() / 1000 + this._offset;
  }

  /** @param {any} overview */
  setOverview(overview) {
    this.overview = overview;
    if (typeof overview.now === "number") {
      const offset = overview.now - Date.now() / 1000;
      if (Math.abs(offset - this._offset) > 0.25) this._offset = offset;
    }
    this.tell("overview");
  }

  /** Take new and changed calls. @param {Entry[]} entries */
  put(entries) {
    for (const entry of entries) {
      this.entries.set(entry.id, entry);
      this.changed.add(entry.id);
    }
    if (this.entries.size > MOST_CALLS) this._drop();
    this.loaded = true;
    this.tell("calls");
  }

  /**
   * Take the present calls in place of those that are known; older ones stay if there are any.
   * @param {Entry[]} entries newest first
   * @param {boolean} older whether there are older ones than these
   */
  reset(entries, older) {
    const oldest = entries[entries.length - 1]?.submitted_at ?? Infinity;
    this.older = older;
    for (const [id, entry] of this.entries) if (!older || entry.submitted_at >= oldest || LIVE.has(entry.state)) this.entries.delete(id);
    this.put(entries);
    this.tell("filter");
  }

  /** @param {string | null} id */
  select(id) {
    if (id === this.selected) return;
    this.selected = id;
    this.tell("selection");
  }

  /** @param {Partial<Filter>} change */
  setFilter(change) {
    Object.assign(this.filter, change);
    this.matched.clear();
    this.tell("filter");
  }

  get filtering() {
    const { text, server, tool, states } = this.filter;
    return Boolean(text || server || tool || states.size);
  }

  /** @param {Entry} entry */
  passes(entry) {
    const { text, server, tool, states } = this.filter;
    if (server && entry.server !== server) return false;
    if (tool && entry.tool !== tool) return false;
    if (states.size && !states.has(entry.state)) return false;
    if (!text || this.matched.has(entry.id)) return true;
    const wanted = text.toLowerCase();
    return [entry.id, entry.name, entry.tool, entry.server, entry.failure].some((each) => each?.toLowerCase().includes(wanted));
  }

  /** Calls that pass the filter, in no order. */
  shown() {
    const all = [...this.entries.values()];
    return this.filtering ? all.filter((each) => this.passes(each)) : all;
  }

  /** @param {Connection} connection */
  setConnection(connection) {
    this.connection = connection;
    this._frozen = connection.state === "lost" ? this.now() : connection.state === "live" ? null : this._frozen;
    this.tell("connection");
  }

  _drop() {
    const oldest = [...this.entries.values()].filter((each) => !LIVE.has(each.state)).sort((a, b) => a.submitted_at - b.submitted_at);
    for (const entry of oldest.slice(0, this.entries.size - MOST_CALLS * 0.9)) this.entries.delete(entry.id);
    this.tell("filter");
  }
}

/**
 * The phases of a call: where each begins, in seconds.
 * @param {Entry} entry
 * @param {number} now
 */
export function phases(entry, now) {
  const end = entry.ended_at ?? now;
  const started = entry.started_at ?? null;
  const queued = entry.queued_at ?? null;
  const from = entry.submitted_at;
  const waitEnd = Math.min(queued ?? started ?? end, end);
  return { from, waitEnd, queueEnd: Math.min(started ?? end, end), started, end, queued };
}

/**
 * Seconds that overlapping has saved: the sum of the runs less the length of their union.
 * @param {Iterable<Entry>} entries
 */
export function saved(entries) {
  const runs = [];
  let sum = 0;
  for (const { started_at: from, ended_at: to } of entries) {
    if (typeof from !== "number" || typeof to !== "number" || to <= from) continue;
    runs.push([from, to]);
    sum += to - from;
  }
  runs.sort((a, b) => a[0] - b[0]);
  let union = 0;
  let reach = -Infinity;
  for (const [from, to] of runs) {
    if (to <= reach) continue;
    union += to - Math.max(from, reach);
    reach = to;
  }
  return Math.max(0, sum - union);
}
