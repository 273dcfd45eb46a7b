/**
 * One's own account: name and status, what others see, colours, notifications, where one is signed in, and the shortcuts.
 * @module
 */
import { h, iconButton, replace } from "./dom.js";
import { openDialog } from "./dialog.js";
import { themeSwitch } from "./theme.js";
import { agoOf } from "./text.js";

export function openSettings({ chat, people, safety, notifier, say }) {
  const { me } = people;
  const name = h("input", { id: "own-name", value: me.displayName, maxLength: 128, required: true, dir: "auto", autocomplete: "name" });
  const text = h("input", { id: "own-status", value: me.statusText ?? "", maxLength: 256, dir: "auto", autocomplete: "off", placeholder: "What are you up to?" });
  const problem = h("p", { class: "problem", role: "alert" });
  const profile = h("form", { class: "stack", on: { submit: async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      const account = await chat.updateMe({ displayName: name.value.trim(), statusText: text.value.trim() || null });
      Object.assign(people.me, account);
      people.learn(people.me);
      say("Saved.");
    } catch (error) {
      problem.textContent = error.message;
    }
  } } },
    h("label", { for: "own-name", text: "Name that others see" }), name,
    h("label", { for: "own-status", text: "Status" }), text, problem,
    h("footer", {}, h("span", { class: "muted" }, "@", h("bdi", { text: me.username })), h("button", { type: "submit", class: "primary", text: "Save" })));
  openDialog({ title: "Settings", content: [
    h("section", { "aria-label": "Profile" }, profile),
    h("section", {}, h("h3", { text: "Privacy" }), privacy(chat)),
    h("section", {}, h("h3", { text: "Safety" }), h("div", { class: "profile-buttons start" },
      h("button", { type: "button", text: "Blocked people", data: { focus: "blocked" }, on: { click: () => void safety.open("showBlocked") } }),
      h("button", { type: "button", text: "What you have reported", data: { focus: "reported" }, on: { click: () => void safety.open("showReports") } }))),
    h("section", {}, h("h3", { text: "Colours" }), themeSwitch()),
    h("section", {}, h("h3", { text: "Notifications" }), notifications(notifier)),
    h("section", {}, h("h3", { text: "Signed in" }), sessions(chat)),
  ] });
}

const SHOWN = [["readReceipts", "Read receipts"], ["typing", "That I am typing"], ["lastSeen", "When I was last here"]];

function privacy(chat) {
  const box = h("div", {}, h("p", { class: "muted", text: "Looking …" }));
  function paint(shown) {
    replace(box, h("p", { class: "muted", text: "What you hide from others you do not see of them, either." }),
      SHOWN.map(([field, text]) => h("button", { type: "button", role: "switch", class: "switch", "aria-checked": String(shown[field]), data: { field }, text, on: { click: () => void choose({ [field]: !shown[field] }, field) } })));
  }
  async function choose(changes, field) {
    try {
      paint(await chat.setPrivacy(changes));
      box.querySelector(`[data-field=${field}]`)?.focus();
    } catch (error) {
      box.append(h("p", { class: "problem", role: "alert", text: error.message }));
    }
  }
  chat.privacy().then(paint, (error) => replace(box, h("p", { class: "problem", text: error.message })));
  return box;
}

function notifications(notifier) {
  const box = h("div", {});
  function paint() {
    if (!notifier.isPossible) return replace(box, h("p", { class: "muted", text: "This browser gives none here: they need https." }));
    if (notifier.isRefused) return replace(box, h("p", { class: "muted", text: "This browser gives none for this site, as it was set. Its settings can change that." }));
    const button = h("button", { type: "button", role: "switch", class: "switch", "aria-checked": String(notifier.isOn), text: "Notify me of messages while I look elsewhere", on: { click: async () => {
      await notifier.set(!notifier.isOn);
      paint();
      box.querySelector("button")?.focus();
    } } });
    replace(box, button);
  }
  paint();
  return box;
}

function sessions(chat) {
  const box = h("div", {}, h("p", { class: "muted", text: "Looking …" }));
  async function paint() {
    try {
      const { items } = await chat.request("GET", "/auth/sessions");
      replace(box, items.length ? h("ul", { class: "members" }, items.map((session) => h("li", { class: "member" },
        h("span", { class: "option-text" }, h("bdi", { text: browserOf(session.client) }), h("small", {}, session.current ? "This browser" : `Last used ${agoOf(session.lastUsedAt)}`, session.address && h("span", { text: ` · ${session.address}` }))),
        !session.current && iconButton("close", `Sign out ${browserOf(session.client)}`, async () => {
          await chat.request("DELETE", `/auth/sessions/${session.id}`).catch(() => {});
          void paint();
        })))) : h("p", { class: "muted", text: "By a token, without a session of its own." }));
    } catch (error) {
      replace(box, h("p", { class: "problem", text: error.message }));
    }
  }
  void paint();
  return box;
}

function browserOf(client) {
  const browser = /(Firefox|Edg|OPR|Chrome|Safari)\/[\d.]+/.exec(client)?.[1];
  const system = /(Windows|Android|iPhone|iPad|Mac OS X|Linux)/.exec(client)?.[1];
  const name = { Edg: "Edge", OPR: "Opera" }[browser] ?? browser;
  return [name ?? (client || "Unknown").slice(0, 60), system && `on ${system === "Mac OS X" ? "macOS" : system}`].filter(Boolean).join(" ");
}

const SHORTCUTS = [
  ["Ctrl+K", "Find a conversation"],
  ["Alt+N", "New conversation"],
  ["Alt+S", "Search messages"],
  ["Alt+A", "Messages that mention you"],
  ["Alt+T", "Threads that you follow"],
  ["Alt+G", "Find public groups"],
  ["Alt+↑ / Alt+↓", "Conversation before / after"],
  ["Enter", "Send"],
  ["Shift+Enter", "New line"],
  ["↑ in an empty field", "Edit your last message"],
  ["Alt+M", "Go to the messages; then ↑ ↓ move, R T + E C W I P Delete M act"],
  ["Alt+I", "About this conversation"],
  ["Escape", "Back to the field"],
  ["Ctrl+/ or ?", "This list"],
];

export function openShortcuts() {
  openDialog({ title: "Keyboard", content: h("dl", { class: "shortcuts" }, SHORTCUTS.map(([keys, what]) => h("div", {}, h("dt", {}, h("kbd", { text: keys })), h("dd", { text: what })))) });
}
