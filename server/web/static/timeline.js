/**
 * The messages of the conversation that is open. Only those near the window are elements, so that ten thousand cost as
 * much as a hundred. Owns where one is: at the end, which stays in view, or at a message, which stays where it is
 * whatever comes above or below it.
 * @module
 */
import { ParleyError } from "./client/errors.js";
import { isMain } from "./client/timeline.js";
import { arrange, attribute, h, iconButton, replace, throttled } from "./dom.js";
import { fill, guess, mayEdit, remark, rowOf, summaryOf } from "./message-view.js";
import { Past } from "./past.js";
import { avatar } from "./people.js";
import { mayPin } from "./pins.js";
import { dayKey, plural } from "./text.js";

const OVER = 900; // px above and below the window in which messages are elements
const NEAR = 1500; // px from the beginning, or the end of what is shown of the past, at which more is loaded
const AT_END = 60; // px from the end that count as the end
const PAGE = 100;
const FOR_UNREAD = 5; // pages that are loaded at once to find what is unread
const AROUND = 50; // messages above and below one that is far from those that are loaded
const BETWEEN = 5; // pages at most that are loaded to get to one that is not

export class Timeline {
  #chat;
  #people;
  #files;
  #actions;
  #conversation = null;
  #past = null; // what is shown in place of the conversation's end
  #jumps = 0;
  #rows = [];
  #byKey = new Map();
  #byId = null; // the messages that are loaded, when it was asked for one
  #nodes = new Map();
  #isAtEnd = true;
  #anchor = null;
  #at = 0; // where the scroller stood when these two were found
  #expanded = new Set();
  #originals = new Map();
  #firstUnread = null;
  #seenUpTo = 0;
  #isLoading = false;
  #hasFailed = false;
  #isLoadingNewer = false;
  #hasFailedNewer = false;
  #current = null; // the key of the message that has the focus, or gets it
  #width = 0;
  #stop = null;
  #names = new Set();
  #observer;
  #toolbar;
  #announced = 0;

