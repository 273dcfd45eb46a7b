/**
 * Making and changing elements. Text goes in as text nodes, never as markup; nothing else here or elsewhere in the page
 * makes markup of a string.
 * @module
 */

/**
 * Make an element. In `props`, `class`, `text`, `on` (listeners), `data` and `style` are what they say; names that begin
 * with "aria-", and those of `ATTRIBUTES`, become attributes; null and false leave one out; the rest are properties.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  set(element, props);
  append(element, children);
  return element;
}

const ATTRIBUTES = new Set(["role", "for", "href", "dir", "tabindex", "list", "inputmode", "enterkeyhint", "autocomplete", "title"]);

export function set(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else if (name.startsWith("aria-") || ATTRIBUTES.has(name)) attribute(element, name, value);
    else if (value !== undefined && value !== null) element[name] = value;
  }
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || (value === false && !name.startsWith("aria-"))) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
}

export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Change the text only where it is another one: what assistive technology and the layout do not notice costs nothing. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setClass(element, name, isOn) {
  if (element.classList.contains(name) !== isOn) element.classList.toggle(name, isOn);
}

/**
 * Give the focus back to an element, or to the one that has taken its place meanwhile: both have the same `data-focus`.
 * Else it is in the field where one writes.
 */
export function refocus(element) {
  const name = element?.dataset?.focus;
  const there = element?.isConnected ? element : name && document.querySelector(`[data-focus="${CSS.escape(name)}"]`);
  const wanted = there || document.querySelector(".composer textarea");
  // A dialog that closes gives the focus back, but not the caret: what one types would go nowhere.
  if (wanted === document.activeElement) wanted?.blur();
  wanted?.focus({ preventScroll: true });
}

/** Put these children there in this order, and move no more of them than necessary. */
export function arrange(parent, wanted) {
  let at = parent.firstChild;
  for (const child of wanted) {
    if (child === at) at = at.nextSibling;
    else parent.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  attach: "M20 11.5 12 19.4a5.2 5.2 0 0 1-7.4-7.3l8.4-8.3a3.5 3.5 0 0 1 5 4.9l-8.4 8.3a1.7 1.7 0 0 1-2.5-2.4l7.7-7.6",
  back: "M15 5l-7 7 7 7",
  check: "M4.5 12.5l5 5 10-11",
  checks: "M2 12.5l4.6 4.8L15 7.500M10.500 15.600l1.700 1.700L22 7",
  clock: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM12 7.500V12l3 2",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  down: "M12 5v14M5.500 12.500L12 19l6.500-6.500",
  edit: "M4 20l1-4L16.500 4.500l3 3L8 19zM14.500 6.500l3 3",
  error: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM12 7.500v5.500M12 16.300v.2",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  gear: "M12 8.800a3.200 3.200 0 1 0 0 6.400 3.200 3.200 0 0 0 0-6.400zM12 2.800v3M12 18.200v3M2.800 12h3M18.200 12h3M5.500 5.500l2.100 2.100M16.400 16.400l2.100 2.100M18.500 5.500l-2.100 2.100M7.600 16.400l-2.100 2.100",
  info: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM12 11v5.500M12 7.500v.2",
  mention: "M12 8.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM15.500 8.500v4.700a2.500 2.500 0 0 0 5 0V12a8.500 8.500 0 1 0-3.500 6.900",
  messages: "M3 4h18v12.500H9.500L5.500 20.500v-4H3zM11.500 6.800a2.700 2.700 0 1 0 0 5.400 2.700 2.700 0 0 0 0-5.400zM13.500 11.500L16 14",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  people: "M9 4.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7zM2.500 20c0-3.500 2.900-5.500 6.500-5.500s6.500 2 6.500 5.500M15.500 5a3.300 3.300 0 0 1 0 6.200M18 14.800c2.200.7 3.500 2.400 3.500 5.200",
  pin: "M9 4h6l-1 6 3.500 3v1.500h-11V13L10 10zM12 14.500V21",
  plus: "M12 5v14M5 12h14",
  reply: "M9.500 6L4 11.500 9.500 17M4.500 11.500H14a6 6 0 0 1 6 6v1",
  search: "M10.500 4a6.500 6.500 0 1 0 0 13 6.500 6.500 0 0 0 0-13zM15.500 15.500L21 21",
  react: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17zM8.500 14.500c1.800 2.500 5.200 2.500 7 0M9 9.500v.5M15 9.500v.5",
  send: "M4 12l16-8-5.500 16-3-6.500zM11.500 13.500L20 4",
  thread: "M4 4h12v9H8.500L5.500 16v-3H4zM19 8.500h1.500v9H19v3L16 17.500h-5.500V16M7.500 7.500h5M7.500 10h3",
  trash: "M4.500 6.500h15M9 6.500V4h6v2.500M6.500 6.500l1 14h9l1-14M10 10.500v6M14 10.500v6",
  download: "M12 4v11M7 10.500l5 5 5-5M5 20h14",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon; `label` is its name, and what it says when one points at it. */
export function iconButton(name, label, onclick, props = {}) {
  const { class: more = "", ...rest } = props;
  return h("button", { type: "button", class: `icon-button ${more}`, "aria-label": label, title: label, on: { click: onclick }, ...rest }, icon(name));
}

// A click is lost when what is pressed is replaced before it is released: what is painted anew waits for that, for so many
// milliseconds.
const PRESS = 500;
let pressedAt = -Infinity;
addEventListener("pointerdown", () => (pressedAt = performance.now()), true);
for (const type of ["pointerup", "pointercancel"]) addEventListener(type, () => (pressedAt = -Infinity), true);

/** Run once in the next frame, however often it is asked for; in a page that is not seen before long. */
export function throttled(work) {
  let isDue = false;
  const run = () => {
    if (!isDue) return;
    if (performance.now() - pressedAt < PRESS) return void setTimeout(run, 50);
    isDue = false;
    work();
  };
  return () => {
    if (isDue) return;
    isDue = true;
    if (document.visibilityState === "visible") requestAnimationFrame(run);
    setTimeout(run, 200); // frames do not come to a page in the background
  };
}

/** Do it when so much time is over, with what it was given last: also for one who never pauses. */
export function delayed(work, ms) {
  let timer = null;
  let latest;
  const later = (...args) => {
    latest = args;
    timer ??= setTimeout(() => {
      timer = null;
      work(...latest);
    }, ms);
  };
  later.cancel = () => {
    clearTimeout(timer);
    timer = null;
  };
  later.now = () => {
    if (timer === null) return;
    later.cancel();
    work(...latest);
  };
  return later;
}

export function debounced(work, ms) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), ms);
  };
}
