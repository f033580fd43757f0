// Requests to the bridge: token, one-time key, JSON, the stream of events. Owns the token, which stays in the
// session storage of this tab; leaves what is done with the answers to others.

const BASE = new URL("page/api/", document.baseURI);
const TOKEN = "asyncfc-token";
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
/** A stream without any bytes for so long has died: comments keep it alive. */
const SILENCE_MS = 60_000;

/** The server wants a token, or another one. */
export class Refused extends Error {}

/** A request was answered with an error; the text is the server's. */
export class Failed extends Error {
  /** @param {string} text @param {number} status */
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

function token() {
  try {
    return sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    return kept;
  }
}

let kept = "";

/** @param {string} value */
export function setToken(value) {
  kept = value;
  try {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    // Storage is switched off: the token lasts until the page is left.
  }
}

/**
 * @param {string} path below `/page/api/`
 * @param {RequestInit} [options]
 * @param {string} [value] the token
 */
async function request(path, options = {}, value = token()) {
  const headers = new Headers(options.headers);
  if (value) headers.set("authorization", `Bearer ${value}`);
  const response = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  if (response.status === 401 || response.status === 403) {
    throw new Refused(response.status === 401 && !value ? "This page shows the calls of a bridge that needs a token." : await errorText(response));
  }
  if (!response.ok) throw new Failed(await errorText(response), response.status);
  return response;
}

/** @param {Response} response */
async function errorText(response) {
  const text = (await response.text().catch(() => "")).slice(0, 2000);
  try {
    const body = JSON.parse(text);
    const found = body.error?.message ?? body.error_description ?? body.error ?? body.detail;
    if (typeof found === "string") return found;
  } catch {
    // Not JSON: the text itself.
  }
  return text || `HTTP ${response.status}`;
}

/** @param {string} path @param {unknown} body @param {string} [value] the token */
async function post(path, body, value = token()) {
  const headers = { "content-type": "application/json" };
  const response = await request(path, { method: "POST", body: JSON.stringify(body), headers }, value);
  return response.json();
}

/** Trade the one-time key of the address for a token of this page. @param {string} key */
export async function enter(key) {
  const { token: value } = await post("enter", { key });
  setToken(value);
}

/**
 * Use a token of the bridge. At an address of this machine it is traded for one of this page, which is good for nothing
 * else, and kept nowhere: a program of somebody else may listen there later, and would get it. Elsewhere it is kept, since
 * there may be several bridges behind the address, and tokens of the page belong to one.
 * @param {string} value
 */
export async function use(value) {
  setToken("");
  if (!/^(localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname)) return setToken(value);
  const { key } = await post("key", {}, value);
  await enter(key);
}

/** @typedef {{text?: string, server?: string, tool?: string, states?: Iterable<string>, until?: number, before?: string, limit?: number}} Query */

/** @param {Query} query */
function parameters(query) {
  const words = new URLSearchParams();
  if (query.text) words.set("text", query.text);
  if (query.server) words.append("server", query.server);
  if (query.tool) words.append("tool", query.tool);
  for (const state of query.states ?? []) words.append("state", state);
  if (query.until !== undefined) words.set("until", String(query.until));
  if (query.before) words.set("before", query.before);
  if (query.limit) words.set("limit", String(query.limit));
  return words;
}

/**
 * @param {Query} query
 * @param {AbortSignal} [signal]
 * @returns {Promise<{calls: import("./state.js").Entry[], next: string | null}>}
 */
export async function calls(query, signal) {
  return (await request(`calls?${parameters(query)}`, { signal })).json();
}

/** @param {string} id @param {AbortSignal} [signal] */
export const call = async (id, signal) => (await request(`calls/${encodeURIComponent(id)}`, { signal })).json();

/** @param {string} id */
export const cancel = (id) => post(`calls/${encodeURIComponent(id)}/cancel`, {});

/** Save calls as a file. @param {"jsonl"|"trace"} form @param {Query} query */
export async function save(form, query) {
  const words = parameters(query);
  words.set("form", form);
  const blob = await (await request(`export?${words}`)).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = form === "jsonl" ? "asyncfc-calls.jsonl" : "asyncfc-trace.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Events of a stream as they arrive: `event:` and `data:` of each.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{event: string, data: string}>}
 */
export async function* events(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  /** @type {string[]} */
  let data = [];
  let event = "message";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          data = [];
          event = "message";
        } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line.startsWith("event:")) event = line.slice(6).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Reads the events of the bridge, again and again, until it is refused or stopped. */
export class Feed {
  /**
   * @param {{event: (name: string, data: any) => void, connection: (connection: import("./state.js").Connection) => void}} on
   */
  constructor(on) {
    this._on = on;
    this._failures = 0;
    /** @type {AbortController | null} */
    this._reading = null;
    /** @type {(() => void) | null} */
    this._wake = null;
    this._running = false;
  }

  /** Read until refused. Does nothing where it reads already. */
  async run() {
    if (this._running) return this.retry();
    this._running = true;
    try {
      while (true) {
        let reason = "";
        try {
          reason = await this._once();
        } catch (problem) {
          if (problem instanceof Refused) return this._on.connection({ state: "refused", text: problem.message });
          if (problem instanceof Failed) reason = problem.message;
        }
        this._failures += 1;
        await this._pause(reason);
      }
    } finally {
      this._running = false;
    }
  }

  /** Try at once. */
  retry() {
    this._wake?.();
  }

  /** @returns {Promise<string>} why the bridge has ended the stream */
  async _once() {
    const reading = new AbortController();
    this._reading = reading;
    let silence = setTimeout(() => reading.abort(), SILENCE_MS);
    try {
      const response = await request("events", { headers: { accept: "text/event-stream" }, signal: reading.signal });
      if (!response.body) throw new Failed("no stream", response.status);
      this._failures = 0;
      this._on.connection({ state: "live", text: "Live" });
      const watched = response.body.pipeThrough(new TransformStream({
        transform: (chunk, controller) => {
          clearTimeout(silence);
          silence = setTimeout(() => reading.abort(), SILENCE_MS);
          controller.enqueue(chunk);
        },
      }));
      for await (const { event, data } of events(watched)) {
        if (event === "end") return String(JSON.parse(data).reason ?? "");
        this._on.event(event, JSON.parse(data));
      }
      return "";
    } finally {
      clearTimeout(silence);
      reading.abort();
    }
  }

  /** Wait before the next attempt: twice as long each time, and not all pages at once. @param {string} reason */
  async _pause(reason) {
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this._failures - 1));
    const pause = longest * (0.75 + Math.random() / 4);
    this._on.connection({ state: "lost", text: "Connection lost", reason, retryAt: Date.now() + pause });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      this._wake = () => {
        clearTimeout(timer);
        resolve(undefined);
      };
    });
    this._wake = null;
  }
}
