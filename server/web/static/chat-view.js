/**
 * The whole chat of somebody who is signed in: the list, the conversation that is open, what is beside it, and the
 * state of the connection, said as it is.
 * @module
 */
import { attribute, h, iconButton, replace, setClass, setText, throttled } from "./dom.js";
import { startConversation } from "./choose-people.js";
import { Composer } from "./composer.js";
import { Details, showReactors, showReceipts } from "./details.js";
import { ask, closeAbout, openLater, openMenu } from "./dialog.js";
import { keepDraft } from "./drafts.js";
import { explained } from "./explained.js";
import { askToJoin, findGroups } from "./find-groups.js";
import { showMentions } from "./mentioned.js";
import { summaryOf } from "./message-view.js";
import { Notifier } from "./notify.js";
import { People, avatar, setAvatar } from "./people.js";
import { Pictures } from "./pictures.js";
import { Safety } from "./safety.js";
import { offer } from "./session.js";
import { searchMessages } from "./search.js";
import { Sidebar, typingText } from "./sidebar.js";
import { plural } from "./text.js";
import { ThreadPanel } from "./thread.js";
import { showThreads } from "./threads.js";
import { Timeline } from "./timeline.js";
import { toggleTheme } from "./theme.js";

const STATUSES = [["Online", "Online"], ["Away", "Away"], ["Busy", "Do not disturb"], ["Offline", "Appear offline"]];
const REACTIONS = ["👍", "❤️", "😂", "🎉", "😮", "😢"]; // those that are offered
const SAID_FOR = 5000; // ms
const OVER_IT = "(max-width: 1100px)"; // what is beside the conversation covers it
const ADDRESS = /^#\/c\/([0-9a-f-]{36})(?:\/t\/([0-9a-f-]{36}))?$/i; // of a conversation, and of a thread in it
const RESTART = 60_000; // ms for which a server that has said so is taken to be restarting
const QUIET = 700; // ms for which a lost connection is not mentioned: most are back by then

export class ChatView {
  #chat;
  #root;
  #stop = new AbortController();
  #conversation = null;
  #opened = null;
  #uploads = 0;
  #sayTimer;
  #stateTimer;

