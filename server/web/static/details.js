/**
 * What is beside a conversation: who is in it, in which role, what one may do there.
 * @module
 */
import { h, icon, iconButton, replace, throttled } from "./dom.js";
import { addMembers } from "./choose-people.js";
import { ask, openDialog, openLater, openMenu } from "./dialog.js";
import { explained } from "./explained.js";
import { avatar, setAvatar } from "./people.js";
import { Pins } from "./pins.js";
import { agoOf, durationOf, momentOf, plural, safeLink } from "./text.js";

const RANK = { Owner: 0, Admin: 1, Member: 2 };
const SHOWN = 200;

export class Details {
  #chat;
  #people;
  #actions;
  #conversation = null;
  #stop = null;
  #pins = null;
  #safety;
  #isWhole = false;

  constructor({ chat, people, actions, safety }) {
    this.#chat = chat;
    this.#safety = safety;
    this.#people = people;
    this.#actions = actions;
    this.body = h("div", { class: "details-body" });
    this.element = h("aside", { class: "details", "aria-label": "About this conversation", hidden: true },
      h("header", {}, h("h2", { text: "About" }), iconButton("close", "Close", () => this.close())), this.body);
    this.paint = throttled(() => this.#paint());
    for (const type of ["change", "presence"]) people.addEventListener(type, this.paint);
  }

  get isOpen() {
    return !this.element.hidden;
  }

  toggle() {
    if (this.isOpen) this.close();
    else {
      this.element.hidden = false;
      this.#paint();
      this.element.querySelector("button")?.focus();
    }
    this.#actions.onDetails(this.isOpen);
  }

  close() {
    if (!this.isOpen) return;
    this.element.hidden = true;
    this.#actions.onDetails(false);
  }

  open(conversation) {
    this.#stop?.abort();
    this.#stop = new AbortController();
    this.#conversation = conversation;
    this.#isWhole = false;
    this.#pins = conversation && new Pins({ conversation, people: this.#people, actions: this.#actions, signal: this.#stop.signal });
    for (const type of ["conversation", "reset"]) conversation?.on(type, this.paint, { signal: this.#stop.signal });
    if (!conversation) this.close();
    this.#paint();
  }

  #paint() {
    const conversation = this.#conversation;
    if (!conversation || !this.isOpen) return;
    const people = this.#people;
    const hadFocus = this.body.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    people.watch(conversation.members.slice(0, SHOWN).map(({ userId }) => userId));
    replace(this.body, conversation.type === "Direct" ? this.#direct(conversation) : this.#group(conversation));
    if (hadFocus) this.body.querySelector(`[data-focus="${CSS.escape(hadFocus)}"]`)?.focus();
  }

  #direct(conversation) {
    const people = this.#people;
    const id = people.otherOf(conversation);
    const user = id ? people.get(id) : null;
    const name = people.titleOf(conversation);
    const picture = avatar(name, id ?? conversation.id, { presence: true, size: "large" });
    setAvatar(picture, name, id ?? conversation.id, id ? people.statusOf(id) : "");
    return [
      h("div", { class: "profile" }, picture, h("h3", {}, h("bdi", { text: name })), user?.username && h("p", { class: "muted" }, "@", h("bdi", { text: user.username })),
        id && h("p", { dir: "auto", text: people.standingOf(id) }),
        id && h("div", { class: "profile-buttons" }, this.#safety.items(id, { conversation }).map(({ text, isDanger, run }, index) => h("button", { type: "button", class: isDanger ? "danger-text" : "", text, data: { focus: `do-${index}` }, on: { click: run } })))),
      this.#settings(conversation),
      this.#pins.element,
      user?.createdAt && h("p", { class: "muted", text: `Here since ${new Date(user.createdAt).toLocaleDateString(undefined, { dateStyle: "long" })}` }),
    ];
  }

  #group(conversation) {
    const people = this.#people;
    const { role } = conversation;
    const mayManage = role === "Owner" || role === "Admin";
    const members = [...conversation.members].sort((one, other) => RANK[one.role] - RANK[other.role] || people.nameOf(one.userId).localeCompare(people.nameOf(other.userId)));
    if (members.length < conversation.memberCount && !this.#isWhole) {
      this.#isWhole = true;
      conversation.loadMembers().then(this.paint, () => (this.#isWhole = false));
    }
    const title = people.titleOf(conversation);
    return [
      h("div", { class: "profile" }, avatar(title, conversation.id, { size: "large", isGroup: true }), h("h3", {}, h("bdi", { text: title })),
        h("p", { class: "muted", text: plural(conversation.memberCount, "member") }),
        conversation.description && h("p", { class: "description", dir: "auto", text: conversation.description }),
        conversation.posting === "Admins" && h("p", { class: "muted", text: "Only admins send messages here" }),
        conversation.slowModeSeconds > 0 && h("p", { class: "muted", text: `Slow mode: ${durationOf(conversation.slowModeSeconds)} between two messages` }),
        conversation.isPublic && h("p", { class: "muted", text: "Public: all people here can find and join it" }),
        conversation.avatarUrl && safeLink(conversation.avatarUrl, "Picture of the group"),
        mayManage && h("div", { class: "profile-buttons" },
          h("button", { type: "button", text: "Edit", data: { focus: "edit" }, on: { click: () => this.#openSettings((dialogs) => dialogs.editGroup({ conversation, say: this.#actions.say })) } }),
          h("button", { type: "button", text: "Join links", data: { focus: "links" }, on: { click: () => this.#openSettings((dialogs) => dialogs.manageLinks({ people, conversation })) } }),
          h("button", { type: "button", text: "Kept out", data: { focus: "kept-out" }, on: { click: () => void this.#safety.open("showKeptOut", conversation) } }))),
      this.#settings(conversation),
      this.#pins.element,
      h("section", { "aria-label": "Members" },
        h("div", { class: "section-head" }, h("h3", { text: "Members" }), mayManage && h("button", { type: "button", data: { focus: "add" }, on: { click: () => addMembers({ chat: this.#chat, people, conversation, say: this.#actions.say }) } }, icon("plus"), "Add")),
        h("ul", { class: "members" }, members.slice(0, SHOWN).map((member) => this.#member(conversation, member, role))),
        members.length > SHOWN && h("p", { class: "muted", text: `and ${members.length - SHOWN} more` })),
      h("div", { class: "stack" },
        h("button", { type: "button", class: "danger-text", text: "Leave this group", data: { focus: "leave" }, on: { click: () => this.#leave(conversation) } }),
        role === "Owner" && h("button", { type: "button", class: "danger-text", text: "Delete this group", data: { focus: "delete" }, on: { click: () => this.#delete(conversation) } })),
    ];
  }

  /** What admins and owners set for a group. */
  #openSettings(open) {
    return openLater(() => import("./group-settings.js"), open, this.#actions.say);
  }

  /** What one sets for oneself. */
  #settings(conversation) {
    const toggle = (text, name, isOn) => h("label", { class: "choice" }, h("input", { type: "checkbox", checked: isOn, data: { focus: name }, on: { change: (event) => this.#do(conversation.updateSettings({ [name]: event.target.checked }).finally(this.paint)) } }), text);
    const { isMuted, mutedUntil } = conversation;
    const mute = (until) => this.#do(conversation.updateSettings({ mutedUntil: until }));
    const isForEver = isMuted && mutedUntil.getUTCFullYear() === 9999;
    const items = [
      isMuted && { text: "Notify again", run: () => mute(null) },
      ...[1, 8, 24].map((hours) => ({ text: hours === 1 ? "For an hour" : `For ${hours} hours`, run: () => mute(new Date(Date.now() + hours * 3_600_000)) })),
      { text: "Until I say otherwise", isChecked: isForEver, run: () => mute("forever") },
    ].filter(Boolean);
    const text = !isMuted ? "Mute notifications" : isForEver ? "Muted" : `Muted until ${momentOf(mutedUntil.toISOString())}`;
    const button = h("button", { type: "button", text, "aria-haspopup": "menu", "aria-expanded": "false", data: { focus: "mute" }, on: { click: () => openMenu(button, items) } });
    return h("section", { class: "stack", "aria-label": "For you alone" }, toggle("Favourite", "favourite", conversation.isFavourite), toggle("Archived", "archived", conversation.isArchived), button);
  }

  #member(conversation, { userId, role }, mine) {
    const people = this.#people;
    const isMe = userId === people.me.id;
    const name = people.nameOf(userId);
    const picture = avatar(name, userId, { presence: true });
    setAvatar(picture, name, userId, isMe ? "Online" : people.statusOf(userId));
    const items = [
      !isMe && { text: "Send a message", run: () => this.#actions.talkTo(userId) },
      ...(mine === "Owner" ? ["Member", "Admin", "Owner"].map((each) => ({ text: `Make ${each === "Member" ? "a member" : each === "Admin" ? "an admin" : "an owner"}`, isChecked: each === role, run: () => each !== role && this.#do(conversation.setRole(userId, each)) })) : []),
      !isMe && (mine === "Owner" || (mine === "Admin" && role === "Member")) && { text: "Remove from the group", isDanger: true, run: () => ask({ title: "Remove from the group", about: [conversation.id], text: [h("bdi", { text: name }), " will no longer see what is written here."], action: "Remove", run: () => conversation.removeMember(userId) }) },
      ...this.#safety.items(userId, { conversation }),
    ].filter(Boolean);
    const button = items.length ? iconButton("more", `What to do with ${name}`, () => openMenu(button, items), { "aria-haspopup": "menu", "aria-expanded": "false", data: { focus: `m-${userId}` } }) : null;
    return h("li", { class: "member" }, picture, h("span", { class: "option-text" }, h("bdi", { text: name }), h("small", { dir: "auto", text: isMe ? "You" : people.standingOf(userId) })), role !== "Member" && h("span", { class: "role", text: role }), button);
  }

  async #do(promise) {
    try {
      await promise;
    } catch (error) {
      this.#actions.say(explained(error));
    }
  }

  #leave(conversation) {
    ask({ title: "Leave this group", about: [conversation.id], text: "You will no longer see what is written here. Somebody who manages the group can add you again.", action: "Leave", run: () => conversation.leave() });
  }

  #delete(conversation) {
    ask({ title: "Delete this group", about: [conversation.id], text: "It is deleted for all its members, with everything that was written. This cannot be taken back.", action: "Delete for all", run: () => conversation.delete() });
  }
}

/** Who has reacted to a message, by emoji. */
export function showReactors({ people, conversation, message }) {
  const stop = new AbortController();
  const groups = new Map(); // what is shown of each emoji
  const list = h("div");
  const status = h("p", { class: "muted", role: "status" });
  const more = h("button", { type: "button", text: "Show more", hidden: true });
  const entry = ({ userId, at }) => {
    const name = h("bdi", { text: people.nameOf(userId), data: { user: userId } });
    return h("li", { class: "member" }, avatar(people.nameOf(userId), userId), name, at && h("small", { text: agoOf(at) }));
  };
  async function read(cursor) {
    more.hidden = true;
    status.textContent = "Looking …";
    try {
      const { items, next } = await conversation.reactors(message.id, { cursor, limit: 100, signal: stop.signal });
      for (const item of items) {
        let group = groups.get(item.emoji);
        if (!group) {
          groups.set(item.emoji, (group = h("ul", { class: "members" })));
          list.append(h("section", {}, h("h3", { text: item.emoji }), group));
        }
        group.append(entry(item));
      }
      more.hidden = !next;
      more.onclick = () => read(next);
      status.textContent = groups.size ? "" : "No one has reacted.";
    } catch (error) {
      if (stop.signal.aborted) return;
      replace(status, `They could not be read: ${error.message} `, h("button", { type: "button", class: "link", text: "Try again", on: { click: () => read(cursor) } }));
    }
  }
  people.addEventListener("change", ({ detail }) => {
    for (const name of list.querySelectorAll(`[data-user="${CSS.escape(detail)}"]`)) name.textContent = people.nameOf(detail);
  }, { signal: stop.signal });
  openDialog({ title: "Who has reacted", about: [conversation.id, message.id], content: [list, status, more], onClose: () => stop.abort() });
  void read(null);
}

/** Who has received a message, and who has read it. */
export async function showReceipts({ people, conversation, message }) {
  const list = h("div", {}, h("p", { class: "muted", text: "Looking …" }));
  openDialog({ title: "Who has read it", about: [conversation.id, message.id], content: [h("p", { class: "muted", text: `Sent ${momentOf(message.createdAt)}` }), list] });
  try {
    const { items } = await conversation.receipts(message.id);
    const of = (status) => items.filter((item) => item.status === status && item.userId !== people.me.id);
    const section = (title, found) => found.length > 0 && h("section", {}, h("h3", { text: title }), h("ul", { class: "members" }, found.map(({ userId, at }) => h("li", { class: "member" }, avatar(people.nameOf(userId), userId), h("bdi", { text: people.nameOf(userId) }), at && h("small", { text: agoOf(at) })))));
    const read = of("Read");
    const delivered = of("Delivered");
    replace(list, section("Read by", read), section("Delivered to", delivered), !read.length && !delivered.length && h("p", { text: "It has reached no one yet." }));
  } catch (error) {
    replace(list, h("p", { class: "problem", text: error.message }));
  }
}
