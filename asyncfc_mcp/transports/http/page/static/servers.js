// Servers and settings of the bridge, as the overview says.

import { at, copyButton, el, throttled } from "./dom.js";
import { full, plural, shorten, size, visible } from "./text.js";

/** How well a server is: its mark and its class. @type {Record<string, [string, string]>} */
const CONDITIONS = {
  ready: ["✓", "good"],
  sleeping: ["◌", "idle"],
  elsewhere: ["◌", "idle"],
  starting: ["…", "idle"],
  "needs sign-in": ["!", "warn"],
  failed: ["✕", "bad"],
  stopped: ["■", "bad"],
};

/** @param {string} status */
const condition = (status) => CONDITIONS[status] ?? ["•", "idle"];

/** Shows servers. @param {import("./state.js").Store} store */
export function showServers(store) {
  const view = at("view-servers");
  const badge = at("servers-badge");
  /** @type {Map<string, string>} */
  const drawn = new Map();
  /** @type {Map<string, HTMLElement>} */
  const cards = new Map();
  const list = el("ul.servers");
  const problem = el("p.note.bad", { role: "status", hidden: true });
  view.replaceChildren(problem, list);
  store.on("overview", throttled(() => {
    const { servers = [], problem: text = null } = store.overview;
    problem.hidden = !text;
    problem.textContent = text ? `Configuration: ${visible(text)}` : "";
    const troubled = servers.filter((/** @type {any} */ each) => ["bad", "warn"].includes(condition(String(each.status))[1])).length;
    badge.hidden = !troubled;
    badge.textContent = String(troubled);
    badge.setAttribute("aria-label", plural(troubled, "server needs", "servers need") + " attention");
    for (const server of servers) {
      const key = JSON.stringify(server);
      if (drawn.get(server.name) === key) continue;
      drawn.set(server.name, key);
      const open = cards.get(server.name)?.querySelector("details")?.open ?? false;
      const card = cardOf(server, open);
      const old = cards.get(server.name);
      if (old) old.replaceWith(card);
      else list.append(card);
      cards.set(server.name, card);
    }
    const names = new Set(servers.map((/** @type {any} */ each) => each.name));
    for (const [name, card] of cards) {
      if (names.has(name)) continue;
      card.remove();
      cards.delete(name);
      drawn.delete(name);
    }
    if (!servers.length && !list.querySelector(".none")) list.append(el("li.none.muted", {}, "No server is visible."));
    else if (servers.length) list.querySelector(".none")?.remove();
  }, 250));
}

/** @type {(server: any, open: boolean) => HTMLElement} */
function cardOf(server, open) {
  const [mark, kind] = condition(String(server.status));
  const stderr = Array.isArray(server.stderr) ? server.stderr : [];
  return el("li.card", {},
    el("header", {}, el(`span.health.${kind}`, { "aria-hidden": "true" }, mark), el("h2", {}, el("bdi", {}, shorten(server.name, 80))), el("span.status", {}, shorten(server.status, 40))),
    server.condition && server.condition !== server.status && el("p", {}, el("bdi", {}, visible(server.condition))),
    el("p.muted", {}, [typeof server.tools === "number" ? plural(server.tools, "tool") : "", server.restarts ? plural(server.restarts, "restart") : "no restarts"].filter(Boolean).join(" · ")),
    server.sign_in && el("p.note", {}, "Sign-in: ", shorten(server.sign_in.state, 80), server.sign_in.command && el("span.command", {}, el("code", {}, visible(server.sign_in.command)), copyButton(() => String(server.sign_in.command)))),
    stderr.length > 0 && el("details", { open: open || kind === "bad" }, el("summary", {}, "Last lines of stderr"), el("pre.stderr", { tabindex: "0", role: "region", "aria-label": `stderr of ${shorten(server.name, 80)}` }, stderr.map(visible).join("\n"))));
}

/** Shows settings and facts of the process. @param {import("./state.js").Store} store */
export function showSettings(store) {
  const view = at("view-settings");
  const only = /** @type {HTMLInputElement} */ (el("input", { type: "checkbox", id: "only-changed" }));
  const facts = el("dl.facts");
  const body = el("tbody");
  const table = el("table.settings", {}, el("caption", {}, "Settings of the configuration"), el("thead", {}, el("tr", {}, ...["Setting", "Value", "Default"].map((each) => el("th", { scope: "col" }, each)))), body);
  const choice = el("label.choice", {}, only, " changed ones only");
  view.replaceChildren(facts, choice, el("div.table-scroll", { tabindex: "0", role: "region", "aria-label": "Settings" }, table));
  let drawn = "";
  const draw = () => {
    const overview = store.overview;
    if (!overview) return;
    const { settings = [], journal } = overview;
    const key = JSON.stringify([settings, journal, overview.pid, overview.configuration, only.checked]);
    if (key === drawn) return;
    drawn = key;
    const rows = /** @type {[string, unknown][]} */ ([
      ["Version", overview.version],
      ["Process", overview.pid],
      ["Running since", overview.since && full(overview.since)],
      ["Transport", overview.transport],
      ["Configuration", overview.configuration],
      ["Journal", journal && `${journal.path ?? ""}${typeof journal.bytes === "number" ? ` (${size(journal.bytes)})` : ""}`],
    ]);
    facts.replaceChildren(...rows.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, el("bdi", {}, shorten(value, 300)))]));
    const list = settings.filter((/** @type {any} */ each) => each.changed || !only.checked);
    body.replaceChildren(...list.map((/** @type {any} */ each) => el("tr", { class: each.changed ? "changed" : false }, el("th", { scope: "row" }, shorten(each.name, 80)), el("td", {}, el("code", {}, word(each.value)), each.changed && el("span.tag", {}, "changed")), el("td.muted", {}, word(each.default)))));
    choice.hidden = table.hidden = !settings.length;
  };
  store.on("overview", throttled(draw, 250));
  only.addEventListener("change", draw);
}

/** @param {unknown} value */
function word(value) {
  if (value === null || value === undefined) return "–";
  return shorten(typeof value === "string" ? value : JSON.stringify(value), 200);
}
