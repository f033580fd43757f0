// The filter above the calls. What the page has is filtered at once; the history is asked as soon as the typing pauses.

import * as api from "./api.js";
import { at, el, setText, throttled } from "./dom.js";
import { STATES } from "./state.js";
import { shorten, STATE_WORDS } from "./text.js";

const PAUSE_MS = 250;
const PAGE = 500;

export class Filters {
  /**
   * @param {import("./state.js").Store} store
   * @param {{failed: (problem: unknown) => void, say: (text: string) => void}} on
   */
  constructor(store, on) {
    this._store = store;
    this._on = on;
    this._text = /** @type {HTMLInputElement} */ (at("filter-text"));
    this._server = /** @type {HTMLSelectElement} */ (at("filter-server"));
    this._tool = /** @type {HTMLSelectElement} */ (at("filter-tool"));
    this._older = /** @type {HTMLButtonElement} */ (at("older"));
    /** @type {Map<string, HTMLElement>} */
    this._chips = new Map();
    /** @type {AbortController | null} */
    this._asking = null;
    this._timer = 0;
    /** ID before which the next page of the history begins. @type {string | null | undefined} */
    this._next = undefined;
    for (const state of STATES) {
      const chip = el("button.chip", { type: "button", "aria-pressed": "false", onclick: () => this._toggle(state) }, el(`span.swatch.${state}`, { "aria-hidden": "true" }), STATE_WORDS[state], el("span.n"));
      this._chips.set(state, chip);
      at("filter-states").append(chip);
    }
    this._text.addEventListener("input", () => this._set({ text: this._text.value.trim() }));
    this._text.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      if (this._text.value) this.clear();
      else this._text.blur();
    });
    this._server.addEventListener("change", () => this._set({ server: this._server.value }));
    this._tool.addEventListener("change", () => this._set({ tool: this._tool.value }));
    at("filter-clear").addEventListener("click", () => { this.clear(); this._text.focus(); });
    this._older.addEventListener("click", () => this.older());
    const menu = /** @type {HTMLDetailsElement} */ (at("export"));
    for (const button of menu.querySelectorAll("button")) {
      button.addEventListener("click", async () => {
        menu.open = false;
        await api.save(/** @type {"jsonl"|"trace"} */ (button.dataset.form), this._query()).catch(on.failed);
      });
    }
    menu.addEventListener("focusout", (event) => { if (!menu.contains(/** @type {Node} */ (event.relatedTarget))) menu.open = false; });
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && menu.open) {
        menu.open = false;
        menu.querySelector("summary")?.focus();
        event.stopPropagation();
      }
    });
    store.on("calls", throttled(() => this._choices(), 400));
    store.on("overview", throttled(() => this._choices(), 400));
    store.on("filter", () => this._offer());
  }

  focus() {
    this._text.focus();
    this._text.select();
  }

  clear() {
    this._text.value = this._server.value = this._tool.value = "";
    this._set({ text: "", server: "", tool: "", states: new Set() });
  }

  /** Load a page of older calls that fit the filter. */
  async older() {
    if (this._older.disabled || this._older.hidden) return;
    this._older.disabled = true;
    try {
      await this._load(this._next ?? this._oldest());
    } finally {
      this._older.disabled = false;
      this._offer();
    }
  }

  /** Offer older calls where there are any. */
  _offer() {
    this._older.hidden = this._next === undefined ? this._store.filtering || !this._store.older : this._next === null;
  }

  get hasOlder() {
    return !this._older.hidden;
  }

  /** The oldest call that is known without gaps, if no page was loaded yet. */
  _oldest() {
    if (this._store.filtering) return undefined;
    let lowest = Infinity;
    for (const id of this._store.entries.keys()) if (/^f\d+$/.test(id)) lowest = Math.min(lowest, Number(id.slice(1)));
    return Number.isFinite(lowest) ? `f${lowest}` : undefined;
  }

  /** @param {string} state */
  _toggle(state) {
    const states = new Set(this._store.filter.states);
    if (!states.delete(state)) states.add(state);
    this._set({ states });
  }

  /** @param {Partial<import("./state.js").Filter>} change */
  _set(change) {
    this._asking?.abort();
    this._next = undefined;
    this._older.disabled = false;
    this._store.setFilter(change);
    this._offer();
    const { states } = this._store.filter;
    for (const [state, chip] of this._chips) chip.setAttribute("aria-pressed", String(states.has(state)));
    at("filter-clear").hidden = !this._store.filtering;
    clearTimeout(this._timer);
    if (this._store.filtering) this._timer = window.setTimeout(() => this._load(undefined), PAUSE_MS);
  }

  _query() {
    const { text, server, tool, states } = this._store.filter;
    return { text, server, tool, states };
  }

  /** @param {string | undefined} before */
  async _load(before) {
    this._asking?.abort();
    const asking = (this._asking = new AbortController());
    try {
      const page = await api.calls({ ...this._query(), before, limit: PAGE }, asking.signal);
      if (asking.signal.aborted) return;
      this._next = page.next ?? null;
      const known = this._store.entries;
      for (const entry of page.calls) this._store.matched.add(entry.id);
      // What the stream says of a call is newer than this answer.
      this._store.put(page.calls.filter((entry) => !known.has(entry.id)));
      if (this._store.filtering) this._store.tell("filter");
      this._offer();
      if (this._store.filtering) this._on.say(`${this._store.shown().length} calls fit the filter`);
    } catch (problem) {
      if (!asking.signal.aborted) this._on.failed(problem);
    }
  }

  /** Servers and tools to choose from, and how many calls are in each state. */
  _choices() {
    /** @type {Record<string, number>} */
    const counts = {};
    const tools = new Set();
    const servers = new Set((this._store.overview?.servers ?? []).map((/** @type {any} */ each) => each.name));
    for (const { state, tool, server } of this._store.entries.values()) {
      counts[state] = (counts[state] ?? 0) + 1;
      tools.add(tool);
      servers.add(server);
    }
    for (const [state, chip] of this._chips) setText(/** @type {Element} */ (chip.lastChild), counts[state] ? counts[state].toLocaleString() : "");
    options(this._server, "All servers", servers);
    options(this._tool, "All tools", tools);
  }
}

/** @type {(select: HTMLSelectElement, all: string, values: Set<string>) => void} */
function options(select, all, values) {
  const sorted = [...values].sort();
  const key = sorted.join("\n");
  if (select.dataset.key === key) return;
  select.dataset.key = key;
  const { value } = select;
  select.replaceChildren(el("option", { value: "" }, all), ...sorted.map((each) => el("option", { value: each }, shorten(each, 60))));
  select.value = value;
}
