// Access and connection: the one-time key of the address, the form for a token, and the banner of a lost connection.

import * as api from "./api.js";
import { at, setText } from "./dom.js";
import { shorten, visible } from "./text.js";

/**
 * Exchange the key of the address, if there is one, and remove it from the address at once.
 * @returns {Promise<string | null>} why the key was not accepted
 */
export async function useKey() {
  const match = /^#key=([A-Za-z0-9._~-]{8,512})$/.exec(location.hash);
  if (!match) return null;
  history.replaceState(null, "", location.pathname + location.search);
  api.setToken("");
  try {
    await api.enter(match[1]);
    return null;
  } catch (problem) {
    if (problem instanceof api.Refused) return "This address has been used, or is older than a minute: a key is valid once.";
    return `The key of this address could not be used. ${problem instanceof Error ? problem.message : ""}`;
  }
}

/**
 * @param {import("./state.js").Store} store
 * @param {api.Feed} feed
 */
export function showConnection(store, feed) {
  const banner = at("banner");
  const dialog = /** @type {HTMLDialogElement} */ (at("access"));
  let timer = 0;
  at("banner-button").addEventListener("click", () => feed.retry());
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  at("access-form").addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const field = /** @type {HTMLInputElement} */ (at("access-token"));
    const value = field.value.trim();
    field.value = "";
    dialog.close();
    store.setConnection({ state: "connecting", text: "Connecting" });
    try {
      await api.use(value);
    } catch (problem) {
      return store.setConnection({ state: "refused", text: problem instanceof Error ? problem.message : "" });
    }
    feed.run();
  });
  const draw = () => {
    const { state, text, reason, retryAt } = store.connection;
    const box = at("connection");
    box.className = `connection ${state}`;
    setText(at("connection-text"), text.length > 30 || state === "refused" ? (state === "refused" ? "Token needed" : state) : text);
    clearTimeout(timer);
    document.body.classList.toggle("stale", state === "lost" || state === "refused");
    banner.hidden = state !== "lost";
    if (state === "lost") {
      const left = Math.max(0, Math.ceil(((retryAt ?? 0) - Date.now()) / 1000));
      setText(at("banner-text"), `The connection to the bridge is lost${reason ? ` (${shorten(reason, 200)})` : ""}; what you see is the last known state. ${left ? `Next attempt in ${left} s.` : "Trying again …"}`);
      timer = window.setTimeout(draw, 1000);
    }
    if (state === "refused" && !dialog.open) {
      setText(at("access-text"), visible(text));
      dialog.showModal();
      at("access-token").focus();
    }
  };
  store.on("connection", draw);
  draw();
}
