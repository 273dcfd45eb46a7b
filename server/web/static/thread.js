/**
 * A thread beside its conversation: the message that began it, the replies, and where one writes another. Owns which
 * replies are shown: the pages that were read, and what the client library has, which goes on to the newest.
 * @module
 */
import { attribute, h, iconButton, refocus, setText, throttled } from "./dom.js";
import { Composer } from "./composer.js";
import { Timeline } from "./timeline.js";
import { plural } from "./text.js";

/** One thread, as lists of messages and those who write take a conversation; in all other things it is that one. */
class Thread {
  alsoInConversation = () => false;
  #chat;
  #conversation;
  #read = new Map(); // what was read of it, by id
  #root = null;
  #before = null; // where the page above begins
  #isComplete = false;
  #readSeq = -1; // said, or being said
  #isReady = false; // it is known how far it was read before
  #round = 0;
  #shown = { of: null, messages: [] };

  constructor({ chat, conversation, rootId, signal }) {
    this.#chat = chat;
    this.#conversation = conversation;
    this.rootId = rootId;
    this.draftKey = `${conversation.id}/${rootId}`;
    const keep = ({ message }) => this.#has(message) && this.#keep(message);
    for (const type of ["message", "change"]) conversation.on(type, keep, { signal });
    conversation.on("reset", () => this.#forget(), { signal });
  }

  /** The same with all that a conversation has. */
  static of(options) {
    const thread = new Thread(options);
    const get = (_, name) => {
      const owner = name in thread ? thread : options.conversation;
      const value = owner[name];
      return typeof value === "function" ? value.bind(owner) : value;
    };
    return new Proxy(thread, { get });
  }

  get root() {
    return this.#conversation.allMessages.find(({ id }) => id === this.rootId) ?? this.#root;
  }

  get isComplete() {
    return this.#isComplete;
  }

  /** The replies in their order, and before them the message that began the thread, when all are there. */
  get messages() {
    const { allMessages } = this.#conversation;
    if (this.#shown.of !== allMessages) {
      const here = this.#conversation.replies(this.rootId);
      const ids = new Set(here.map(({ id }) => id));
      const [waiting, sent] = [here.filter(({ seq }) => !seq), here.filter(({ seq }) => seq)];
      const all = [...[...this.#read.values()].filter(({ id }) => !ids.has(id)), ...sent].sort((one, other) => one.seq - other.seq);
      const { root } = this;
      this.#shown = { of: allMessages, messages: [...(this.#isComplete && root ? [root] : []), ...all, ...waiting] };
    }
    return this.#shown.messages;
  }

  get head() {
    return this.messages.findLast(({ seq }) => seq)?.seq ?? 0;
  }

  get lastMessage() {
    return this.messages.at(-1) ?? null;
  }

  get readSeq() {
    return this.#readSeq;
  }

  get unreadCount() {
    return this.#readSeq < 0 ? 0 : this.messages.filter(({ seq, isOwn, deletedAt }) => seq > this.#readSeq && !isOwn && !deletedAt).length;
  }

  get isFollowing() {
    return this.#conversation.isFollowing(this.rootId);
  }

  on(type, listener, options) {
    if (type === "update") for (const each of ["update", "thread"]) this.#conversation.on(each, () => listener(), options);
    else if (type !== "message" && type !== "change") return this.#conversation.on(type, listener, options);
    else this.#conversation.on(type, (detail) => this.#has(detail.message) && listener(detail), options);
    if (type === "update") this.#conversation.on("change", ({ message }) => this.#has(message) && listener(), options);
  }

  /** How far one had read it, and how much was new, when it was opened; null where that cannot be known. */
  async asOfBefore(signal) {
    try {
      return await this.#chat.request("GET", `/api/threads/${this.rootId}`, { signal });
    } catch {
      return null;
    } finally {
      this.#isReady = true; // from here on it may be read
    }
  }

  async loadOlder({ limit, signal }) {
    const round = this.#round;
    const root = this.root ?? (await this.#find(signal));
    const page = await this.#conversation.pageReplies(this.rootId, { before: this.#before, limit, signal });
    if (round !== this.#round) return;
    this.#root ??= root;
    for (const message of page.messages) this.#keep(message);
    this.#before = page.next;
    this.#isComplete = page.next === null;
    this.#shown.of = null;
  }

  /** Load what leads to one of its messages, for a list that is to show it. */
  async bring(id, { limit, signal }) {
    while (!this.#isComplete && !this.messages.some((message) => message.id === id)) await this.loadOlder({ limit, signal });
    return null;
  }

  async #find(signal) {
    const { seq } = await this.#chat.message(this.rootId, { signal });
    const { messages } = await this.#conversation.page({ before: seq + 1, limit: 1, signal });
    return messages.find(({ id }) => id === this.rootId) ?? null;
  }

  send(content, options) {
    return this.#conversation.send(content, { ...options, threadId: this.rootId, alsoInConversation: this.alsoInConversation() });
  }

  /** What could not be said is said with what comes next, or when one looks again. */
  markRead(seq = this.head) {
    const before = this.#readSeq;
    if (seq <= before || !seq || !this.#isReady) return;
    this.#readSeq = seq;
    this.#conversation.markThreadRead(this.rootId, { seq }).catch(() => (this.#readSeq = before));
  }

  #has({ id, threadId }) {
    return id === this.rootId || threadId === this.rootId;
  }

  #keep(message) {
    this.#shown.of = null;
    if (message.id === this.rootId) this.#root = message;
    else if ((this.#read.get(message.id)?.changedSeq ?? 0) <= message.changedSeq) this.#read.set(message.id, message);
  }

  #forget() {
    this.#round++;
    this.#read.clear();
    this.#root = this.#before = this.#shown.of = null;
    this.#isComplete = false;
    this.#readSeq = -1;
  }
}

export class ThreadPanel {
  #chat;
  #people;
  #actions;
  #thread = null;
  #opener = null;
  #stop = null;

  constructor({ chat, people, pictures, actions, signal }) {
    this.#chat = chat;
    this.#people = people;
    this.#actions = actions;
    const own = {
      ...actions,
      thread: null,
      focusComposer: () => this.focus(),
      onSent: () => (this.timeline.onSent(), (this.also.checked = false)),
      reply: (message) => this.composer.reply(message),
      edit: (message) => this.composer.edit(message),
    };
    this.timeline = new Timeline({ chat, people, files: pictures, actions: own, signal });
    this.also = h("input", { type: "checkbox" });
    this.composer = new Composer({ chat, people, pictures, actions: own });
    this.composer.element.append(h("label", { class: "choice also" }, this.also, "Also send to the conversation"));
    attribute(this.composer.element, "aria-label", "Reply in this thread");
    this.standing = h("p", { class: "standing" });
    this.following = h("button", { type: "button", class: "follow", on: { click: () => this.#toggleFollowing() } });
    this.ended = h("p", { class: "muted thread-end", role: "status", hidden: true, text: "The message was deleted: no more replies can be written." });
    this.element = h("div", { class: "thread", role: "complementary", "aria-label": "Thread", hidden: true, on: { keydown: (event) => this.#onKey(event) } },
      h("div", { class: "thread-head" }, h("div", { class: "option-text" }, h("h2", { text: "Thread" }), this.standing), this.following, iconButton("close", "Close the thread", () => this.close())),
      this.timeline.element, this.ended, this.composer.element);
    this.paint = throttled(() => this.#paint());
    people.addEventListener("change", this.paint);
  }

  get isOpen() {
    return !this.element.hidden;
  }

  /** The message that began the thread which is open; null: none is. */
  get rootId() {
    return this.#thread?.rootId ?? null;
  }

  /** Open the thread of a message of this conversation, at one of its replies if that is said. */
  open(conversation, rootId, messageId = null) {
    if (this.#thread?.rootId !== rootId) {
      if (!this.isOpen) this.#opener = document.activeElement;
      this.#stop?.abort();
      this.#stop = new AbortController();
      const { signal } = this.#stop;
      this.#thread = Thread.of({ chat: this.#chat, conversation, rootId, signal });
      this.#thread.alsoInConversation = () => this.also.checked;
      this.#thread.on("update", this.paint, { signal });
      this.also.checked = false;
      this.element.hidden = false;
      this.#actions.onThread(true);
      this.composer.open(this.#thread);
      this.timeline.open(this.#thread);
      this.#paint();
    }
    if (messageId) void this.timeline.jumpTo(messageId);
    else this.focus();
  }

  /** @param {boolean} isLeft whether the focus goes back to where it was */
  close(isLeft = true) {
    if (!this.isOpen) return;
    const { root } = this.#thread;
    this.#stop.abort();
    this.#thread = null;
    this.element.hidden = true;
    this.composer.open(null);
    this.timeline.open(null);
    this.#actions.onThread(false);
    const opener = this.#opener;
    if (isLeft) refocus(opener?.isConnected || opener?.dataset.focus ? opener : document.querySelector(`.main [data-key="${CSS.escape(root?.key ?? "")}"]`));
    this.#opener = null;
  }

  /** The view ends. */
  end() {
    this.#stop?.abort();
    this.timeline.open(null);
    this.composer.close();
  }

  focus() {
    if (!this.composer.element.hidden && !matchMedia("(pointer: coarse)").matches) this.composer.focus();
    else this.element.querySelector(".thread-head .icon-button").focus();
  }

  #paint() {
    const thread = this.#thread;
    if (!thread) return;
    const { root, isFollowing } = thread;
    const title = this.#people.titleOf(thread);
    setText(this.standing, root?.thread ? `${plural(root.thread.replyCount, "reply", "replies")} · ${title}` : title);
    setText(this.following, isFollowing ? "Following" : "Follow");
    attribute(this.following, "aria-pressed", String(isFollowing));
    attribute(this.following, "title", isFollowing ? "Follow this thread no more" : "Be shown what is unread in this thread");
    const isEnded = Boolean(root?.deletedAt);
    const hadFocus = isEnded && this.composer.element.contains(document.activeElement);
    this.ended.hidden = !isEnded;
    this.composer.element.hidden = isEnded;
    if (hadFocus) this.focus();
    for (const name of ["placeholder", "aria-label"]) attribute(this.composer.input, name, "Reply in this thread");
  }

  async #toggleFollowing() {
    const thread = this.#thread;
    this.following.disabled = true;
    try {
      await (thread.isFollowing ? thread.unfollowThread(thread.rootId) : thread.followThread(thread.rootId));
    } catch (error) {
      this.#actions.say(`That was not changed: ${error.message}`);
    } finally {
      this.following.disabled = false;
      this.following.focus();
      this.#paint();
    }
  }

  #onKey(event) {
    if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
    event.preventDefault();
    event.stopPropagation();
    this.close();
  }
}
