// Elements. Data reaches the page as text nodes and attributes only: nothing here or elsewhere parses HTML.

/**
 * The element of the page with an ID.
 * @param {string} id
 * @returns {any}
 */
export function at(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

/** @typedef {Node | string | null | undefined | false} Child */

/**
 * Make an element. Attributes with `on` before their name are listeners; false and null leave one out.
 * @param {string} tag `name.class.class`
 * @param {Record<string, any>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(.../** @type {(Node | string)[]} */ (children.filter((each) => each || each === "")));
  return made;
}

/**
 * Set text only where it differs, so that nothing is announced or laid out twice.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Call a function at most once per frame, or per `ms`.
 * @param {() => void} run
 * @param {number} [ms]
 * @returns {() => void}
 */
export function throttled(run, ms = 0) {
  let pending = false;
  let last = 0;
  return () => {
    if (pending) return;
    pending = true;
    const go = () => {
      pending = false;
      last = performance.now();
      run();
    };
    const wait = last + ms - performance.now();
    if (wait > 0) setTimeout(go, wait);
    else requestAnimationFrame(go);
  };
}

/**
 * A button that copies text.
 * @param {() => string} text
 * @param {string} [label]
 * @param {string} [name] for screen readers
 */
export function copyButton(text, label = "Copy", name = label) {
  const button = el("button.small.copy", { type: "button", "aria-label": name, onclick: async () => {
    try {
      await navigator.clipboard.writeText(text());
      setText(button, "Copied");
    } catch {
      setText(button, "Not allowed");
    }
    setTimeout(() => setText(button, label), 1500);
  } }, label);
  return button;
}
