// Keys that work everywhere on the page, and the list of all keys.

import { at, el } from "./dom.js";

const HELP = /** @type {const} */ ([
  ["/", "filter"],
  ["1 2 3 4", "time line, table, servers, settings"],
  ["n", "follow now"],
  ["0", "show all calls"],
  ["l", "show the latest calls"],
  ["+ −", "zoom"],
  ["← → ↑ ↓", "select a call (in the time line)"],
  ["Shift ← →", "move in time"],
  ["Enter", "open the selected call"],
  ["c", "cancel the open call (asks first)"],
  ["Escape", "close what is open"],
  ["wheel", "zoom, or scroll where there is more below; with Ctrl it always zooms"],
  ["drag, Shift wheel", "move in time"],
]);

/**
 * @param {{view: (name: string) => void, filter: () => void, line: import("./timeline.js").TimeLine, close: () => void, cancel: () => void}} on
 */
export function listenForKeys(on) {
  const help = /** @type {HTMLDialogElement} */ (at("help"));
  at("help-keys").replaceChildren(...HELP.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]));
  at("help-button").addEventListener("click", () => help.showModal());
  at("help-close").addEventListener("click", () => help.close());
  const views = ["timeline", "table", "servers", "settings"];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.key === "Escape") return on.close();
    if (target.matches("input, select, textarea")) return;
    const keys = /** @type {Record<string, () => void>} */ ({
      "/": on.filter,
      "?": () => help.showModal(),
      n: () => on.line.follow(!on.line.following),
      l: () => on.line.latest(),
      "0": () => on.line.fit(),
      "+": () => on.line.zoom(1 / 1.4),
      "-": () => on.line.zoom(1.4),
      c: on.cancel,
    });
    views.forEach((name, index) => { keys[String(index + 1)] = () => on.view(name); });
    const run = keys[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  });
}
