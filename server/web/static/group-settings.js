/**
 * What admins and owners set for a group: its title, description and picture, who sends and how often, whether it is
 * public; and the links by which people join.
 * @module
 */
import { h, replace, throttled } from "./dom.js";
import { ask, openDialog } from "./dialog.js";
import { dateTimeOf, durationOf, plural } from "./text.js";

const POSTING = [["Everyone", "All members"], ["Admins", "Only admins and owners"]];
const SLOW = [0, 10, 30, 60, 300, 900, 3600, 21_600]; // seconds
const LASTS = [["3600", "An hour"], ["86400", "A day"], ["604800", "A week"], ["2592000", "30 days"], ["31536000", "A year"]];
const USES = [["", "Any number"], ["1", "1 person"], ["10", "10 people"], ["100", "100 people"]];

export function select(id, options, value) {
  const element = h("select", { id }, options.map(([each, text]) => h("option", { value: each, text })));
  element.value = value;
  return element;
}

export const field = (element, label, hint) => [h("label", { for: element.id }, label, hint && [" ", h("small", { text: hint })]), element];

/** Change a group. Only what is changed here is sent: what others change meanwhile stays. */
export function editGroup({ conversation, say }) {
  const { name = "", description, avatarUrl, posting, slowModeSeconds, isPublic } = conversation;
  const before = { name: name ?? "", description: description ?? "", avatarUrl: avatarUrl ?? "", posting, slowModeSeconds, isPublic };
  const title = h("input", { id: "group-title", value: before.name, maxLength: 256, dir: "auto", autocomplete: "off" });
  const about = h("textarea", { id: "group-description", value: before.description, rows: 3, maxLength: 1024, dir: "auto" });
  const picture = h("input", { id: "group-picture", value: before.avatarUrl, inputmode: "url", placeholder: "https://", dir: "ltr", autocomplete: "off", spellcheck: false });
  const sends = select("group-posting", POSTING, posting);
  const waits = [...new Set([...SLOW, slowModeSeconds])].sort((one, other) => one - other);
  const slow = select("group-slow", waits.map((seconds) => [String(seconds), seconds ? durationOf(seconds) : "No wait"]), String(slowModeSeconds));
  const isOpen = h("input", { type: "checkbox", checked: isPublic, disabled: conversation.role !== "Owner" });
  const problem = h("p", { class: "problem", role: "alert" });
  const save = h("button", { type: "submit", class: "primary", text: "Save" });

  function changes() {
    const now = { name: title.value.trim(), description: about.value.trim(), avatarUrl: picture.value.trim(), posting: sends.value, slowModeSeconds: Number(slow.value), isPublic: isOpen.checked };
    const changed = Object.entries(now).filter(([key, value]) => value !== before[key]);
    return Object.fromEntries(changed.map(([key, value]) => [key, value === "" ? null : value]));
  }

  async function submit(event) {
    event.preventDefault();
    problem.textContent = "";
    const changed = changes();
    if (changed.name === null) return void (problem.textContent = "A group that has a name keeps one: write a name.");
    save.disabled = true;
    try {
      if (Object.keys(changed).length) await conversation.update(changed);
      dialog.close();
      say("Saved.");
    } catch (error) {
      problem.textContent = error.message;
      save.disabled = false;
    }
  }

  const form = h("form", { class: "stack", on: { submit: (event) => void submit(event) } },
    field(title, "Name"), field(about, "Description"), field(picture, "Picture", "(an address that begins with https)"),
    field(sends, "Who sends messages"), field(slow, "Slow mode", "(how long a member waits between two messages)"),
    h("label", { class: "choice" }, isOpen, h("span", {}, "Public: all people here can find and join this group", conversation.role !== "Owner" && " (only owners change that)")),
    problem, h("footer", {}, save));
  const dialog = openDialog({ title: "Edit the group", about: [conversation.id], content: form });
  title.select();
}

const addressOf = (token) => `${location.origin}/#join=${token}`;

