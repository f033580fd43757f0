// The page: makes its parts and connects them. Nothing is decided here.

import { showConnection, useKey } from "./access.js";
import { Failed, Feed, Refused } from "./api.js";
import { Details } from "./details.js";
import { at, setText } from "./dom.js";
import { announceChanges, showFigures } from "./figures.js";
import { Filters } from "./filters.js";
import { Gestures } from "./gestures.js";
import { listenForKeys } from "./keys.js";
import { showServers, showSettings } from "./servers.js";
import { Store } from "./state.js";
import { Table } from "./table.js";
import { TimeLine } from "./timeline.js";

const VIEWS = ["timeline", "table", "servers", "settings"];

const store = new Store();
const say = (/** @type {string} */ text) => setText(at("live"), text);
const refused = (/** @type {string} */ text) => store.setConnection({ state: "refused", text });
const failed = (/** @type {unknown} */ problem) => {
  if (problem instanceof Refused) refused(problem.message);
  else if (problem instanceof Failed) say(problem.message);
};

const line = new TimeLine(store);
const details = new Details(store, { reveal: (id) => line.reveal(id), refused });
const filters = new Filters(store, { failed, say });
new Gestures(line, { open: (id) => details.open(id), say });
new Table(store, { open: (id) => details.open(id), older: () => filters.older(), hasOlder: () => filters.hasOlder });
showFigures(store);
showServers(store);
showSettings(store);
announceChanges(store);

const feed = new Feed({
  connection: (connection) => store.setConnection(connection),
  event: (name, data) => {
    if (name === "overview") store.setOverview(data);
    else if (name === "calls" && data.reset) store.reset(data.entries, data.older);
    else if (name === "calls") store.put(data.entries);
  },
});
showConnection(store, feed);

/** @param {string} name */
function show(name) {
  store.view = name;
  for (const each of VIEWS) {
    at(`view-${each}`).hidden = each !== name;
    const tab = document.querySelector(`[data-view="${each}"]`);
    if (each === name) tab?.setAttribute("aria-current", "page");
    else tab?.removeAttribute("aria-current");
  }
  const calls = name === "timeline" || name === "table";
  at("tools").hidden = at("figures").hidden = !calls;
  at("time-tools").hidden = name !== "timeline";
  if (!calls) details.close();
  store.tell("view");
}

for (const tab of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-view]"))) {
  tab.addEventListener("click", () => {
    show(tab.dataset.view ?? "timeline");
    history.replaceState(null, "", `#${tab.dataset.view}`);
  });
}
listenForKeys({
  view: show,
  filter: () => filters.focus(),
  line,
  close: () => details.close(),
  cancel: () => at("details").querySelector("[data-keep=cancel]")?.click(),
});

async function enter() {
  const problem = await useKey();
  if (problem) return refused(problem);
  const name = location.hash.slice(1);
  show(VIEWS.includes(name) ? name : store.view);
  await feed.run();
}

window.addEventListener("hashchange", () => location.hash.startsWith("#key=") && enter());
enter();
