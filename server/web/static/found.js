/**
 * A list of messages from anywhere, page by page, the newest first: each leads to where it stands. Says what is so while
 * there are none, while they come, and when they do not. Whatever they contain stays text.
 * @module
 */
import { arrange, h, replace, setClass, setText, throttled } from "./dom.js";
import { summaryOf } from "./message-view.js";
import { avatar } from "./people.js";
import { fileName, momentOf, shortTime } from "./text.js";

const BEFORE = 40; // of a text that is long, shown before the first place that was looked for
const SHOWN = 240;
const LOOKS = 5; // pages that are asked for until there is something to show

export class FoundList {
  #chat;
  #people;
  #signal;
  #onChoose;
  #onLeave;
  #again;
  #found = [];
  #nodes = new Map(); // what is shown of each, by the id of the message
  #next = null;
  #asked = 0;
  #read = null;
  #texts = {};

  /**
   * @param {{chat, people, label: string, signal: AbortSignal, onChoose: (message) => void, onLeave?: () => void,
   *   again?: (message, item) => {message, highlights} | null}} options `onLeave`: somebody goes up from the first;
   *   `again`: what is to be shown of one that has changed. With an item's `unreadCount` that is what is unread of it
   */
  constructor({ chat, people, label, signal, onChoose, onLeave, again = asItIs }) {
    this.#chat = chat;
    this.#people = people;
    this.#signal = signal;
    this.#onChoose = onChoose;
    this.#onLeave = onLeave;
    this.#again = again;
    this.status = h("p", { class: "muted", role: "status" });
    this.list = h("ul", { class: "options found", role: "list", "aria-label": label, hidden: true, on: { keydown: (event) => this.#onKey(event) } });
    this.more = h("button", { type: "button", text: "Show more", hidden: true, on: { click: () => this.#load(this.#next) } });
    this.element = h("div", { class: "stack" }, this.status, this.list, this.more);
    this.paint = throttled(() => signal.aborted || this.#paint());
    people.addEventListener("change", this.paint, { signal });
    chat.on("update", this.paint, { signal }); // what is unread
    chat.on("change", ({ message }) => this.#onChange(message), { signal });
  }

  /**
   * Show these, from the first page on.
   * @param {(cursor: string | null) => Promise<{items: {message, highlights}[], next: string | null}>} read
   * @param {{busy: string, none: string, yet: string, failed: string}} texts what is said
   */
  show(read, texts) {
    this.#read = read;
    this.#texts = texts;
    void this.#load(null);
  }

  clear() {
    this.#asked++;
    this.#found = [];
    this.#next = null;
    this.#say("");
    this.#paint();
  }

  /** One that has come meanwhile, as the newest. */
  add(item) {
    if (this.#found.some(({ message }) => message.id === item.message.id)) return;
    this.#found = [item, ...this.#found];
    this.#say("");
    this.#paint();
  }

  focusFirst() {
    this.list.querySelector("button")?.focus();
  }

  async #load(cursor) {
    const mine = ++this.#asked;
    const items = cursor ? [...this.#found] : [];
    const count = items.length;
    let following = cursor;
    this.#say(this.#texts.busy, true);
    try {
      for (let look = 0; look < LOOKS && (look === 0 || (following && items.length === count)); look++) {
        const page = await this.#read(following);
        if (mine !== this.#asked) return;
        items.push(...page.items.filter(({ message }) => !items.some((item) => item.message.id === message.id)));
        following = page.next;
      }
      const isFurther = cursor && items.length > count;
      this.#found = items;
      this.#next = following;
      this.#say(items.length ? "" : following ? this.#texts.yet : this.#texts.none);
      if (!isFurther) return this.paint();
      this.#paint();
      this.list.children[count]?.querySelector("button").focus();
    } catch (error) {
      if (mine !== this.#asked || this.#signal.aborted) return;
      if (!cursor) [this.#found, this.#next] = [[], null];
      this.#say([`${this.#texts.failed} ${error.message} `, h("button", { type: "button", class: "link", text: "Try again", on: { click: () => this.#load(cursor) } })]);
      this.#paint();
    }
  }

  #say(what, isBusy = false) {
    this.element.setAttribute("aria-busy", String(isBusy));
    this.more.disabled = isBusy;
    replace(this.status, what);
  }

  #onChange(message) {
    const at = this.#found.findIndex((item) => item.message.id === message.id);
    if (at < 0 || this.#found[at].message.changedSeq >= message.changedSeq) return;
    const item = this.#again(message, this.#found[at]);
    this.#found = item ? this.#found.with(at, item) : this.#found.toSpliced(at, 1);
    if (!this.#found.length) this.#say(this.#next ? this.#texts.yet : this.#texts.none);
    this.paint();
  }

  #paint() {
    const hadFocus = this.list.contains(document.activeElement);
    this.list.hidden = !this.#found.length;
    this.more.hidden = !this.#next;
    const nodes = this.#found.map((item) => this.#node(item));
    const kept = new Set(nodes);
    for (const node of this.#nodes.values()) if (!kept.has(node)) node.element.remove(); // and the others stay where they are
    this.#nodes = new Map(nodes.map((node) => [node.item.message.id, node]));
    arrange(this.list, nodes.map(({ element }) => element));
    if (hadFocus && !this.list.contains(document.activeElement)) this.focusFirst();
  }

  /** The same element while it is the same: somebody may be about to press it. */
  #node(item) {
    const { message, highlights } = item;
    const people = this.#people;
    const conversation = this.#chat.conversation(message.conversationId);
    const name = people.nameOf(message.senderId);
    const title = conversation && people.titleOf(conversation) !== name ? people.titleOf(conversation) : "";
    let node = this.#nodes.get(message.id);
    if (node?.item !== item || node.name !== name || node.title !== title) {
      const places = (field) => highlights.filter((one) => one.field === field);
      const unread = h("span", { class: "hidden-text" });
      const button = h("button", { type: "button", class: "found-message", data: { id: message.id }, on: { click: () => this.#onChoose(message) } },
        avatar(name, message.senderId),
        h("span", { class: "option-text" },
          h("span", {}, h("bdi", { text: name }), title && h("small", {}, " · ", h("bdi", { text: title })), item.unreadCount > 0 && h("small", { class: "new", text: ` · ${item.unreadCount} new` }), unread),
          h("span", { class: "excerpt", dir: "auto" }, message.content.trim() ? excerpt(message.content, places("content")) : !message.file && summaryOf(message, people)),
          message.file && h("small", { dir: "auto" }, excerpt(fileName(message.file.name), places("fileName")))),
        h("time", { class: "time", title: momentOf(message.createdAt), text: shortTime(message.createdAt) }));
      node = { item, name, title, unread, button, element: h("li", {}, button) };
    }
    const isUnread = item.unreadCount !== undefined ? item.unreadCount > 0 : Boolean(conversation && message.seq > conversation.readSeq && message.senderId !== people.me.id);
    setClass(node.button, "unread", isUnread);
    setText(node.unread, isUnread ? ", unread" : "");
    return node;
  }

  #onKey(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const target = { ArrowDown: buttons[at + 1], ArrowUp: buttons[at - 1], Home: buttons[0], End: buttons.at(-1) }[event.key];
    if (target) target.focus();
    else if (event.key === "ArrowUp" && at === 0) this.#onLeave?.();
    else return;
    event.preventDefault();
  }
}

/** What was deleted is there no more; what was edited has its words elsewhere. */
function asItIs(message, { message: before, highlights }) {
  return message.deletedAt ? null : { message, highlights: message.content === before.content ? highlights : [] };
}

/** The part of a text around the first place, with all places in it marked. */
function excerpt(text, places) {
  const first = places.length ? Math.max(0, places[0].start - BEFORE) : 0;
  const from = isInside(text, first) ? first - 1 : first;
  const end = Math.min(text.length, from + SHOWN);
  const to = isInside(text, end) ? end - 1 : end;
  const parts = [from > 0 ? "…" : ""];
  let at = from;
  for (const { start, length } of places) {
    if (start < at || start + length > to) continue;
    parts.push(text.slice(at, start), h("mark", { text: text.slice(start, start + length) }));
    at = start + length;
  }
  return [...parts, text.slice(at, to), to < text.length ? "…" : ""];
}

/** Whether a cut there would divide a character. */
const isInside = (text, index) => index > 0 && index < text.length && /[\udc00-\udfff]/.test(text[index]);