  constructor({ chat, people, files, actions, signal }) {
    this.#chat = chat;
    this.#people = people;
    this.#files = files;
    this.#actions = actions;
    this.update = throttled(() => this.#update());
    this.#toolbar = h("div", { class: "toolbar", role: "toolbar", "aria-label": "Message" });
    this.top = h("div", { class: "timeline-top" });
    this.bottom = h("div", { class: "timeline-bottom", hidden: true });
    this.list = h("div", { class: "messages", role: "feed", "aria-label": "Messages", on: { keydown: (event) => this.#onKey(event), focusin: (event) => this.#onFocus(event), pointerover: (event) => this.#onPointer(event), click: (event) => this.#onClick(event) } });
    this.scroller = h("div", { class: "timeline", tabindex: -1, on: { scroll: () => this.#onScroll(), pointerleave: () => this.#hideToolbar() } }, this.top, this.list, this.bottom);
    this.latest = h("button", { type: "button", class: "latest", hidden: true, on: { click: () => this.toEnd(true) } });
    this.live = h("div", { class: "hidden-text", role: "log", "aria-live": "polite", "aria-label": "New messages" });
    this.element = h("div", { class: "timeline-area" }, this.scroller, this.latest, this.live);
    this.#observer = new ResizeObserver(() => this.#render());
    this.#observer.observe(this.scroller);
    people.addEventListener("change", ({ detail }) => this.#names.has(detail) && this.#refillSoon());
    for (const type of ["focus", "visibilitychange"]) addEventListener(type, () => this.#markRead(), { signal });
    let today = dayKey(Date.now());
    const timer = setInterval(() => today !== (today = dayKey(Date.now())) && this.#refill(), 30_000); // today is yesterday then
    signal.addEventListener("abort", () => (clearInterval(timer), this.#observer.disconnect()));
  }

  get conversation() {
    return this.#conversation;
  }

  get rows() {
    return this.#rows;
  }

  open(conversation) {
    if (this.#conversation === conversation) return;
    this.#stop?.abort();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#conversation = conversation;
    this.#rows = [];
    this.#byKey.clear();
    this.#drop(this.#nodes.keys());
    this.#expanded.clear();
    this.#originals.clear();
    this.#names.clear();
    this.#firstUnread = null;
    this.#take(true, null);
    this.#current = null;
    this.#jumps++;
    this.#enter(null);
    this.#seenUpTo = conversation?.head ?? 0;
    this.#announced = this.#seenUpTo;
    replace(this.live);
    if (!conversation) return this.#render();
    attribute(this.list, "aria-label", `Messages: ${this.#people.titleOf(conversation)}`);
    conversation.on("update", this.update, { signal });
    conversation.on("message", ({ message }) => this.#onNew(message), { signal });
    conversation.on("change", ({ message }) => this.#onChange(message), { signal });
    conversation.on("reset", () => this.#onReset(), { signal });
    this.#begin(conversation, signal);
  }

  async #begin(conversation, signal) {
    const jumps = this.#jumps;
    this.#update();
    const { readSeq, unreadCount } = (await conversation.asOfBefore?.(signal)) ?? conversation;
    if (signal.aborted) return;
    try {
      if (conversation.messages.length < PAGE / 2 && !conversation.isComplete) await this.#loadOlder();
      for (let pages = 0; unreadCount > 0 && pages < FOR_UNREAD && !signal.aborted && !conversation.isComplete && (conversation.messages[0]?.seq ?? 0) > readSeq + 1; pages++)
        await this.#loadOlder();
    } catch {
      // it says so itself
    }
    if (signal.aborted) return;
    if (unreadCount > 0 && readSeq >= 0) this.#markUnreadFrom(readSeq);
    this.#update();
    if (this.#firstUnread && jumps === this.#jumps) this.#show(this.#firstUnread, 0.25);
    this.#markRead();
  }

  #markUnreadFrom(readSeq) {
    const { messages, rootId } = this.#conversation; // what began a thread is not new in it
    const first = messages.find(({ id, seq, isOwn, type }) => seq > readSeq && !isOwn && type !== "System" && id !== rootId);
    this.#firstUnread = first?.key ?? null;
  }

  // -- what is there ----------------------------------------------------------------------------------------------

  get #source() {
    return this.#past ?? this.#conversation;
  }

  /** Whether what is shown ends before the newest messages. */
  get #isInPast() {
    return Boolean(this.#past && !this.#past.isJoined);
  }

  /** @param {Past | null} past null: what the conversation has */
  #enter(past) {
    this.#past?.close();
    this.#past = past;
    this.#isLoading = this.#isLoadingNewer = this.#hasFailed = this.#hasFailedNewer = false;
    attribute(this.list, "aria-busy", "false");
  }

  #update() {
    const conversation = this.#conversation;
    if (!conversation) return;
    this.#notice();
    const { messages } = this.#source;
    const rows = new Array(messages.length);
    const byKey = new Map();
    let previous = null;
    for (let index = 0; index < messages.length; index++) {
      const message = messages[index];
      const isFirstUnread = message.key === this.#firstUnread;
      const known = this.#byKey.get(message.key);
      let row = known;
      if (!known || known.message !== message || known.previous !== previous || known.isFirstUnread !== isFirstUnread) {
        row = rowOf(message, previous, isFirstUnread);
        const isAlike = known && known.hasHead === row.hasHead && known.isNewDay === row.isNewDay && known.isFirstUnread === isFirstUnread;
        if (isAlike) row.height = known.height; // until it is measured again
        row.isMeasured = Boolean(isAlike && known.isMeasured && known.message.content === message.content);
      }
      if (!row.height) row.height = guess(row, this.#width || 700);
      row.index = index;
      rows[index] = row;
      byKey.set(row.key, row);
      previous = message;
    }
    this.#rows = rows;
    this.#byKey = byKey;
    this.#byId = null;
    this.#render();
    this.#markRead();
  }

  /** One that is not loaded, but quoted. */
  #onChange(message) {
    if (!this.#originals.has(message.id)) return;
    this.#originals.set(message.id, message);
    this.update();
  }

  #onReset() {
    this.#originals.clear();
    const shown = this.#past && this.#byKey.get(this.#anchor?.key)?.message.id;
    this.#jumps++; // what is on its way may be of another history
    this.#enter(null);
    this.#update();
    if (shown) void this.jumpTo(shown);
  }

  #onNew(message) {
    if (!isMain(message) && !this.#conversation.rootId) return;
    const isSeen = document.hasFocus() && this.#isAtEnd;
    if (!isSeen && !this.#firstUnread && this.#isAtEnd && message.type !== "System") this.#firstUnread = message.key;
    if (document.visibilityState === "visible" && message.seq > this.#announced) this.#announce(message);
  }

  /** Read the newest to those who listen; many at once are counted instead. */
  #announce(message) {
    this.#announced = message.seq;
    if (this.live.childElementCount > 4) this.live.firstChild.remove();
    const text = `${this.#people.nameOf(message.senderId)}: ${summaryOf(message, this.#people)}`;
    this.live.append(h("p", { text }));
  }

  async #loadOlder() {
    const source = this.#source;
    if (!source || this.#isLoading || source.isComplete) return;
    this.#isLoading = true;
    this.#hasFailed = false;
    attribute(this.list, "aria-busy", "true");
    this.#paintTop();
    try {
      await source.loadOlder({ limit: PAGE, signal: this.#stop.signal });
    } catch (error) {
      if (source === this.#source) this.#hasFailed = error.code !== "aborted";
    } finally {
      if (source === this.#source) {
        this.#isLoading = false;
        attribute(this.list, "aria-busy", "false");
        this.#update();
      }
    }
  }

  async #loadNewer() {
    const past = this.#past;
    if (!this.#isInPast || this.#isLoadingNewer) return;
    this.#isLoadingNewer = true;
    this.#hasFailedNewer = false;
    this.#paintBottom();
    try {
      await past.loadNewer({ limit: PAGE });
    } catch (error) {
      if (past === this.#past) this.#hasFailedNewer = error.code !== "aborted";
    } finally {
      if (past === this.#past) {
        this.#isLoadingNewer = false;
        this.#update();
      }
    }
  }

  #paintBottom() {
    const state = !this.#isInPast ? "" : this.#hasFailedNewer ? "failed" : "loading";
    this.bottom.hidden = !state;
    if (this.bottom.dataset.state === state) return;
    this.bottom.dataset.state = state;
    if (state === "failed") replace(this.bottom, h("p", {}, "Newer messages could not be loaded. ", h("button", { type: "button", class: "link", text: "Try again", on: { click: () => this.#loadNewer() } })));
    else replace(this.bottom, state && h("p", { class: "loading", text: "Loading newer messages …" }));
  }

  #paintTop() {
    const conversation = this.#conversation;
    const state = !conversation ? "" : this.#source.isComplete ? "begin" : this.#hasFailed ? "failed" : "loading";
    if (this.top.dataset.state === state && state !== "begin") return;
    this.top.dataset.state = state;
    if (state === "loading") replace(this.top, h("p", { class: "loading", text: "Loading older messages …" }));
    else if (state === "failed") replace(this.top, h("p", {}, "Older messages could not be loaded. ", h("button", { type: "button", class: "link", text: "Try again", on: { click: () => this.#loadOlder() } })));
    else if (state === "begin" && conversation.rootId) replace(this.top);
    else if (state === "begin") {
      const title = this.#people.titleOf(conversation);
      if (this.top.dataset.title === title && this.top.childElementCount) return;
      this.top.dataset.title = title;
      const other = this.#people.otherOf(conversation);
      replace(this.top, avatar(title, other ?? conversation.id, { size: "large", isGroup: conversation.type === "Group" }), h("h2", {}, h("bdi", { text: title })),
        h("p", { text: conversation.type === "Direct" ? "This is the beginning of your conversation." : `This is the beginning of this group of ${plural(conversation.memberCount, "member")}.` }));
    } else replace(this.top);
  }

  // -- layout -----------------------------------------------------------------------------------------------------

  #render() {
    const { scroller, list } = this;
    this.#notice();
    const width = scroller.clientWidth;
    if (width !== this.#width) {
      this.#width = width;
      for (const row of this.#rows) row.isMeasured = false;
    }
    this.#paintTop();
    this.#paintBottom();
    const anchor = this.#isAtEnd ? null : this.#anchor;
    for (let round = 0; round < 4; round++) {
      const start = this.top.offsetHeight;
      this.#place(anchor, start);
      if (!this.#measure()) break;
    }
    this.#place(anchor, this.top.offsetHeight);
    this.#paintLatest();
    this.#keepAnchor();
    this.#considerLoading();
    list.classList.toggle("is-empty", !this.#rows.length);
  }

  /** Put those that are near the window into the list, and the window where it belongs. */
  #place(anchor, start) {
    const { scroller, list } = this;
    const rows = this.#rows;
    const height = scroller.clientHeight;
    let total = 0;
    let anchorAt = null;
    for (const row of rows) {
      row.top = total;
      if (anchor && row.key === anchor.key) anchorAt = total;
      total += row.height;
    }
    let scrollTop = scroller.scrollTop;
    if (this.#isAtEnd) scrollTop = Math.max(0, start + total - height);
    else if (anchorAt !== null) scrollTop = Math.max(0, start + anchorAt - anchor.offset);
    const from = scrollTop - start - OVER;
    const to = scrollTop - start + height + OVER;
    let first = 0;
    let end = rows.length;
    while (first < end && rows[first].top + rows[first].height < from) first++;
    while (end > first && rows[end - 1].top > to) end--;
    const wanted = new Set();
    const nodes = [];
    for (let index = first; index < end; index++) {
      const row = rows[index];
      wanted.add(row.key);
      nodes.push(this.#nodeOf(row));
    }
    this.#drop([...this.#nodes.keys()].filter((key) => !wanted.has(key)));
    arrange(list, nodes);
    const before = rows.length && first < rows.length ? rows[first].top : 0;
    const shown = end > first ? rows[end - 1].top + rows[end - 1].height - before : 0;
    list.style.setProperty("padding-top", `${before}px`);
    list.style.setProperty("padding-bottom", `${Math.max(0, total - before - shown)}px`);
    if (Math.abs(scroller.scrollTop - scrollTop) > 0.5) scroller.scrollTop = scrollTop;
  }

  /** @returns {boolean} whether any has another height than was thought */
  #measure() {
    let isOther = false;
    for (const [key, node] of this.#nodes) {
      const row = this.#byKey.get(key);
      if (!row || row.isMeasured) continue;
      const { height } = node.getBoundingClientRect();
      row.isMeasured = true;
      if (Math.abs(height - row.height) > 0.5) {
        row.height = height;
        isOther = true;
      }
    }
    return isOther;
  }

  #nodeOf(row) {
    let node = this.#nodes.get(row.key);
    if (!node) {
      node = h("article", { tabindex: -1, data: { key: row.key } });
      this.#nodes.set(row.key, node);
      new RowSize(node, () => this.#onResize(row.key));
      this.#fill(node, row);
    } else if (node.row !== row) {
      const before = node.row;
      const isAlike = before.hasHead === row.hasHead && before.isNewDay === row.isNewDay && before.isFirstUnread === row.isFirstUnread;
      const isQuoteAlike = !row.message.replyToId || this.#quoteKey(row.message.replyToId) === node.quoteKey;
      if (before.message === row.message && isAlike && isQuoteAlike) node.row = row;
      else if (isAlike && isQuoteAlike && remark(node, before.message, row.message, this.#context)) node.row = row;
      else this.#fill(node, row);
    }
    attribute(node, "aria-posinset", row.index + 1);
    attribute(node, "aria-setsize", this.#source.isComplete && !this.#isInPast ? this.#rows.length : -1);
    const isCurrent = this.#current === null ? row.index === this.#rows.length - 1 : row.key === this.#current;
    attribute(node, "tabindex", isCurrent ? 0 : -1);
    return node;
  }

  #fill(node, row) {
    const { message } = row;
    const hadToolbar = node.contains(this.#toolbar);
    const focused = node.contains(document.activeElement) ? document.activeElement : null;
    this.#names.add(message.senderId);
    const { by, userId } = message.system ?? {};
    if (by) this.#names.add(by);
    if (userId) this.#names.add(userId);
    for (const { userIds } of message.reactions) for (const id of userIds) this.#names.add(id);
    const highlight = node.classList.contains("highlight");
    fill(node, row, this.#context);
    node.quoteKey = message.replyToId && this.#quoteKey(message.replyToId);
    if (highlight) node.classList.add("highlight");
    node.row = row;
    row.isMeasured = false;
    if (hadToolbar) {
      this.#toolbar.dataset.key = "";
      this.#showToolbar(node);
    }
    if (!focused || focused === node) return;
    const label = focused.getAttribute("aria-label");
    const { focus } = focused.dataset;
    const isIt = (button) => (focus ? button.dataset.focus === focus : label && button.getAttribute("aria-label") === label);
    ([...node.querySelectorAll("button")].find(isIt) ?? node).focus({ preventScroll: true });
  }

  #refill() {
    for (const node of this.#nodes.values()) this.#fill(node, this.#byKey.get(node.dataset.key) ?? node.row);
    this.top.dataset.title = "";
    this.#render();
  }

  #refillSoon = throttled(() => this.#refill());

  get #context() {
    return {
      people: this.#people,
      conversation: this.#conversation,
      files: this.#files,
      expanded: this.#expanded,
      original: (id) => this.#original(id),
      onJump: (id) => this.jumpTo(id),
      onThread: this.#actions.thread,
      onReact: (message, emoji, adds) => this.#actions.onReact(message, emoji, adds),
      onExpand: (key) => {
        if (!this.#expanded.delete(key)) this.#expanded.add(key);
        this.#keepAnchor();
        this.#isAtEnd = false;
        const node = this.#nodes.get(key);
        this.#fill(node, this.#byKey.get(key));
        this.#render();
        node.querySelector("button.link")?.focus();
      },
    };
  }

  /** Another one when what is quoted is another. */
  #quoteKey(id) {
    const found = this.#original(id);
    return found ? `${found.changedSeq}` : String(found);
  }

  /** The message that another one answers: undefined while it is asked for, null when it is not to be had. */
  #original(id) {
    const known = this.#originals.get(id);
    this.#byId ??= new Map(this.#rows.map(({ message }) => [message.id, message]));
    const loaded = this.#byId.get(id);
    if (loaded) this.#names.add(loaded.senderId);
    if (loaded) return loaded;
    if (known !== undefined) return known === "asked" ? undefined : known;
    this.#originals.set(id, "asked");
    const conversation = this.#conversation;
    this.#chat.request("GET", `/api/messages/${id}`).then(
      (found) => ({ ...found, isOwn: found.senderId === this.#people.me.id }),
      (error) => (error.isPassing ? undefined : null),
    ).then((found) => {
      if (conversation !== this.#conversation) return;
      if (found === undefined) this.#originals.delete(id);
      else this.#originals.set(id, found);
      if (found) this.#names.add(found.senderId);
      this.#refillSoon();
    });
    return undefined;
  }

  #drop(keys) {
    for (const key of [...keys]) {
      const node = this.#nodes.get(key);
      this.#nodes.delete(key);
      if (!node) continue;
      if (node.contains(this.#toolbar)) this.#toolbar.remove();
      if (node.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
      node.observer?.disconnect();
      node.remove();
    }
  }

  #onResize(key) {
    const row = this.#byKey.get(key);
    const node = this.#nodes.get(key);
    if (!row || !node || !row.isMeasured) return;
    if (Math.abs(node.getBoundingClientRect().height - row.height) <= 0.5) return;
    row.isMeasured = false;
    this.#render();
  }

  // -- where one is -----------------------------------------------------------------------------------------------

  #onScroll() {
    this.#isAtEnd = this.#isNearEnd;
    this.#keepAnchor();
    this.#isScrolling();
  }

  /** Somebody may have scrolled, and the event of it is still to come: what is laid out now must not undo that. */
  #notice() {
    if (Math.abs(this.scroller.scrollTop - this.#at) < 0.5) return;
    this.#isAtEnd = this.#isNearEnd;
    this.#keepAnchor();
  }

  get #isNearEnd() {
    const { scroller } = this;
    return !this.#isInPast && scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop <= AT_END;
  }

  /** Where one is to be, wherever that was before. */
  #take(isAtEnd, anchor) {
    this.#isAtEnd = isAtEnd;
    this.#anchor = anchor;
    this.#at = this.scroller.scrollTop;
  }

  #isScrolling = throttled(() => {
    this.#render();
    this.#markRead();
  });

  /** Remember which message is the first in the window, and where. */
  #keepAnchor() {
    this.#at = this.scroller.scrollTop;
    const at = this.#at - this.top.offsetHeight;
    const rows = this.#rows;
    let low = 0;
    let high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle].top + rows[middle].height <= at) low = middle + 1;
      else high = middle;
    }
    const row = rows[low];
    this.#anchor = row ? { key: row.key, offset: row.top - at } : null;
  }

  #considerLoading() {
    const { scroller } = this;
    if (!this.#conversation || !this.#rows.length) return;
    if (!this.#hasFailedNewer && scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop < NEAR) void this.#loadNewer();
    if (this.#source.isComplete || this.#isLoading || this.#hasFailed) return;
    if (scroller.scrollTop < NEAR) void this.#loadOlder();
  }

  toEnd(isFocused = false) {
    this.#jumps++;
    if (this.#isInPast) this.#enter(null);
    this.#take(true, null);
    this.#firstUnread = null;
    this.#update();
    if (isFocused) this.#actions.focusComposer();
  }

  /** After one has sent something: what was unread is not new any more. */
  onSent() {
    this.toEnd();
  }

  async jumpTo(id) {
    const jump = ++this.#jumps;
    let found = this.#source.messages.find((message) => message.id === id);
    if (!found) {
      this.#actions.say("Looking for that message …");
      let said = "That message cannot be read any more.";
      const past = await this.#bring(id, jump).catch((error) => void (error.isPassing && (said = `That message could not be loaded: ${error.message}`)));
      if (jump !== this.#jumps) return past?.close();
      if (past !== undefined && past !== this.#past) this.#enter(past);
      found = this.#source.messages.find((message) => message.id === id);
      if (!found) return this.#actions.say(said);
      this.#actions.say("");
    }
    this.#update();
    this.#show(found.key, 0.35);
    const node = this.#nodes.get(found.key);
    this.#focus(found.key);
    node?.classList.add("highlight");
    setTimeout(() => node?.classList.remove("highlight"), 2000);
  }

  /**
   * Load what leads from what is there to this message, or, where that is too much, what is around it: then it is
   * returned. Raises ParleyError.
   * @returns {Promise<Past | null>}
   */
  async #bring(id, jump) {
    const conversation = this.#conversation;
    const { signal } = this.#stop;
    if (conversation.rootId) return conversation.bring(id, { limit: PAGE, signal });
    const { seq, conversationId, ...found } = await this.#chat.request("GET", `/api/messages/${id}`, { signal });
    if (conversationId !== conversation.id) throw new ParleyError("not_found", "The message is in another conversation.");
    if (!isMain(found)) {
      this.#jumps++;
      this.#actions.say("");
      this.#actions.thread({ id, ...found }, id);
      return null;
    }
    const isHere = () => conversation.messages.some((message) => message.id === id);
    const first = () => conversation.messages[0]?.seq || conversation.head + 1;
    const isNear = first() - seq < BETWEEN * PAGE; // seqs are given to changes as well: there are fewer messages
    for (let pages = 0; isNear && !isHere() && first() > seq && !conversation.isComplete && pages < BETWEEN && jump === this.#jumps; pages++)
      await conversation.loadOlder({ limit: PAGE, signal });
    return isHere() ? null : Past.around(conversation, seq, AROUND);
  }

  /** Bring a message to this part of the window's height. */
  #show(key, part) {
    const row = this.#byKey.get(key);
    if (!row) return;
    for (let round = 0; round < 3; round++) {
      this.#take(false, { key, offset: this.scroller.clientHeight * part });
      this.#render();
    }
    this.#isAtEnd = this.#isNearEnd;
  }

  #paintLatest() {
    const { scroller, latest } = this;
    const conversation = this.#conversation;
    const away = scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
    const isAway = this.#isInPast || (!this.#isAtEnd && away > 300);
    latest.hidden = !isAway;
    if (!isAway || !conversation) return;
    const count = conversation.unreadCount;
    const text = count ? `${plural(count, "new message")}` : "To the newest";
    if (latest.dataset.text === text) return;
    latest.dataset.text = text;
    replace(latest, iconOnly(), h("span", { text }));
  }

  /** What can be seen while somebody looks is read. */
  #markRead = throttled(() => {
    const conversation = this.#conversation;
    if (!conversation || document.visibilityState !== "visible" || !document.hasFocus() || conversation.isGone) return;
    if (this.#isInPast) return; // what is between was not seen
    if (getComputedStyle(this.element).visibility === "hidden") return; // a thread covers it
    if (this.#isAtEnd) {
      if (conversation.unreadCount || conversation.readSeq < conversation.head) conversation.markRead();
      return;
    }
    const { scroller } = this;
    const end = scroller.scrollTop - this.top.offsetHeight + scroller.clientHeight;
    let seen = 0;
    for (let index = this.#rows.length - 1; index >= 0; index--) {
      const row = this.#rows[index];
      if (row.top + row.height * 0.8 > end) continue;
      seen = row.message.seq;
      if (seen) break;
    }
    if (seen > conversation.readSeq) conversation.markRead(seen);
  });

  // -- keyboard and toolbar ---------------------------------------------------------------------------------------

  #focus(key) {
    this.#current = key;
    for (const [each, node] of this.#nodes) attribute(node, "tabindex", each === key ? 0 : -1);
    this.#nodes.get(key)?.focus({ preventScroll: true });
  }

  focusNewest() {
    this.toEnd();
    const row = this.#rows.at(-1);
    if (row) this.#focus(row.key);
  }

  #onFocus(event) {
    const node = event.target.closest("article");
    if (!node) return;
    if (event.target === node) {
      this.#current = node.dataset.key;
      for (const each of this.#nodes.values()) attribute(each, "tabindex", each === node ? 0 : -1);
    }
    this.#showToolbar(node);
  }

  #onPointer(event) {
    if (event.pointerType === "touch") return;
    const node = event.target.closest("article");
    if (node && !this.list.querySelector("article:focus-within .toolbar:focus-within")) this.#showToolbar(node);
  }

  #onClick(event) {
    const node = event.target.closest("article");
    if (node && !event.target.closest("a, button") && getSelection().isCollapsed) node.focus({ preventScroll: true });
  }

  #hideToolbar() {
    if (!this.#toolbar.matches(":focus-within")) this.#toolbar.remove();
  }

  #showToolbar(node) {
    const { message } = node.row;
    const wanted = this.#actionsFor(message);
    if (!wanted.length) return this.#toolbar.remove();
    if (node.contains(this.#toolbar) && this.#toolbar.dataset.key === `${message.key}/${message.status}/${message.changedSeq}`) return;
    this.#toolbar.dataset.key = `${message.key}/${message.status}/${message.changedSeq}`;
    const { focus } = this.#toolbar.contains(document.activeElement) ? document.activeElement.dataset : {};
    replace(this.#toolbar, wanted.map(({ name, label, run, key }) => iconButton(name, label, run, { title: key ? `${label} (${key})` : label, "aria-keyshortcuts": key ?? null, data: { focus: `${message.key}/${name}` } })));
    node.append(this.#toolbar);
    if (focus) (this.#toolbar.querySelector(`[data-focus="${CSS.escape(focus)}"]`) ?? node).focus({ preventScroll: true });
  }

  /** What one may do is known by now, or is another thing. */
  permit = throttled(() => {
    const node = this.#toolbar.closest("article");
    if (!node || this.#toolbar.matches(":focus-within")) return;
    this.#toolbar.dataset.key = "";
    this.#showToolbar(node);
  });

  #actionsFor(message) {
    if (message.type === "System" || message.deletedAt || this.#conversation?.isGone) return [];
    const isSent = message.seq > 0;
    const role = this.#conversation.role;
    const mayDelete = message.isOwn || this.#actions.isModerator() || (this.#conversation.type === "Group" && (role === "Owner" || role === "Admin"));
    const { reply, react, reactors, edit, pin, remove, copy, info, thread, more } = this.#actions;
    return [
      isSent && { name: "reply", label: "Reply", key: "R", run: () => reply(message) },
      isSent && thread && { name: "thread", label: "Reply in thread", key: "T", run: () => thread(message) },
      isSent && { name: "react", label: "React", key: "+", run: () => react(message, this.#toolbar.querySelector('[aria-label="React"]')) },
      mayEdit(message) && { name: "edit", label: "Edit", key: "E", run: () => edit(message) },
      message.content && { name: "copy", label: "Copy text", key: "C", run: () => copy(message) },
      isSent && message.reactions.length > 0 && { name: "people", label: "Who has reacted", key: "W", run: () => reactors(message) },
      isSent && message.isOwn && { name: "info", label: "Who has read it", key: "I", run: () => info(message) },
      mayPin(this.#conversation) && isSent && { name: "pin", label: message.pinnedAt ? "Unpin" : "Pin", key: "P", run: () => pin(message) },
      mayDelete && isSent && { name: "trash", label: "Delete", key: "Delete", run: () => remove(message) },
      isSent && !message.isOwn && { name: "more", label: "Report, block and more", key: "M", run: () => more(message, this.#toolbar.querySelector(".icon-more").parentNode) },
    ].filter(Boolean);
  }

  #onKey(event) {
    const node = event.target.closest("article");
    if (!node || event.altKey || event.ctrlKey || event.metaKey) return;
    const row = this.#byKey.get(node.dataset.key);
    if (!row) return;
    const move = { ArrowUp: -1, ArrowDown: 1, PageUp: -8, PageDown: 8 }[event.key];
    if (move && (event.target === node || event.key.startsWith("Page"))) {
      event.preventDefault();
      this.#moveTo(Math.min(this.#rows.length - 1, Math.max(0, row.index + move)));
    } else if (event.target === node && event.key === "Home") {
      event.preventDefault();
      this.#moveTo(0);
    } else if (event.target === node && event.key === "End") {
      event.preventDefault();
      if (this.#isInPast) this.focusNewest();
      else this.#moveTo(this.#rows.length - 1);
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const buttons = [...this.#toolbar.querySelectorAll("button")];
      const at = buttons.indexOf(document.activeElement);
      if (at < 0) return;
      event.preventDefault();
      buttons[(at + (event.key === "ArrowRight" ? 1 : buttons.length - 1)) % buttons.length].focus();
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.#actions.focusComposer();
    } else if (event.target === node || this.#toolbar.contains(event.target)) {
      const name = event.key === "Backspace" ? "delete" : event.key.toLowerCase();
      const action = this.#actionsFor(row.message).find(({ key }) => key?.toLowerCase() === name);
      if (!action) return;
      event.preventDefault();
      action.run();
    }
  }

  #moveTo(index) {
    const row = this.#rows[index];
    if (!row) return;
    this.#current = row.key;
    const { scroller } = this;
    const at = this.top.offsetHeight + row.top - scroller.scrollTop;
    if (!this.#nodes.has(row.key) || at < 0) this.#show(row.key, 0.05);
    else if (at + row.height > scroller.clientHeight) this.#show(row.key, Math.max(0, 1 - row.height / scroller.clientHeight - 0.02));
    if (index === this.#rows.length - 1 && !this.#isInPast) this.toEnd();
    this.#focus(row.key);
  }
}

/** Notices when what is in a row changes its size by itself. */
class RowSize {
  constructor(node, onResize) {
    let isFirst = true;
    node.observer = new ResizeObserver(() => {
      if (!isFirst) requestAnimationFrame(onResize); // not at once, as it changes the sizes of others
      isFirst = false;
    });
    node.observer.observe(node);
  }
}

function iconOnly() {
  const svg = document.createElement("span");
  svg.className = "latest-arrow";
  svg.textContent = "↓";
  svg.setAttribute("aria-hidden", "true");
  return svg;
}
