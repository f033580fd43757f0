// JSON as text with colours. Owns how a value of arguments or results looks; builds nodes, never markup.

import { copyButton, el } from "./dom.js";
import { size, visible } from "./text.js";

/** Longer values are folded at first. */
const FOLD = 2_000;
/** Above this, colours would cost more than they help. */
const PLAIN = 60_000;
const TOKENS = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/**
 * A value, formatted, foldable where it is large.
 * @param {string} title
 * @param {unknown} value
 * @param {{open?: boolean}} [options]
 */
export function jsonView(title, value, options = {}) {
  const text = typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "");
  const open = options.open ?? text.length <= FOLD;
  const body = el("pre.json", { tabindex: "0", role: "region", "aria-label": title, dir: "ltr" });
  let filled = false;
  const fill = () => {
    if (filled) return;
    filled = true;
    body.append(...(typeof value === "string" || text.length > PLAIN ? [visible(text)] : coloured(visible(text))));
  };
  const details = /** @type {HTMLDetailsElement} */ (
    el("details", {}, el("summary", {}, title, el("span.muted", {}, ` ${size(text.length)}`)), body)
  );
  if (open) fill();
  details.open = open;
  details.addEventListener("toggle", fill);
  return el("div.value", {}, details, copyButton(() => text, "Copy", `Copy ${title}`));
}

/** @param {string} text @returns {(Node | string)[]} */
function coloured(text) {
  const nodes = [];
  let last = 0;
  for (const match of text.matchAll(TOKENS)) {
    nodes.push(text.slice(last, match.index));
    const [whole, string, colon, word] = match;
    const kind = string !== undefined ? (colon ? "key" : "string") : word !== undefined ? "word" : "number";
    nodes.push(el(`span.${kind}`, {}, whole));
    last = match.index + whole.length;
  }
  nodes.push(text.slice(last));
  return nodes;
}

/**
 * The parts of a tool's result: its texts as text (JSON within them formatted), the structured content, the rest.
 * @param {any} result
 * @returns {HTMLElement[]}
 */
export function resultViews(result) {
  if (result === null || typeof result !== "object") return [jsonView("Result", result)];
  const views = [];
  const structured = result.structuredContent;
  if (structured !== undefined && structured !== null) views.push(jsonView("Result", structured));
  const content = Array.isArray(result.content) ? result.content : [];
  for (const block of content) {
    if (block?.type === "text" && typeof block.text === "string") {
      const parsed = parse(block.text);
      if (structured !== undefined && structured !== null && parsed !== undefined && same(parsed, structured)) continue;
      views.push(jsonView(result.isError ? "Error" : "Text", parsed ?? block.text));
    } else if (block) views.push(jsonView(String(block.type ?? "Content"), block));
  }
  if (!views.length || "_meta" in result) views.push(jsonView("As received", result, { open: !views.length }));
  return views;
}

/** @param {string} text */
function parse(text) {
  if (!/^\s*[[{]/.test(text) || text.length > 500_000) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @type {(a: unknown, b: unknown) => boolean} */
function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
