/**
 * Choosing people: a field to search in, what was found, and those who are chosen. For new conversations, and for
 * adding members.
 * @module
 */
import { attribute, debounced, h, icon, replace, throttled } from "./dom.js";
import { openDialog } from "./dialog.js";
import { explained } from "./explained.js";
import { avatar } from "./people.js";
import { untilOf } from "./text.js";

let numbers = 0;

/**
 * A combobox over the people of this server.
 * @param {{chat, people, isExcluded: (id: string) => boolean, onChange: () => void, start?: string}} options
 */
function peopleField({ chat, people, isExcluded, onChange, start = "" }) {
  const id = `people-${++numbers}`;
  const chosen = new Map();
  let found = [];
  let active = -1;
  let asked = 0;
  const chips = h("ul", { class: "chips", "aria-label": "Chosen", hidden: true });
  const input = h("input", { role: "combobox", type: "text", placeholder: "Name or username", "aria-label": "Search for people", "aria-expanded": "true", "aria-controls": id, "aria-autocomplete": "list", autocomplete: "off", spellcheck: false, dir: "auto", value: start });
  const options = h("ul", { id, role: "listbox", class: "options", "aria-label": "People", "aria-multiselectable": "true" });
  const status = h("p", { class: "muted", role: "status" });

  function paint() {
    chips.hidden = !chosen.size;
    replace(chips, [...chosen.values()].map((user) => h("li", {}, h("button", { type: "button", class: "chip", "aria-label": `Remove ${user.displayName}`, on: { click: () => toggle(user) } }, h("bdi", { text: user.displayName }), icon("close")))));
    options.hidden = !found.length;
    replace(options, found.map((user, index) => h("li", { id: `${id}-${index}`, role: "option", "aria-selected": String(chosen.has(user.id)), class: index === active ? "active" : "", on: { mousedown: (event) => event.preventDefault(), click: () => toggle(user) } },
      avatar(user.displayName, user.id), h("span", { class: "option-text" }, h("bdi", { text: user.displayName }), h("small", {}, "@", h("bdi", { text: user.username }))), chosen.has(user.id) && icon("check"))));
    attribute(input, "aria-activedescendant", active >= 0 ? `${id}-${active}` : null);
    options.children[active]?.scrollIntoView({ block: "nearest" });
  }

  const later = throttled(paint); // somebody may be about to press one of them

  function toggle(user) {
    if (!chosen.delete(user.id)) chosen.set(user.id, user);
    input.value = "";
    input.focus();
    paint();
    onChange();
    search();
  }

  const search = debounced(async () => {
    const mine = ++asked;
    try {
      const page = await chat.searchUsers(input.value.trim(), { limit: 30 });
      if (mine !== asked) return;
      found = page.items.filter((user) => !isExcluded(user.id));
      for (const user of found) people.learn(user);
      status.textContent = found.length ? "" : input.value.trim() ? "There is no such name here." : "There are no other people here yet.";
      active = input.value.trim() && found.length ? 0 : -1;
    } catch (error) {
      if (mine !== asked) return;
      status.textContent = `The search failed: ${error.message}`;
    }
    later();
  }, 150);

  input.addEventListener("input", search);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (found.length) active = (active + (event.key === "ArrowDown" ? 1 : found.length - (active < 0 ? 0 : 1))) % found.length;
      paint();
    } else if (event.key === "Enter" && active >= 0 && found[active]) {
      event.preventDefault();
      toggle(found[active]);
    } else if (event.key === "Backspace" && !input.value && chosen.size) toggle([...chosen.values()].at(-1));
  });
  search();
  return { element: h("div", { class: "people-field" }, chips, input, options, status), chosen, input };
}

/** @param {{chat, people, start?: string, onDone: (conversation) => void}} options */
export function startConversation({ chat, people, start, onDone }) {
  const name = h("input", { id: "group-name", maxLength: 256, dir: "auto", autocomplete: "off", placeholder: "For example: Weekend trip" });
  const group = h("div", { class: "stack", hidden: true }, h("label", { for: "group-name" }, "Name of the group ", h("small", { text: "(optional)" })), name);
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "primary", text: "Start", disabled: true });
  const field = peopleField({
    chat, people, start,
    isExcluded: (id) => id === people.me.id,
    onChange: () => {
      const { size } = field.chosen;
      group.hidden = size < 2;
      button.disabled = size === 0;
      button.textContent = size > 1 ? `Start a group with ${size}` : "Start";
    },
  });
  const form = h("form", { class: "stack", on: { submit: async (event) => {
    event.preventDefault();
    if (!field.chosen.size || button.dataset.busy) return;
    button.dataset.busy = "yes";
    button.disabled = true;
    problem.textContent = "";
    const ids = [...field.chosen.keys()];
    try {
      const conversation = ids.length === 1 ? await chat.createDirect(ids[0]) : await chat.createGroup({ name: name.value.trim() || undefined, memberIds: ids });
      dialog.close();
      onDone(conversation);
    } catch (error) {
      problem.textContent = explained(error);
      button.disabled = false;
      delete button.dataset.busy;
    }
  } } },
    h("p", { class: "muted", text: "Choose one person to talk to, or several for a group." }), field.element, group, problem, h("footer", {}, button));
  const dialog = openDialog({ title: "New conversation", content: form });
  field.input.focus();
}

export function addMembers({ chat, people, conversation, say }) {
  const members = new Set(conversation.members.map(({ userId }) => userId));
  const problem = h("p", { class: "problem", role: "alert" });
  const button = h("button", { type: "submit", class: "primary", text: "Add", disabled: true });
  const field = peopleField({ chat, people, isExcluded: (id) => members.has(id), onChange: () => (button.disabled = !field.chosen.size) });
  const form = h("form", { class: "stack", on: { submit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.textContent = "";
    try {
      for (const id of [...field.chosen.keys()]) {
        await conversation.addMember(id);
        field.chosen.delete(id);
      }
      dialog.close();
      say("Added.");
    } catch (error) {
      problem.textContent = error.code === "kept_out" ? `Somebody whom you chose is kept out of this group${untilOf(error.until)}: let them in again first.` : explained(error);
      button.disabled = false;
    }
  } } }, field.element, problem, h("footer", {}, button));
  const dialog = openDialog({ title: "Add people", about: [conversation.id], content: form });
  field.input.focus();
}
