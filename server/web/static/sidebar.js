/**
 * The list of conversations: favourites, then the most recent first, with what is unread, who is there and who types;
 * those that are archived stand at the end, behind a button. One stop in the order of the Tab key; arrows move inside.
 * @module
 */
import { arrange, attribute, h, icon, iconButton, replace, setClass, setText, throttled } from "./dom.js";
import { draftOf } from "./drafts.js";
import { summaryOf } from "./message-view.js";
import { avatar, setAvatar } from "./people.js";
import { countThreads } from "./threads.js";
import { isolated, momentOf, shortTime } from "./text.js";

const SHOWN = 300; // conversations in the list at once; a filter finds the others

export class Sidebar {
  #chat;
  #people;
  #actions;
  #items = new Map();
  #selected = null;
  #filter = "";
  #showsArchived = false;

  constructor({ chat, people, actions, signal }) {
    this.#chat = chat;
    this.#people = people;
    this.#actions = actions;
    this.search = h("input", { type: "search", placeholder: "Find a conversation", "aria-label": "Find a conversation", autocomplete: "off", spellcheck: false, dir: "auto", "aria-keyshortcuts": "Control+K", on: { input: () => this.#onFilter(), keydown: (event) => this.#onSearchKey(event) } });
    this.list = h("ul", { class: "conversations", role: "list", "aria-label": "Conversations", on: { keydown: (event) => this.#onKey(event) } });
    this.mentionCount = h("span", { class: "badge mentions", "aria-hidden": true, hidden: true });
    this.mentions = iconButton("mention", "Mentions", () => actions.showMentions(), { class: "find-mentions", "aria-keyshortcuts": "Alt+A" });
    this.mentions.append(this.mentionCount);
    this.threadCount = h("span", { class: "badge", "aria-hidden": true, hidden: true });
    this.threadsUnread = h("span", { class: "hidden-text" });
    this.threads = h("button", { type: "button", class: "to-threads", "aria-keyshortcuts": "Alt+T", on: { click: () => actions.showThreads() } }, icon("thread"), h("span", {}, "Threads", this.threadsUnread), this.threadCount);
    this.archived = h("button", { type: "button", "aria-expanded": "false", on: { click: () => this.#toggleArchived() } });
    this.shelf = h("li", { class: "shelf" }, this.archived);
    this.empty = h("div", { class: "empty-list", hidden: true });
    this.status = h("div", { class: "connection", role: "status" });
    this.self = h("button", { type: "button", class: "self", "aria-haspopup": "menu", "aria-expanded": "false", on: { click: () => actions.openSelfMenu(this.self) } });
    this.element = h("div", { class: "sidebar", role: "navigation", "aria-label": "Conversations" },
      h("h1", { class: "hidden-text", text: "Parley" }),
      h("div", { class: "sidebar-head" }, this.self, this.mentions, iconButton("messages", "Search messages", () => actions.searchMessages(this.search.value.trim()), { class: "find-messages", "aria-keyshortcuts": "Alt+S" }), iconButton("people", "Find groups", () => actions.findGroups(), { "aria-keyshortcuts": "Alt+G" }), iconButton("plus", "New conversation", () => actions.startConversation(), { class: "primary", "aria-keyshortcuts": "Alt+N" })),
      h("div", { class: "search" }, icon("search"), this.search),
      this.threads, this.status, this.list, this.empty);
    countThreads({ chat, signal, onCount: (count) => this.#paintThreads(count) });
    this.paint = throttled(() => this.#paint());
    for (const type of ["list", "update", "typing", "receipt"]) chat.on(type, this.paint);
    const paintSelf = throttled(() => this.#paintSelf());
    for (const type of ["change", "presence"]) people.addEventListener(type, () => (paintSelf(), this.paint()));
    const timer = setInterval(this.paint, 60_000); // times become days
    signal.addEventListener("abort", () => clearInterval(timer));
    this.#paintSelf();
    this.#paint();
  }

  select(id) {
    this.#selected = id;
    this.#paint();
    this.#items.get(id)?.link.scrollIntoView({ block: "nearest" });
  }

  #shown() {
    const all = this.#chat.conversations;
    if (!this.#filter) {
      const here = all.filter(({ isArchived }) => !isArchived);
      const [favourites, others] = [here.filter(({ isFavourite }) => isFavourite), here.filter(({ isFavourite }) => !isFavourite)];
      return [...favourites, ...others].slice(0, SHOWN);
    }
    const words = this.#filter.toLocaleLowerCase().split(/\s+/);
    return all.filter((conversation) => {
      const text = this.#textOf(conversation);
      return words.every((word) => text.includes(word));
    }).slice(0, SHOWN);
  }

  #textOf(conversation) {
    const names = conversation.members.slice(0, 20).map(({ userId }) => this.#people.get(userId)).filter((user) => user && user.id !== this.#people.me.id);
    return [this.#people.titleOf(conversation), ...names.map(({ username, displayName }) => `${username} ${displayName}`)].join(" ").toLocaleLowerCase();
  }

  #paint() {
    const shown = this.#shown();
    const others = [];
    const nodes = shown.map((conversation) => {
      const other = this.#people.otherOf(conversation);
      if (other) others.push(other);
      return this.#item(conversation).element;
    });
    this.#people.watch(others);
    const archived = this.#filter ? [] : this.#chat.conversations.filter(({ isArchived }) => isArchived);
    if (archived.length) nodes.push(this.#paintShelf(archived));
    if (this.#showsArchived) {
      shown.push(...archived.slice(0, SHOWN));
      nodes.push(...archived.slice(0, SHOWN).map((conversation) => this.#item(conversation).element));
    }
    arrange(this.list, nodes);
    const ids = new Set(shown.map(({ id }) => id));
    for (const id of this.#items.keys()) if (!ids.has(id)) this.#items.delete(id);
    const current = ids.has(this.#selected) ? this.#selected : shown[0]?.id;
    const hasFocus = this.list.contains(document.activeElement);
    for (const [id, { link }] of this.#items) if (!hasFocus || !link.matches(":focus")) attribute(link, "tabindex", !hasFocus && id === current ? 0 : hasFocus ? link.getAttribute("tabindex") : -1);
    this.#paintEmpty(nodes.length);
    this.#paintMentions();
  }

  #paintMentions() {
    const count = this.#chat.mentionCount;
    setText(this.mentionCount, count ? shortly(count) : "");
    this.mentionCount.hidden = !count;
    attribute(this.mentions, "aria-label", count ? `Mentions, ${shortly(count)} unread` : "Mentions");
  }

  #paintThreads(count) {
    setText(this.threadCount, count ? shortly(count) : "");
    this.threadCount.hidden = !count;
    setText(this.threadsUnread, count ? `${shortly(count)} unread` : "");
  }

  #paintShelf(archived) {
    const unread = archived.filter(({ unreadCount, isMuted }) => unreadCount && !isMuted).length;
    setText(this.archived, `Archived (${archived.length})${unread ? `, ${unread} unread` : ""}`);
    attribute(this.archived, "aria-expanded", String(this.#showsArchived));
    return this.shelf;
  }

  #toggleArchived() {
    this.#showsArchived = !this.#showsArchived;
    this.#paint();
  }

  #paintEmpty(count) {
    this.list.hidden = !count;
    this.empty.hidden = Boolean(count);
    const state = count ? "" : this.#filter ? "filter" : "none";
    if (this.empty.dataset.state === state) return;
    this.empty.dataset.state = state;
    if (state === "filter") replace(this.empty, h("p", { text: "No conversation is called so." }), h("button", { type: "button", text: "Find people", on: { click: () => this.#actions.startConversation(this.#filter) } }), h("button", { type: "button", text: "Find groups", on: { click: () => this.#actions.findGroups(this.#filter) } }));
    else if (state === "none") replace(this.empty, h("p", { text: "No conversations yet." }), h("button", { type: "button", class: "primary", text: "Start one", on: { click: () => this.#actions.startConversation() } }));
  }

  #item(conversation) {
    let item = this.#items.get(conversation.id);
    if (!item) this.#items.set(conversation.id, (item = this.#make(conversation)));
    const people = this.#people;
    const title = people.titleOf(conversation);
    const other = people.otherOf(conversation);
    const unread = conversation.unreadCount;
    const last = conversation.lastMessage;
    const typing = conversation.typing.filter((id) => id !== people.me.id);
    const isSelected = conversation.id === this.#selected;
    setAvatar(item.avatar, title, other ?? conversation.id, other ? people.statusOf(other) : "");
    setClass(item.avatar, "group", conversation.type === "Group");
    setText(item.title, title);
    setText(item.time, last ? shortTime(last.createdAt) : "");
    if (last) attribute(item.time, "title", momentOf(last.createdAt));
    const draft = !isSelected && draftOf(people.me.id, conversation.id);
    const preview = typing.length ? typingInShort(typing, people, conversation.type === "Direct") : draft ? draft : last ? previewOf(last, people, conversation) : "";
    setText(item.label, draft && !typing.length ? "Draft: " : "");
    setText(item.preview, preview);
    // A sentence of ours with a name in it goes from left to right; what somebody wrote goes as it is written.
    attribute(item.preview, "dir", typing.length || (!draft && last && (last.type === "System" || last.isOwn || conversation.type === "Group")) ? "ltr" : "auto");
    setClass(item.element, "typing", typing.length > 0);
    setClass(item.element, "unread", unread > 0);
    setClass(item.element, "selected", isSelected);
    setClass(item.element, "silent", conversation.isMuted);
    setClass(item.element, "favourite", conversation.isFavourite);
    setText(item.badge, unread ? shortly(unread) : "");
    item.badge.hidden = !unread;
    const mentions = conversation.mentionCount;
    setText(item.mentions, mentions ? `@${shortly(mentions)}` : "");
    item.mentions.hidden = !mentions;
    setText(item.hidden, `${conversation.isFavourite ? ", favourite" : ""}${conversation.isMuted ? ", muted" : ""}${unread ? `, ${unread} unread` : ""}${mentions ? `, ${mentions} mention you` : ""}`);
    attribute(item.link, "aria-current", isSelected ? "true" : null);
    return item;
  }

  #make(conversation) {
    const item = {
      avatar: avatar("", conversation.id, { presence: true }),
      title: h("bdi", { class: "title" }),
      hidden: h("span", { class: "hidden-text" }),
      time: h("time", { class: "time" }),
      label: h("span", { class: "draft" }),
      preview: h("bdi", { class: "preview-text" }),
      badge: h("span", { class: "badge", "aria-hidden": true, hidden: true }),
      mentions: h("span", { class: "badge mentions", "aria-hidden": true, hidden: true }),
    };
    item.link = h("a", { href: `#/c/${conversation.id}`, tabindex: -1, data: { id: conversation.id }, on: { click: (event) => {
      event.preventDefault();
      this.#actions.open(conversation.id);
    } } },
      item.avatar,
      h("span", { class: "line" }, h("span", { class: "title-box" }, item.title, item.hidden), item.time),
      h("span", { class: "line preview" }, h("span", { class: "preview-box" }, item.label, item.preview), item.mentions, item.badge));
    item.element = h("li", {}, item.link);
    return item;
  }

  #paintSelf() {
    const { me } = this.#people;
    const name = me.displayName || me.username;
    const picture = avatar(name, me.id, { presence: true });
    const status = this.#people.isBlind ? "" : (this.#people.get(me.id)?.status ?? "Online");
    setAvatar(picture, name, me.id, status === "Offline" ? "Online" : status);
    replace(this.self, picture, h("bdi", { class: "title", text: name }), h("span", { class: "hidden-text", text: ", your account" }));
  }

  // -- keyboard ---------------------------------------------------------------------------------------------------

  #links() {
    return [...this.list.querySelectorAll("a")];
  }

  #focus(link) {
    if (!link) return;
    for (const each of this.#links()) attribute(each, "tabindex", each === link ? 0 : -1);
    link.focus();
  }

  #onKey(event) {
    const links = this.#links();
    const at = links.indexOf(event.target.closest("a"));
    if (at < 0) return;
    const target = { ArrowDown: links[at + 1], ArrowUp: links[at - 1] ?? this.search, Home: links[0], End: links.at(-1) }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    if (target === this.search) this.search.focus();
    else this.#focus(target);
  }

  #onSearchKey(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#focus(this.#links()[0]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const id = this.#links()[0]?.dataset.id;
      if (id && this.#filter) {
        this.#clear();
        this.#actions.open(id);
      }
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.#clear();
      this.#actions.focusComposer();
    }
  }

  #clear() {
    this.search.value = "";
    this.#onFilter();
  }

  #onFilter() {
    this.#filter = this.search.value.trim();
    this.#paint();
  }

  /** The conversation before or after the one that is open. */
  neighbour(step) {
    const shown = this.#shown();
    const at = shown.findIndex(({ id }) => id === this.#selected);
    return shown[Math.min(shown.length - 1, Math.max(0, at + step))]?.id ?? null;
  }
}

const shortly = (count) => (count > 99 ? "99+" : String(count));

function previewOf(message, people, conversation) {
  const text = summaryOf(message, people);
  if (message.type === "System" || message.deletedAt) return text;
  if (message.isOwn) return `You: ${text}`;
  return conversation.type === "Group" ? `${isolated(people.nameOf(message.senderId))}: ${text}` : text;
}

/** In the list there is room for one name. */
const typingInShort = (ids, people, isDirect) => (isDirect ? "is typing …" : ids.length > 1 ? `${ids.length} are typing …` : typingText(ids, people));

export function typingText(ids, people) {
  const names = ids.slice(0, 2).map((id) => isolated(people.nameOf(id)));
  if (ids.length === 1) return `${names[0]} is typing …`;
  return ids.length === 2 ? `${names[0]} and ${names[1]} are typing …` : `${names.join(", ")} and others are typing …`;
}
