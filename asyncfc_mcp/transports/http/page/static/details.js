// Details of one call: what it waited for, its times, arguments and result, and cancelling it.

import * as api from "./api.js";
import { at, el, setText, throttled } from "./dom.js";
import { jsonView, resultViews } from "./json_view.js";
import { LIVE, phases } from "./state.js";
import { called, duration, full, plural, shorten, size, STATE_WORDS, visible, WAIT_WORDS } from "./text.js";

/** @typedef {import("./state.js").Entry} Entry */

export class Details {
  /**
   * @param {import("./state.js").Store} store
   * @param {{reveal: (id: string) => void, refused: (text: string) => void}} on
   */
  constructor(store, on) {
    this._store = store;
    this._on = on;
    this._panel = /** @type {HTMLElement} */ (at("details"));
    /** @type {string | null} */
    this._shown = null;
    /** @type {Entry | null} */
    this._entry = null;
    /** @type {AbortController | null} */
    this._asking = null;
    /** @type {Element | null} */
    this._before = null;
    this._state = "";
    store.on("calls", throttled(() => this._refresh(), 200));
    store.on("selection", () => { if (this._shown && store.selected !== this._shown) store.selected ? this.open(store.selected, false) : this.close(); });
    setInterval(() => this._times(), 500);
    this._panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        this.close();
      }
    });
    at("confirm-no").addEventListener("click", () => at("confirm").close());
    at("confirm-yes").addEventListener("click", () => this._cancel());
  }

  /** @param {string} id @param {boolean} [focus] */
  open(id, focus = true) {
    if (this._panel.hidden) this._before = document.activeElement;
    this._shown = id;
    this._entry = this._store.entries.get(id) ?? null;
    this._store.select(id);
    this._panel.hidden = false;
    document.body.classList.add("with-details");
    this._build();
    this._ask();
    if (focus) this._panel.focus();
  }

  close() {
    if (this._panel.hidden) return;
    this._asking?.abort();
    this._shown = null;
    this._panel.hidden = true;
    document.body.classList.remove("with-details");
    this._store.select(null);
    if (this._before instanceof HTMLElement && this._before.isConnected) this._before.focus();
  }

  _refresh() {
    if (!this._shown) return;
    const entry = this._store.entries.get(this._shown);
    if (!entry || entry === this._entry) return;
    this._entry = entry;
    const focused = this._panel.contains(document.activeElement) ? document.activeElement?.getAttribute("data-keep") : null;
    this._buildHead();
    if (focused) /** @type {HTMLElement | null} */ (this._panel.querySelector(`[data-keep="${CSS.escape(focused)}"]`) ?? this._panel)?.focus();
    if (this._state !== entry.state) this._ask();
  }

  // -- building

  _build() {
    this._head = el("div.head");
    this._values = el("div.values");
    this._panel.replaceChildren(this._head, this._values);
    this._buildHead();
  }

  _buildHead() {
    const entry = this._entry;
    const close = el("button.icon", { type: "button", "aria-label": "Close details", title: "Close (Escape)", "data-keep": "close", onclick: () => this.close() }, "×");
    if (!entry) {
      this._head?.replaceChildren(el("header", {}, el("h2", {}, shorten(this._shown, 60)), close));
      return;
    }
    this._state = entry.state;
    const live = LIVE.has(entry.state);
    const parts = [
      el("header", {}, el("div", {}, el("h2", {}, el("bdi", {}, shorten(entry.tool, 200))), el("p.muted", {}, el("bdi", {}, called(entry)))), close),
      el("p.state", {}, el(`span.pill.${entry.state}`, {}, STATE_WORDS[entry.state] ?? entry.state), progressOf(entry),
        live && el("button.danger.small", { type: "button", "data-keep": "cancel", onclick: () => this._confirm() }, "Cancel…")),
      entry.question && note("question", "Question", entry.question),
      entry.failure && note("bad", "Failure", entry.failure),
      entry.cause && el("p", {}, "Because of ", this._link(entry.cause)),
      this._bar(),
      this._waits(entry),
      this._facts(entry),
    ];
    this._head?.replaceChildren(.../** @type {Node[]} */ (parts.filter(Boolean)));
    this._times();
  }

  /** The phases of the call in proportion, with their lengths. */
  _bar() {
    this._phases = el("dl.phases");
    return this._phases;
  }

  _times() {
    const entry = this._entry;
    if (!entry || !this._phases || this._panel.hidden) return;
    const { from, waitEnd, queueEnd, started, end, queued } = phases(entry, this._store.now());
    const lengths = /** @type {[string, string, number][]} */ ([
      ["waiting", "waited", waitEnd - from],
      ["queued", "queued", queued === null ? 0 : queueEnd - waitEnd],
      [started === null ? "" : entry.state, "ran", started === null ? 0 : end - started],
    ]).filter(([kind, , length]) => kind && (length >= 0.02 || kind === entry.state));
    const key = lengths.map(([kind]) => kind).join();
    if (this._phases.dataset.key !== key) {
      this._phases.dataset.key = key;
      this._phases.replaceChildren(...lengths.map(([kind, word]) => el("div", {}, el("dt", {}, el(`span.swatch.${kind}`), ` ${word}`), el("dd"))));
    }
    lengths.forEach(([, , length], index) => setText(/** @type {Element} */ (this._phases?.children[index].lastChild), duration(length)));
  }

  /** @param {Entry} entry */
  _waits(entry) {
    const now = entry.waiting_for;
    const waits = entry.waits ?? [];
    const waiters = [...this._store.entries.values()].filter((each) => each.waits?.some((wait) => wait.on === entry.id));
    if (!waits.length && !now && !waiters.length) return null;
    return el("section.waits", {},
      now && el("p.now", {}, "Waits now: ", shorten(now.why, 200), now.ids.length ? " " : "", ...joined(now.ids.map((id) => this._link(id)))),
      waits.length > 0 && el("ul", {}, ...waits.map((wait) => el("li", {}, el(`span.kind.${wait.kind}`), `${WAIT_WORDS[wait.kind] ?? wait.kind} `, this._link(wait.on),
        wait.path && el("code", {}, shorten(wait.path, 200))))),
      waiters.length > 0 && el("p", {}, `${plural(waiters.length, "call")} waited for it: `, ...joined(waiters.slice(0, 12).map((each) => this._link(each.id))), waiters.length > 12 ? " …" : ""));
  }

  /** @param {Entry} entry */
  _facts(entry) {
    const rows = /** @type {[string, string | null | undefined | false][]} */ ([
      ["Server", entry.server],
      ["Client", entry.host],
      ["Conversation", entry.conversation],
      ["Submitted", full(entry.submitted_at)],
      ["Started", entry.started_at && full(entry.started_at)],
      ["Ended", entry.ended_at && full(entry.ended_at)],
      ["Result read", entry.read_at ? full(entry.read_at) : entry.ended_at ? "not yet" : null],
      ["Attempts", (entry.attempts ?? 1) > 1 && String(entry.attempts)],
      ["Result size", typeof entry.size === "number" && entry.size > 0 && size(entry.size)],
      ["Runs", entry.elsewhere && "in another process"],
    ]);
    return el("dl.facts", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, el("bdi", {}, shorten(value, 200)))]));
  }

  /** @param {string} id */
  _link(id) {
    const entry = this._store.entries.get(id);
    if (!entry && !/^f\d+$/.test(id)) return el("span", {}, shorten(id, 60));
    return el("button.link", { type: "button", "data-keep": `to-${id}`, onclick: () => { this.open(id); this._on.reveal(id); } },
      el("bdi", {}, entry ? `${shorten(entry.name ?? entry.id, 40)} ${shorten(entry.tool, 60)}` : shorten(id, 40)));
  }

  // -- arguments and result

  async _ask() {
    this._asking?.abort();
    const asking = (this._asking = new AbortController());
    const id = this._shown;
    if (!id) return;
    try {
      const record = await api.call(id, asking.signal);
      if (this._shown !== id) return;
      if (!this._entry) {
        this._entry = record;
        this._buildHead();
      }
      this._show(record);
    } catch (problem) {
      if (asking.signal.aborted || this._shown !== id) return;
      if (problem instanceof api.Refused) this._on.refused(problem.message);
      this._values?.replaceChildren(el("p.muted", {}, `Arguments and result cannot be shown: ${visible(problem instanceof Error ? problem.message : "")}`));
    }
  }

  /** @param {any} record */
  _show(record) {
    const views = [];
    if (record.hidden) views.push(el("p.note", {}, `Arguments and result are hidden: ${visible(record.hidden)}`));
    if (record.arguments !== undefined && record.arguments !== null) views.push(jsonView("Arguments", record.arguments));
    if (record.result !== undefined && record.result !== null) views.push(...resultViews(record.result));
    else if (!record.hidden && LIVE.has(record.state)) views.push(el("p.muted", {}, "No result yet."));
    if (record.truncated) views.push(el("p.muted", {}, "Large values are shortened here; the result itself is complete."));
    this._values?.replaceChildren(...views);
  }

  // -- cancelling

  _confirm() {
    const entry = this._entry;
    if (!entry) return;
    setText(at("confirm-title"), `Cancel ${called(entry)}?`);
    const waiting = [...this._store.entries.values()].filter((each) => LIVE.has(each.state) && each.waits?.some((wait) => wait.kind === "value" && wait.on === entry.id));
    setText(at("confirm-text"), `${shorten(entry.tool, 80)} is ${STATE_WORDS[entry.state]}. ${entry.state === "waiting" ? "It will not run." : "Its server is asked to stop; what it has done already is not undone."}${
      waiting.length ? ` ${plural(waiting.length, "call")} that ${waiting.length === 1 ? "needs" : "need"} its result will fail.` : ""}`);
    at("confirm").showModal();
    at("confirm-no").focus();
  }

  async _cancel() {
    at("confirm").close();
    const id = this._shown;
    if (!id) return;
    try {
      this._store.put([await api.cancel(id)]);
    } catch (problem) {
      this._values?.prepend(el("p.note.bad", { role: "alert" }, `It could not be cancelled: ${visible(problem instanceof Error ? problem.message : "")}`));
    }
  }
}

/** @type {(kind: string, title: string, text: string) => HTMLElement} */
function note(kind, title, text) {
  return el(`p.note.${kind}`, {}, el("strong", {}, `${title}: `), el("bdi", {}, visible(text)));
}

/** @param {Entry} entry */
function progressOf(entry) {
  const { progress } = entry;
  if (!progress || !LIVE.has(entry.state)) return null;
  return el("span.progress", {},
    progress.total ? el("progress", { max: progress.total, value: progress.done, "aria-label": "Progress" }) : "",
    shorten(`${progress.done}${progress.total ? ` of ${progress.total}` : ""} ${progress.message ?? ""}`, 80));
}

/** @param {Node[]} nodes @returns {(Node | string)[]} */
function joined(nodes) {
  return nodes.flatMap((node, index) => (index ? [", ", node] : [node]));
}
