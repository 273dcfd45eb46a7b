/**
 * Groups that one is not in yet: public ones, which are found by words, and the one that a link leads to. What others
 * have called and described them stays text.
 * @module
 */
import { debounced, h, replace, throttled } from "./dom.js";
import { ask, closeAbout, openDialog } from "./dialog.js";
import { explained } from "./explained.js";
import { avatar } from "./people.js";
import { plural } from "./text.js";

const PAGE = 20;
const LOOKS = 5; // pages that are asked for until there is something to show
const INVITATION = "invitation"; // what its question is about
const LINK = /^#join=(.+)$/;

/** The token in the address of this page: what is behind its # is in no request. */
const tokenOf = (hash) => LINK.exec(hash)?.[1] ?? null;

/**
 * Ask whether to join the group that the address leads to, if it does to any. Until it is answered it stays there, also
 * over a reload; after that it is not in the history.
 * @param {{chat, onDone: (conversation) => void}} options
 */
export function askToJoin({ chat, onDone }) {
  const { hash } = location;
  const token = tokenOf(hash);
  if (!token) return;
  closeAbout(INVITATION);
  let joined = null;
  ask({
    title: "Join a group",
    about: [INVITATION],
    text: "This link leads to a group. If you join, its members see that, and you see what they write from then on.",
    action: "Join",
    isDanger: false,
    run: async () => {
      try {
        joined = await chat.join(token);
      } catch (error) {
        throw new Error(["not_found", "invalid_request"].includes(error.code) ? "This link is not good any more: ask for a new one." : explained(error));
      }
    },
    onClose: () => {
      if (location.hash === hash) history.replaceState(null, "", "#/");
      if (joined) setTimeout(() => onDone(joined)); // when the focus is back, to take it along
    },
  });
}

/** @param {{chat, start?: string, onDone: (conversation) => void}} options */
export function findGroups({ chat, start = "", onDone }) {
  const stop = new AbortController();
  const { signal } = stop;
  let chosen = null;
  let found = [];
  let next = null;
  let asked = 0;
  const input = h("input", { type: "search", placeholder: "Words of its name or description", "aria-label": "Find groups", maxLength: 256, autocomplete: "off", spellcheck: false, dir: "auto", value: start });
  const status = h("p", { class: "muted", role: "status" });
  const problem = h("p", { class: "problem", role: "alert" });
  const list = h("ul", { class: "options found groups", role: "list", "aria-label": "Public groups", hidden: true, on: { keydown: (event) => onKey(event) } });
  const more = h("button", { type: "button", text: "Show more", hidden: true, on: { click: () => void read(next) } });

  async function read(cursor) {
    const mine = ++asked;
    const items = cursor ? [...found] : [];
    const count = items.length;
    let following = cursor;
    problem.textContent = "";
    status.textContent = "Searching …";
    more.disabled = true;
    try {
      for (let look = 0; look < LOOKS && (look === 0 || (following && items.length === count)); look++) {
        const page = await chat.searchGroups(input.value.trim(), { limit: PAGE, cursor: following, signal });
        if (mine !== asked) return;
        items.push(...page.items.filter(({ id }) => !items.some((item) => item.id === id)));
        following = page.next;
      }
      [found, next] = [items, following];
      status.textContent = found.length ? "" : next ? "Nothing among the first groups." : input.value.trim() ? "No public group has these words." : "There are no public groups here yet.";
    } catch (error) {
      if (mine !== asked || signal.aborted) return;
      if (!cursor) [found, next] = [[], null];
      replace(status, `The search failed: ${error.message} `, h("button", { type: "button", class: "link", text: "Try again", on: { click: () => void read(cursor) } }));
    }
    if (!cursor) return later();
    paint();
    if (found.length > count) list.children[count].querySelector("button").focus();
  }

  function paint() {
    list.hidden = !found.length;
    more.hidden = !next;
    more.disabled = false;
    replace(list, found.map(entry));
  }

  const later = throttled(() => signal.aborted || paint()); // somebody may be about to press one of them

  function entry({ id, name, description, memberCount }, index) {
    const title = name || "A group without a name";
    const known = chat.conversation(id);
    const names = `group-${index}`;
    const button = h("button", { type: "button", text: known ? "Open" : "Join", "aria-describedby": names, on: { click: () => void choose(id, button) } });
    return h("li", {}, avatar(title, id, { isGroup: true }),
      h("span", { class: "option-text" }, h("bdi", { id: names, text: title }), h("small", { text: plural(memberCount, "member") }), description && h("span", { class: "excerpt", dir: "auto", text: description })),
      button);
  }

  async function choose(id, button) {
    button.disabled = true;
    problem.textContent = "";
    try {
      chosen = chat.conversation(id) ?? (await chat.joinGroup(id, { signal }));
      dialog.close();
    } catch (error) {
      if (signal.aborted) return;
      problem.textContent = error.code === "not_found" ? "This group is not public any more." : explained(error);
      button.disabled = false;
      button.focus();
    }
  }

  function onKey(event) {
    const buttons = [...list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const target = { ArrowDown: buttons[at + 1], ArrowUp: buttons[at - 1] ?? input, Home: buttons[0], End: buttons.at(-1) }[event.key];
    if (!target) return;
    event.preventDefault();
    target.focus();
  }

  input.addEventListener("input", debounced(() => signal.aborted || void read(null), 250));
  input.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    list.querySelector("button")?.focus();
  });
  const form = h("form", { class: "stack", role: "search", on: { submit: (event) => (event.preventDefault(), void read(null)) } }, input, status, problem, list, more);
  const dialog = openDialog({ title: "Find groups", content: form, onClose: () => {
    stop.abort();
    if (chosen) setTimeout(() => onDone(chosen)); // when the focus is back, to take it along
  } });
  input.focus();
  void read(null);
}
