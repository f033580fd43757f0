// Time saved and what happens now, in large figures; the same for screen readers; and what to do while there are no calls.

import { at, copyButton, el, setText, throttled } from "./dom.js";
import { STATES } from "./state.js";
import { duration, plural, STATE_WORDS } from "./text.js";

const SAY_MS = 5_000;

/** @param {import("./state.js").Store} store */
export function showFigures(store) {
  store.on("overview", throttled(() => {
    const { saved = {}, counts = {} } = store.overview;
    for (const name of ["session", "day", "all"]) {
      const figure = at(`saved-${name}`);
      const calls = saved.calls?.[name];
      setText(at(`calls-${name}`), typeof calls === "number" ? plural(calls, "call") : "");
      const value = typeof saved[name] === "number" ? duration(saved[name]) : "–";
      if (figure.textContent !== value) figure.replaceChildren(...figureOf(value));
    }
    document.title = counts.running + counts.waiting > 0 ? `(${counts.running + counts.waiting}) asyncfc-mcp` : "asyncfc-mcp";
  }, 100));
  store.on("calls", throttled(() => showEmpty(store), 200));
  store.on("filter", throttled(() => showEmpty(store), 200));
  store.on("overview", throttled(() => showEmpty(store), 1000));
}

/** Digits large, units small. @param {string} value @returns {(string | Node)[]} */
function figureOf(value) {
  /** @type {(string | Node)[]} */
  const found = [];
  for (const part of value.split(/(?<= )(?=[a-z])|(?<=[a-z])(?= )/)) found.push(/^[a-z]/.test(part) ? el("span.unit", {}, part) : part);
  return found;
}

/** Say what has changed, not more often than someone can listen to. @param {import("./state.js").Store} store */
export function announceChanges(store) {
  let last = "";
  const announce = throttled(() => {
    /** @type {Record<string, number>} */
    const counts = {};
    for (const { state } of store.entries.values()) counts[state] = (counts[state] ?? 0) + 1;
    const text = STATES.filter((state) => counts[state]).map((state) => `${counts[state]} ${STATE_WORDS[state]}`).join(", ");
    if (text && text !== last) setText(at("live"), `Calls: ${text}`);
    last = text;
  }, SAY_MS);
  store.on("calls", announce);
}

/** @param {import("./state.js").Store} store */
function showEmpty(store) {
  const empty = at("empty");
  const none = store.loaded && (store.filtering ? store.shown().length === 0 : store.entries.size === 0);
  const kind = none ? (store.filtering ? "filter" : `first-${store.overview?.transport ?? ""}`) : "";
  if (empty.dataset.kind === kind) return;
  empty.dataset.kind = kind;
  empty.hidden = !none;
  if (!none) return empty.replaceChildren();
  if (store.filtering) {
    return empty.replaceChildren(el("h2", {}, "No call fits the filter"), el("p", {}, "The history was searched, too. Press Escape in the filter to clear it."));
  }
  const command = store.overview?.transport === "daemon" ? "asyncfc-mcp install" : `claude mcp add --transport http asyncfc ${new URL("mcp", document.baseURI).href.split("#")[0]}`;
  return empty.replaceChildren(
    el("h2", {}, "No calls yet"),
    el("p", {}, "Each call of your client appears here as it is made: when it waits, for what, and how long it runs."),
    el("ol", {},
      el("li", {}, store.overview?.transport === "daemon" ? "Put the bridge into a client, if it is not there yet:" : "Connect a client:", el("span.command", {}, el("code", {}, command), copyButton(() => command, "Copy", "Copy the command"))),
      el("li", {}, "Ask it for something that takes several tools, such as: ", el("em", {}, "“Run the tests and the linter, and build the site meanwhile.”")),
      el("li", {}, "Watch the calls overlap.")));
}