  constructor({ chat, me, root, onSignOut }) {
    this.#chat = chat;
    this.#root = root;
    const people = (this.people = new People(chat, me));
    const say = (text) => this.say(text);
    const pictures = new Pictures(chat, say);
    const safety = (this.safety = new Safety({ chat, people, say, onRole: () => (this.timeline.permit(), this.thread.timeline.permit()) }));
    const actions = {
      say,
      open: (id) => this.open(id),
      focusComposer: () => this.composer.focus(),
      startConversation: (start) => startConversation({ chat, people, start, onDone: ({ id }) => this.open(id) }),
      jump: (id, messageId) => this.#jump(id, messageId),
      searchMessages: (start) => this.#search(start),
      showMentions: () => this.#showMentions(),
      showThreads: () => this.#showThreads(),
      findGroups: (start) => this.#findGroups(start),
      talkTo: (id) => chat.createDirect(id).then((conversation) => this.open(conversation.id), (error) => say(explained(error))),
      more: (message, button) => openMenu(button, safety.items(message.senderId, { conversation: this.#conversation, message })),
      isModerator: () => safety.isModerator,
      unblock: (id) => safety.unblock(id),
      openSelfMenu: (button) => this.#selfMenu(button, onSignOut),
      onDetails: (isOpen) => this.#onDetails(isOpen),
      onThread: (isOpen) => this.#onThread(isOpen),
      thread: (message, at) => this.thread.open(this.#conversation, message.threadId ?? message.id, at),
      onSent: () => this.timeline.onSent(),
      onForbidden: () => this.timeline.focusNewest(),
      onUploads: (change) => (this.#uploads += change),
      reply: (message) => this.composer.reply(message),
      react: (message, button) => openMenu(button, REACTIONS.map((text) => ({ text, run: () => this.#react(message, text, true) }))),
      onReact: (message, emoji, adds) => this.#react(message, emoji, adds),
      edit: (message) => this.composer.edit(message),
      pin: (message) => (message.pinnedAt ? message.unpin() : message.pin()).catch((error) => say(explained(error))),
      remove: (message) => this.#remove(message),
      copy: (message) => navigator.clipboard?.writeText(message.content).then(() => say("Copied."), () => say("The browser does not let it be copied.")),
      reactors: (message) => showReactors({ people, conversation: this.#conversation, message }),
      info: (message) => showReceipts({ people, conversation: this.#conversation, message }),
    };
    const { signal } = this.#stop;
    this.notifier = new Notifier({ chat, people, signal, open: (id) => this.open(id) });
    this.sidebar = new Sidebar({ chat, people, actions, signal });
    this.timeline = new Timeline({ chat, people, files: pictures, actions, signal });
    this.composer = new Composer({ chat, people, pictures, actions });
    this.details = new Details({ chat, people, actions, safety });
    this.thread = new ThreadPanel({ chat, people, pictures, actions, signal });
    this.notice = h("div", { class: "toast", role: "status", "aria-live": "polite" });
    this.#build();
    this.#listen();
    this.#paintState();
    this.#route();
    this.#askToJoin();
  }

  get #isNarrow() {
    return matchMedia("(max-width: 760px)").matches;
  }

  #build() {
    this.avatar = avatar("", "0", { presence: true });
    this.title = h("h1", {}, h("bdi"));
    this.standing = h("p", { class: "standing" });
    this.aboutButton = iconButton("info", "About this conversation", () => this.details.toggle(), { "aria-expanded": "false", "aria-keyshortcuts": "Alt+I" });
    this.narrowStatus = h("div", { class: "connection narrow" });
    this.typing = h("p", { class: "typing-line", role: "status" });
    this.conversationArea = h("div", { class: "conversation", hidden: true },
      h("header", { class: "conversation-head" },
        iconButton("back", "All conversations", () => this.open(null), { class: "only-narrow" }),
        h("div", { class: "conversation-title", on: { click: () => this.details.toggle() } }, this.avatar, h("div", { class: "option-text" }, this.title, this.standing)),
        this.aboutButton),
      this.narrowStatus, this.timeline.element, this.typing, this.composer.element);
    this.nothingText = h("p", { role: "status" });
    this.nothing = h("div", { class: "nothing" }, h("span", { class: "brand large", "aria-hidden": true }), this.nothingText,
      h("button", { type: "button", class: "primary", text: "New conversation", on: { click: () => startConversation({ chat: this.#chat, people: this.people, onDone: ({ id }) => this.open(id) }) } }));
    this.dropZone = h("div", { class: "drop-zone", hidden: true, "aria-hidden": true }, h("p", { text: "Drop files to send them" }));
    this.main = h("main", { class: "main" }, this.nothing, this.conversationArea, this.dropZone);
    replace(this.#root, this.sidebar.element, this.main, this.details.element, this.thread.element, this.notice);
    this.#root.className = "chat";
  }

  #listen() {
    const { signal } = this.#stop;
    const chat = this.#chat;
    this.paintHead = throttled(() => this.#paintHead());
    chat.on("state", () => this.#onState());
    chat.on("removed", ({ conversation, reason }) => this.#onRemoved(conversation, reason));
    chat.on("change", ({ message }) => message.deletedAt && closeAbout(message.id));
    chat.on("conversation", this.paintHead);
    chat.on("typing", this.paintHead);
    chat.on("update", throttled(() => this.#paintState()));
    chat.on("list", () => {
      if (!this.#conversation && this.#opened) this.#route();
      this.#paintNothing();
    });
    chat.on("error", ({ error }) => error.code !== "closed" && console.warn(`${error.code}: ${error.message}`));
    for (const type of ["change", "presence"]) this.people.addEventListener(type, this.paintHead);
    addEventListener("pagehide", () => (this.composer.keep(), this.thread.composer.keep()), { signal });
    addEventListener("hashchange", () => (this.#route(), this.#askToJoin()), { signal });
    addEventListener("resize", () => this.#nameLandmarks(), { signal });
    addEventListener("keydown", (event) => this.#onKey(event), { signal });
    for (const type of ["online", "offline"]) addEventListener(type, () => this.#paintState(), { signal });
    addEventListener("beforeunload", (event) => this.#uploads > 0 && event.preventDefault(), { signal });
    this.#listenForDrops(signal);
  }

  /** The end of this view; the root is another's. */
  close() {
    this.#stop.abort();
    clearTimeout(this.#stateTimer);
    clearTimeout(this.#sayTimer);
    this.timeline.open(null);
    this.composer.close();
    this.thread.end();
    this.#root.className = "";
    for (const dialog of document.querySelectorAll("dialog, .menu")) dialog.remove();
  }

  // -- which conversation -----------------------------------------------------------------------------------------

  open(id) {
    const address = id ? `#/c/${id}` : "#/";
    if (location.hash === address) this.#route();
    else location.hash = address;
  }

  #route() {
    const [id = null, rootId = null] = ADDRESS.exec(location.hash)?.slice(1).map((each) => each?.toLowerCase()) ?? [];
    this.#opened = id;
    const conversation = id ? (this.#chat.conversation(id) ?? null) : null;
    if (conversation === this.#conversation && this.#root.dataset.open === String(Boolean(id))) {
      if (conversation && !this.#routeThread(rootId) && this.#isNarrow === false) this.composer.focus();
      return;
    }
    this.#conversation = conversation;
    this.#isRouting = true;
    this.#root.dataset.open = String(Boolean(conversation));
    this.conversationArea.hidden = !conversation;
    this.nothing.hidden = Boolean(conversation);
    this.thread.close(false);
    this.details.open(conversation);
    this.composer.open(conversation);
    this.timeline.open(conversation);
    this.sidebar.select(conversation?.id ?? null);
    this.#paintNothing();
    this.#nameLandmarks();
    this.#paintHead();
    this.#isRouting = false;
    if (conversation && !matchMedia("(pointer: coarse)").matches) this.composer.focus();
    else if (!conversation && this.#isNarrow) this.sidebar.list.querySelector("a[tabindex='0']")?.focus();
    if (conversation) this.#routeThread(rootId);
  }

  #isRouting = false;

  /** Show the thread that the address names, or none. Returns whether it names one. */
  #routeThread(rootId) {
    if (!rootId) this.thread.close(false);
    else if (this.thread.rootId !== rootId) void this.#openThread(rootId);
    return Boolean(rootId);
  }

  /** An address may be of a thread that is not there, or is in another conversation. */
  async #openThread(rootId) {
    const conversation = this.#conversation;
    let said = "";
    try {
      const { conversationId } = await this.#chat.request("GET", `/api/threads/${rootId}`, { signal: this.#stop.signal });
      if (conversationId !== conversation.id) said = "That thread is not in this conversation.";
    } catch (error) {
      said = error.code === "not_found" ? "That thread is not there, or you cannot read it." : explained(error);
    }
    if (this.#stop.signal.aborted || this.#conversation !== conversation || !location.hash.toLowerCase().endsWith(rootId)) return;
    if (!said) return this.thread.open(conversation, rootId);
    history.replaceState(null, "", `#/c/${conversation.id}`);
    this.say(said);
  }

  /** The address says which thread is open: one can keep it, and go back from there. */
  #addressThread() {
    const { rootId } = this.thread;
    const address = `#/c/${this.#conversation.id}${rootId ? `/t/${rootId}` : ""}`;
    if (location.hash === address) return;
    if (rootId && !location.hash.includes("/t/")) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }

  /** Open a conversation at one of its messages. */
  #jump(id, messageId) {
    if (this.#conversation?.id !== id) {
      history.pushState(null, "", `#/c/${id}`);
      this.#route();
    }
    if (matchMedia(OVER_IT).matches) this.details.close();
    if (this.#isNarrow) this.thread.close(false);
    if (this.#conversation?.id === id) void this.timeline.jumpTo(messageId);
    else this.say("That conversation cannot be opened any more.");
  }

  #search(start) {
    searchMessages({ chat: this.#chat, people: this.people, conversation: this.#conversation, start, onDone: (id, messageId) => this.#jump(id, messageId) });
  }

  #showMentions() {
    showMentions({ chat: this.#chat, people: this.people, onDone: (id, messageId) => this.#jump(id, messageId) });
  }

  #findGroups(start) {
    findGroups({ chat: this.#chat, start, onDone: ({ id }) => this.open(id) });
  }

  #askToJoin() {
    askToJoin({ chat: this.#chat, onDone: ({ id }) => this.open(id) });
  }

  #showThreads() {
    showThreads({ chat: this.#chat, people: this.people, onDone: (id, rootId) => {
      if (this.#conversation?.id !== id) {
        history.pushState(null, "", `#/c/${id}`);
        this.#route();
      }
      if (this.#conversation?.id === id) this.thread.open(this.#conversation, rootId);
      else this.say("That conversation cannot be opened any more.");
    } });
  }

  #lastGone = "";

  #paintNothing() {
    if (this.#opened) this.#lastGone = "";
    const { conversations, state } = this.#chat;
    const isUnknown = this.#opened && !this.#conversation;
    let text = conversations.length ? "Choose a conversation, or start one." : `Welcome, ${this.people.me.displayName || this.people.me.username}. Find people by their names, and write to them.`;
    if (isUnknown) text = state === "live" ? "This conversation is not there, or you are not a member of it." : "Looking for this conversation …";
    setText(this.nothingText, this.#lastGone || text);
  }

  /** On a phone the list is all there is, and so the main part. */
  #nameLandmarks() {
    attribute(this.sidebar.element, "role", this.#isNarrow && !this.#conversation ? "main" : "navigation");
    attribute(this.thread.element, "role", this.#isNarrow && this.thread.isOpen ? "main" : "complementary");
  }

  #onRemoved(conversation, reason) {
    const title = this.people.titleOf(conversation);
    const text = { left: `You have left ${title}.`, removed: `You were removed from ${title}.`, deleted: `${title} was deleted.` }[reason] ?? `You are no longer a member of ${title}.`;
    this.say(text);
    closeAbout(conversation.id);
    if (this.#conversation === conversation) {
      this.#lastGone = text; // for one who does not look just now
      history.replaceState(null, "", "#/"); // one cannot go back to it
      this.#route();
    }
    keepDraft(this.people.me.id, conversation.id, "");
  }

  #paintHead() {
    const conversation = this.#conversation;
    const people = this.people;
    this.notifier.title = conversation ? people.titleOf(conversation) : "";
    this.notifier.paint();
    if (!conversation) return;
    const title = people.titleOf(conversation);
    const other = people.otherOf(conversation);
    if (other) people.watch([other]);
    setText(this.title.firstChild, title);
    setAvatar(this.avatar, title, other ?? conversation.id, other ? people.statusOf(other) : "");
    setClass(this.avatar, "group", conversation.type === "Group");
    const standing = conversation.type === "Direct" ? (other ? people.standingOf(other) : "") : plural(conversation.memberCount, "member");
    setText(this.standing, standing);
    const typing = conversation.typing.filter((id) => id !== people.me.id);
    setText(this.typing, typing.length ? typingText(typing, people) : "");
    attribute(this.composer.input, "placeholder", `Message ${title}`);
    attribute(this.composer.input, "aria-label", `Message ${title}`);
  }

  #onThread(isOpen) {
    if (this.#conversation && !this.#isRouting) this.#addressThread();
    if (isOpen) this.details.close();
    this.#root.dataset.thread = String(isOpen);
    this.#nameLandmarks();
    this.timeline.update(); // it may have been covered
  }

  #onDetails(isOpen) {
    if (isOpen) this.thread.close(false);
    this.#root.dataset.details = String(isOpen);
    attribute(this.aboutButton, "aria-expanded", String(isOpen));
    if (!isOpen) this.aboutButton.focus();
  }

  // -- the connection ---------------------------------------------------------------------------------------------

  #onState() {
    clearTimeout(this.#stateTimer);
    const { state, reason } = this.#chat;
    this.#lostAt = state === "live" ? 0 : this.#lostAt || Date.now();
    if (state === "live") this.#lost = null;
    else if (state === "offline" && !(this.#lost?.code === "draining" && Date.now() - this.#lostAt < RESTART)) this.#lost = reason;
    this.#paintNothing();
    if (state === "live") this.#paintState();
    else this.#stateTimer = setTimeout(() => this.#paintState(), this.sidebar.status.textContent ? 0 : QUIET);
    this.sidebar.paint();
  }

  #paintState() {
    const { state, reason, pendingCount } = this.#chat;
    const element = this.sidebar.status;
    const waiting = pendingCount ? ` ${plural(pendingCount, "message waits", "messages wait")} to be sent.` : "";
    let [kind, text] = ["", ""];
    const isLost = state === "offline" || (state === "connecting" && this.#lost); // it says so until there is a connection
    const code = this.#lost?.code ?? reason?.code;
    if (!navigator.onLine) [kind, text] = ["offline", `You are offline.${waiting}`];
    else if (state === "catching_up") [kind, text] = ["busy", "Catching up …"];
    else if (isLost && code === "draining") [kind, text] = ["busy", `The server is restarting. Connecting again …${waiting}`];
    else if (isLost && code === "rate_limited") [kind, text] = ["offline", `The server asks to wait a moment.${waiting}`];
    else if (isLost) [kind, text] = ["offline", `The server cannot be reached. Trying again …${waiting}`];
    else if (state === "connecting") [kind, text] = ["busy", `Connecting …${waiting}`];
    const isSame = element.dataset.kind === kind && element.dataset.text === text;
    if (isSame || (kind && !element.dataset.kind && state !== "live" && this.#isYoung)) return;
    element.dataset.kind = kind;
    element.dataset.text = text;
    this.#root.dataset.connection = kind || "live";
    for (const each of [element, this.narrowStatus]) {
      each.dataset.kind = kind;
      replace(each, text && h("span", { text }), kind === "offline" && navigator.onLine && h("button", { type: "button", class: "link", text: "Try now", on: { click: () => this.#chat.reconnect() } }));
    }
  }

  #lost = null; // why there was no connection, until there is one
  #lostAt = 0;

  /** Whether it is too early to mention that the connection is lost. */
  get #isYoung() {
    return Date.now() - this.#lostAt < QUIET - 50 && navigator.onLine;
  }

  // -- acting -----------------------------------------------------------------------------------------------------

  #react(message, emoji, adds) {
    (adds ? message.react(emoji) : message.unreact(emoji)).catch((error) => this.say(explained(error)));
  }

  #remove(message) {
    const isOwn = message.isOwn;
    ask({
      title: "Delete this message",
      about: [message.id, message.conversationId],
      text: [h("span", { class: "quoted", dir: "auto", text: summaryOf(message, this.people) }), h("br"), isOwn ? "It is deleted for everybody." : "It is another member's. It is deleted for everybody."],
      action: "Delete",
      run: () => message.delete(),
    });
  }

  say(text) {
    clearTimeout(this.#sayTimer);
    setText(this.notice, text);
    this.notice.classList.toggle("shown", Boolean(text));
    this.#sayTimer = setTimeout(() => {
      this.notice.classList.remove("shown");
      setText(this.notice, "");
    }, SAID_FOR);
  }

  #selfMenu(button, onSignOut) {
    const { people } = this;
    const status = people.get(people.me.id)?.status ?? "Online";
    openMenu(button, [
      ...STATUSES.map(([value, text]) => ({ text, isChecked: value === status, run: () => this.#setStatus(value) })),
      { text: "Settings", run: () => this.#openSettings((dialogs) => dialogs.openSettings({ chat: this.#chat, people, safety: this.safety, notifier: this.notifier, say: (said) => this.say(said) })) },
      this.safety.isModerator && { text: "Reports", run: () => void this.safety.open("showOpenReports") },
      { text: "Light or dark", run: toggleTheme },
      { text: "Keyboard", run: () => this.#openShortcuts() },
      { text: "Sign out", isDanger: true, run: onSignOut },
    ]);
  }

  #openSettings(open) {
    return openLater(() => import("./settings.js"), open, (said) => this.say(said));
  }

  #openShortcuts() {
    return this.#openSettings((dialogs) => dialogs.openShortcuts());
  }

  async #setStatus(status) {
    try {
      const account = await this.#chat.setStatus(status, { text: this.people.me.statusText ?? undefined });
      Object.assign(this.people.me, account, { status });
      this.people.learn(this.people.me);
    } catch (error) {
      this.say(error.message);
    }
  }

  #onKey(event) {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    const isCommand = event.ctrlKey || event.metaKey;
    const isWriting = event.target.closest?.("input, textarea, select");
    const run = () => {
      if (isCommand && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") return () => this.sidebar.search.focus();
      if (isCommand && !event.altKey && event.key === "/") return () => this.#openShortcuts();
      if (event.altKey && !isCommand) {
        if (event.code === "KeyN") return () => startConversation({ chat: this.#chat, people: this.people, onDone: ({ id }) => this.open(id) });
        if (event.code === "KeyS") return () => this.#search();
        if (event.code === "KeyA") return () => this.#showMentions();
        if (event.code === "KeyT") return () => this.#showThreads();
        if (event.code === "KeyG") return () => this.#findGroups();
        if (event.code === "KeyM" && this.#conversation) return () => this.timeline.focusNewest();
        if (event.code === "KeyI" && this.#conversation) return () => this.details.toggle();
        if (event.key === "ArrowUp" || event.key === "ArrowDown") return () => this.open(this.sidebar.neighbour(event.key === "ArrowUp" ? -1 : 1));
      }
      if (event.key === "?" && !isWriting && !isCommand) return () => this.#openShortcuts();
      if (event.key === "Escape" && this.thread.isOpen && !isWriting && !event.defaultPrevented) return () => this.thread.close();
      if (event.key === "Escape" && this.details.isOpen && !isWriting) return () => this.details.close();
      return null;
    };
    const found = run();
    if (!found) return;
    event.preventDefault();
    found();
  }

  #listenForDrops(signal) {
    const hasFiles = (event) => this.#conversation && offer.hasFiles && event.dataTransfer?.types.includes("Files");
    let depth = 0;
    const show = (isShown) => (this.dropZone.hidden = !isShown);
    addEventListener("dragenter", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth++;
      show(true);
    }, { signal });
    addEventListener("dragleave", (event) => hasFiles(event) && --depth <= 0 && show(false), { signal });
    addEventListener("dragover", (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault(), { signal });
    addEventListener("drop", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault(); // a file that misses would be opened in place of this page
      depth = 0;
      show(false);
      if (!this.#conversation) return this.say("Open a conversation first: files are sent in one.");
      const isFolder = [...event.dataTransfer.items].filter(({ kind }) => kind === "file").map((item) => item.webkitGetAsEntry?.()?.isDirectory ?? false);
      if (isFolder.includes(true)) this.say("Folders cannot be sent: put one into an archive, or send its files.");
      const { composer } = event.target.closest?.(".thread") ? this.thread : this;
      composer.add([...event.dataTransfer.files].filter((_, index) => !isFolder[index]));
    }, { signal });
  }
}