/** Make links by which people join, see which there are, and revoke them. */
export function manageLinks({ people, conversation }) {
  const stop = new AbortController();
  const { signal } = stop;
  let found = [];
  let next = null;
  const lasts = select("link-lasts", LASTS, "604800");
  const uses = select("link-uses", USES, "");
  const problem = h("p", { class: "problem", role: "alert" });
  const make = h("button", { type: "submit", class: "primary", text: "Make a link" });
  const address = h("input", { id: "link-address", readOnly: true, dir: "ltr", on: { focus: () => address.select() } });
  const copied = h("p", { class: "muted", role: "status" });
  const made = h("div", { class: "stack made-link", hidden: true }, field(address, "The new link", "(copy it now: it is not shown again)"),
    h("button", { type: "button", text: "Copy", on: { click: () => void copy() } }), copied);
  const status = h("p", { class: "muted", role: "status" });
  const list = h("ul", { class: "members", "aria-label": "Links" });
  const more = h("button", { type: "button", text: "Show more", hidden: true, on: { click: () => void read(next) } });

  async function copy() {
    try {
      await navigator.clipboard.writeText(address.value);
      copied.textContent = "Copied.";
    } catch {
      address.focus();
      copied.textContent = "The browser does not let it be copied: it is selected, copy it by hand.";
    }
  }

  async function submit(event) {
    event.preventDefault();
    problem.textContent = "";
    make.disabled = true;
    try {
      const { token } = await conversation.createLink({ expiresInSeconds: Number(lasts.value), maxUses: uses.value ? Number(uses.value) : undefined }, { signal });
      address.value = addressOf(token);
      copied.textContent = "";
      made.hidden = false;
      address.focus();
      void read(null);
    } catch (error) {
      if (!signal.aborted) problem.textContent = error.message;
    }
    make.disabled = false;
  }

  async function read(cursor) {
    if (!found.length) status.textContent = "Looking …";
    try {
      const page = await conversation.links({ cursor, signal });
      found = cursor ? [...found, ...page.items] : page.items;
      next = page.next;
      later();
    } catch (error) {
      if (!signal.aborted) replace(status, `The links could not be read: ${error.message} `, h("button", { type: "button", class: "link", text: "Try again", on: { click: () => void read(cursor) } }));
    }
  }

  function paint() {
    if (signal.aborted) return;
    const before = list.contains(document.activeElement) ? document.activeElement.dataset.link : null;
    status.textContent = found.length ? "" : "There is no link.";
    more.hidden = !next;
    replace(list, found.map(entry));
    if (before) (list.querySelector(`[data-link="${CSS.escape(before)}"]`) ?? make).focus();
  }

  function entry(link) {
    const end = dateTimeOf(link.expiresAt);
    const isSpent = link.maxUses !== null && link.uses >= link.maxUses;
    const isOver = new Date(link.expiresAt) <= new Date();
    const used = link.maxUses === null ? `Used ${plural(link.uses, "time")}` : `Used ${link.uses} of ${plural(link.maxUses, "time")}`;
    return h("li", { class: "member" },
      h("span", { class: "option-text" }, h("span", {}, "Made by ", h("bdi", { text: people.nameOf(link.createdBy) })), h("small", { text: used }), h("small", { text: isOver ? "Has ended" : isSpent ? "Is used up" : `Good until ${end}` })),
      h("button", { type: "button", class: "danger-text", text: "Revoke", "aria-label": `Revoke the link that is good until ${end}`, data: { link: link.id, focus: `link-${link.id}` }, on: { click: () => revoke(link) } }));
  }

  function revoke(link) {
    ask({ title: "Revoke this link", about: [conversation.id], text: "No one can join by it any more. Who has joined by it stays.", action: "Revoke", run: async () => {
      try {
        await conversation.revokeLink(link.id);
      } catch (error) {
        if (error.code !== "not_found") throw error; // it has ended meanwhile
      }
      found = found.filter(({ id }) => id !== link.id);
      paint();
    }, onClose: () => found.includes(link) || setTimeout(() => make.focus()) }); // its button is there no more
  }

  const later = throttled(paint);
  people.addEventListener("change", later, { signal }); // names
  const form = h("form", { class: "stack", on: { submit: (event) => void submit(event) } },
    h("p", { class: "muted", text: "Who opens a link is asked whether they want to join." }),
    field(lasts, "Good for"), field(uses, "Who can join by it"), problem, h("footer", {}, make));
  openDialog({ title: "Join links", about: [conversation.id], content: [form, made, h("section", {}, h("h3", { text: "Links" }), status, list, more)], onClose: () => stop.abort() });
  void read(null);
}
