/**
 * Dialogs: modal ones, menus, and short notices. The browser's own dialog keeps the focus inside and gives it back.
 * @module
 */
import { h, iconButton, refocus } from "./dom.js";

let numbers = 0;

/**
 * Open a modal dialog. With `title` it has a heading and a button to close it; `about` are ids of what it is about, with
 * which it ends.
 */
export function openDialog({ title, label, content, about = [], class: more = "", onClose }) {
  const id = `dialog-${++numbers}`;
  const dialog = h("dialog", { class: more, data: { about: about.join(" ") }, "aria-labelledby": title ? id : null, "aria-label": title ? null : label });
  if (title) dialog.append(h("header", {}, h("h2", { id, text: title }), iconButton("close", "Close", () => dialog.close())));
  dialog.append(...[content].flat().filter(Boolean));
  const before = document.activeElement;
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose?.();
    if ([document.body, before].includes(document.activeElement)) refocus(before); // else what it led to has the focus by now
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Open a dialog whose module the page has not loaded yet: most never open it. Where another was opened meanwhile, which
 * may be the same, there is no more to open.
 * @param {() => Promise<object>} load imports the module
 * @param {(module: object) => void} open
 */
export async function openLater(load, open, say) {
  const count = () => document.querySelectorAll("dialog").length;
  const before = count();
  try {
    const module = await load();
    if (count() <= before) open(module);
  } catch (error) {
    console.warn(error);
    say("That could not be loaded: try again when there is a connection.");
  }
}

/** Close the dialogs about something that is there no more. */
export function closeAbout(id) {
  for (const dialog of document.querySelectorAll(`dialog[data-about~="${CSS.escape(id)}"]`)) dialog.close();
}

/** Ask before something that cannot be taken back, or that others see. */
export function ask({ title, text, action, run, about, isDanger = true, onClose }) {
  const problem = h("p", { class: "problem", role: "alert" });
  const yes = h("button", { type: "button", class: isDanger ? "danger" : "primary", text: action });
  const no = h("button", { type: "button", text: "Cancel", on: { click: () => dialog.close() } });
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    try {
      await run();
      dialog.close();
    } catch (error) {
      problem.textContent = error.message;
      yes.disabled = false;
    }
  });
  const dialog = openDialog({ title, about, content: [h("p", {}, text), problem, h("footer", {}, no, yes)], onClose });
  no.focus();
}

/** A menu at a button: arrows move, Escape closes, and the focus returns. */
export function openMenu(button, items) {
  const entries = items.filter(Boolean).map(({ text, run, isDanger, isChecked }) =>
    h("button", { type: "button", role: isChecked === undefined ? "menuitem" : "menuitemradio", "aria-checked": isChecked === undefined ? null : String(isChecked), class: isDanger ? "danger-text" : "", tabindex: -1, text, on: { click: () => (close(), run()) } }));
  const menu = h("div", { class: "menu", role: "menu", "aria-label": button.getAttribute("aria-label") ?? "Menu" }, entries);
  const stop = new AbortController();
  function close() {
    stop.abort();
    menu.remove();
    button.setAttribute("aria-expanded", "false");
    refocus(button);
  }
  menu.addEventListener("keydown", (event) => {
    const at = entries.indexOf(document.activeElement);
    if (event.key === "ArrowDown") entries[(at + 1) % entries.length].focus();
    else if (event.key === "ArrowUp") entries[(at + entries.length - 1) % entries.length].focus();
    else if (event.key === "Home") entries[0].focus();
    else if (event.key === "End") entries.at(-1).focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const options = { signal: stop.signal, capture: true };
  addEventListener("pointerdown", ({ target }) => !menu.contains(target) && close(), options);
  addEventListener("resize", close, options);
  (button.closest("dialog, .main, .sidebar, .details, .thread") ?? document.body).append(menu); // in the landmark of its button
  const at = button.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.right - width, innerWidth - width - 8));
  const top = at.bottom + height + 8 < innerHeight ? at.bottom + 4 : Math.max(8, at.top - height - 4);
  menu.style.setProperty("left", `${left}px`);
  menu.style.setProperty("top", `${top}px`);
  button.setAttribute("aria-expanded", "true");
  entries[0]?.focus();
}
