// Calls as a table: for screen readers, for keyboards, and for reading figures. Rows keep their elements while they are
// shown, so that focus and reading position stay.

import { at, el, setText, throttled } from "./dom.js";
import { LIVE, phases } from "./state.js";
import { clock, day, duration, full, plural, shorten, STATE_WORDS, WAIT_WORDS } from "./text.js";

const PAGE = 100;
const COLUMNS = ["State", "Call", "Tool", "Server", "Submitted", "Waited", "Ran", "Waited for, outcome"];

/** @typedef {import("./state.js").Entry} Entry */

export class Table {
  /**
   * @param {import("./state.js").Store} store
   * @param {{open: (id: string) => void, older: () => Promise<void>, hasOlder: () => boolean}} on
   */
  constructor(store, on) {
    this._store = store;
    this._on = on;
    this._limit = PAGE;
    /** @type {Map<string, {row: HTMLElement, entry: Entry}>} */
    this._rows = new Map();
    this._body = el("tbody");
    this._caption = el("caption");
    this._more = el("button", { type: "button", onclick: () => this._showMore() }, "Show more");
    at("view-table").replaceChildren(
      el("div.table-scroll", { tabindex: "0", role: "region", "aria-label": "Table of calls" }, el("table.calls", {}, this._caption, el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name)))), this._body)),
      el("p.more", {}, this._more),
    );
    this._draw = throttled(() => this._render(), 250);
    for (const topic of /** @type {const} */ (["calls", "filter", "view", "selection"])) store.on(topic, this._draw);
    setInterval(() => this._running(), 1000);
    this._body.addEventListener("keydown", (event) => this._key(event));
    this._body.addEventListener("click", (event) => this._click(event));
  }

  _render() {
    if (this._store.view !== "table") return;
    const all = this._store.shown().sort((a, b) => b.submitted_at - a.submitted_at || (a.id < b.id ? 1 : -1));
    const shown = all.slice(0, this._limit);
    const kept = new Set(shown.map((each) => each.id));
    for (const [id, { row }] of this._rows) {
      if (!kept.has(id)) {
        row.remove();
        this._rows.delete(id);
      }
    }
    let previous = /** @type {Element | null} */ (null);
    for (const entry of shown) {
      let known = this._rows.get(entry.id);
      if (!known) {
        known = { row: this._row(entry), entry };
        this._rows.set(entry.id, known);
      } else if (known.entry !== entry) {
        const cells = this._cells(entry);
        // The button of the call stays: it may have the focus.
        [...known.row.children].forEach((cell, index) => { if (index !== 1) cell.replaceWith(cells[index]); });
        known.entry = entry;
      }
      known.row.setAttribute("aria-selected", String(entry.id === this._store.selected));
      const place = previous ? previous.nextElementSibling : this._body.firstElementChild;
      if (place !== known.row) this._body.insertBefore(known.row, place);
      previous = known.row;
    }
    setText(this._caption, `${plural(all.length, "call")}${this._store.filtering ? " that fit the filter" : ""}, newest first${shown.length < all.length ? `; ${shown.length} shown` : ""}`);
    setText(this._more, shown.length < all.length ? "Show more" : "Load older calls");
    this._more.hidden = shown.length === all.length && !this._on.hasOlder();
  }

  async _showMore() {
    if (this._rows.size < this._store.shown().length) this._limit += PAGE * 2;
    else {
      await this._on.older();
      this._limit += PAGE * 5;
    }
    this._draw();
  }

  /** @param {Entry} entry */
  _row(entry) {
    return el("tr", { "data-id": entry.id }, ...this._cells(entry));
  }

  /** @param {Entry} entry @returns {HTMLElement[]} */
  _cells(entry) {
    const { from, queueEnd, started, end } = phases(entry, this._store.now());
    const waits = (entry.waits ?? []).map((wait) => `${WAIT_WORDS[wait.kind] ?? wait.kind} ${shorten(wait.on, 20)}`);
    const outcome = entry.failure ?? entry.question ?? "";
    const today = new Date(from * 1000).toDateString() === new Date().toDateString();
    return [
      el("td", {}, el(`span.pill.${entry.state}`, {}, STATE_WORDS[entry.state] ?? entry.state)),
      el("th", { scope: "row" }, el("button.link", { type: "button", "aria-label": `Details of ${shorten(entry.name ?? entry.id, 40)}, ${shorten(entry.tool, 60)}`, onclick: () => this._on.open(entry.id) },
        el("bdi", {}, shorten(entry.name ?? entry.id, 40)))),
      el("td", {}, el("bdi", {}, shorten(entry.tool, 60))),
      el("td", {}, el("bdi", {}, shorten(entry.server, 40))),
      el("td.figure-cell", {}, el("time", { datetime: new Date(from * 1000).toISOString(), title: full(from) }, today ? clock(from) : `${day(from)} ${clock(from)}`)),
      el("td.figure-cell", {}, queueEnd - from < 0.02 ? "–" : duration(queueEnd - from)),
      el("td.figure-cell", {}, started === null ? "–" : duration(end - started)),
      el("td.outcome", {}, shorten(waits.join("; "), 160), waits.length && outcome ? ". " : "", outcome && el("bdi", { class: entry.failure ? "bad" : "" }, shorten(outcome, 160))),
    ];
  }

  /** Times of calls that have not ended. */
  _running() {
    if (this._store.view !== "table") return;
    for (const { row, entry } of this._rows.values()) {
      if (!LIVE.has(entry.state)) continue;
      const { from, queueEnd, started, end } = phases(entry, this._store.now());
      setText(row.children[5], queueEnd - from < 0.02 ? "–" : duration(queueEnd - from));
      setText(row.children[6], started === null ? "–" : duration(end - started));
    }
  }

  /** A click anywhere in a row opens its call, unless text is being selected. @param {MouseEvent} event */
  _click(event) {
    const target = /** @type {Element} */ (event.target);
    const id = /** @type {HTMLElement | null} */ (target.closest("tr"))?.dataset.id;
    if (id && !target.closest("button") && !String(getSelection())) this._on.open(id);
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    const down = event.key === "ArrowDown";
    if (!down && event.key !== "ArrowUp") return;
    const row = /** @type {Element | null} */ (event.target)?.closest("tr");
    const next = down ? row?.nextElementSibling : row?.previousElementSibling;
    const button = /** @type {HTMLElement | null | undefined} */ (next?.querySelector("button"));
    if (!button) return;
    event.preventDefault();
    button.focus();
  }
}
