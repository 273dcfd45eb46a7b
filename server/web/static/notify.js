/**
 * Saying that something has come while one looks elsewhere: the title, the icon, and notifications of the browser where they
 * were asked for.
 * @module
 */
import { isMain } from "./client/timeline.js";
import { throttled } from "./dom.js";
import { summaryOf } from "./message-view.js";

const KEY = "parley.notify";
const DONE = "parley.notified"; // the beginning of the locks of the messages that some tab has shown
const LOOKING = "parley.looking"; // the lock of the tab that somebody looks at
const KEPT = 200; // locks of a tab
const ICON = new URL("./icon.svg", import.meta.url).href;

export class Notifier {
  #chat;
  #people;
  #open;
  #shown = new Map();
  #signal;
  #release = null;
  #done = [];
  #isUnable = false;
  title = "";

  constructor({ chat, people, open, signal }) {
    this.#chat = chat;
    this.#people = people;
    this.#open = open;
    this.#signal = signal;
    this.paint = throttled(() => this.#paint());
    chat.on("message", (detail) => this.#onMessage(detail));
    chat.on("update", this.paint);
    chat.on("list", this.paint);
    addEventListener("focus", () => (this.#clear(), this.#look()), { signal });
    addEventListener("blur", () => this.#release?.(), { signal });
    signal.addEventListener("abort", () => (this.#clear(), this.#release?.(), this.#done.splice(0).forEach((free) => free())));
    if (document.hasFocus()) this.#look();
  }

  get isPossible() {
    return "Notification" in globalThis && isSecureContext && !this.#isUnable;
  }

  get isOn() {
    return this.isPossible && Notification.permission === "granted" && localStorage.getItem(KEY) === "on";
  }

  get isRefused() {
    return this.isPossible && Notification.permission === "denied";
  }

  /** Must be called by a click. */
  async set(isOn) {
    if (isOn && Notification.permission !== "granted" && (await Notification.requestPermission()) !== "granted") return false;
    if (isOn) {
      const example = this.#show("Parley", { body: "Messages are announced like this.", tag: "parley" });
      if (!example) return false;
      setTimeout(() => example.close(), 4000);
    }
    localStorage.setItem(KEY, isOn ? "on" : "off");
    return true;
  }

  /** Returns null where they can only be shown by a service worker, as on phones. */
  #show(title, options) {
    try {
      return new Notification(title, { icon: ICON, ...options });
    } catch {
      this.#isUnable = true;
      return null;
    }
  }

  /** Somebody looks at this tab: the others need not call them. */
  #look() {
    if (this.#release || !navigator.locks) return;
    const until = new Promise((resolve) => (this.#release = () => ((this.#release = null), resolve())));
    navigator.locks.request(LOOKING, () => until).catch(() => {});
  }

  /**
   * Whether no tab is looked at, and none has shown it: they all hear of each message. The first to hear of one takes its
   * lock and keeps it. (What one tab writes into localStorage another may read only some time later.)
   */
  async #isFirst(conversation, message) {
    const { held } = await navigator.locks.query();
    if (held.some(({ name }) => name === LOOKING)) return false;
    return new Promise((resolve, reject) => {
      const keep = (lock) => {
        resolve(lock !== null);
        return lock && new Promise((release) => this.#keep(release));
      };
      navigator.locks.request(`${DONE} ${conversation.id}/${message.seq}`, { ifAvailable: true }, keep).catch(reject);
    });
  }

  #keep(release) {
    this.#done.push(release);
    if (this.#done.length > KEPT) this.#done.shift()();
  }

  async #onMessage({ conversation, message }) {
    if (message.isOwn || message.type === "System" || conversation.isMuted || !this.isOn || document.hasFocus()) return;
    if (!isMain(message) && !message.isMention && !conversation.isFollowing(message.threadId)) return; // it is not unread, either
    if (message.seq <= conversation.readSeq || this.#chat.state === "catching_up") return;
    if (this.#people.get(this.#people.me.id)?.status === "Busy") return; // "Do not disturb"
    if (!(await this.#isFirst(conversation, message)) || this.#signal.aborted) return;
    const name = this.#people.nameOf(message.senderId);
    const title = conversation.type === "Group" ? `${name} in ${this.#people.titleOf(conversation)}` : name;
    const shown = this.#show(title, { body: summaryOf(message, this.#people), tag: conversation.id, renotify: true });
    if (!shown) return;
    shown.onclick = () => {
      focus();
      this.#open(conversation.id);
      shown.close();
    };
    this.#shown.set(conversation.id, shown);
  }

  #clear() {
    for (const shown of this.#shown.values()) shown.close();
    this.#shown.clear();
  }

  #paint() {
    if (this.#signal.aborted) return;
    const count = this.#chat.conversations.reduce((sum, { isMuted, unreadCount }) => sum + (isMuted ? 0 : unreadCount), 0);
    for (const [id, shown] of this.#shown) {
      if (this.#chat.conversation(id)?.unreadCount) continue;
      shown.close(); // it was read elsewhere
      this.#shown.delete(id);
    }
    document.title = `${count ? `(${count}) ` : ""}${this.title ? `${this.title} – ` : ""}Parley`;
    navigator.setAppBadge?.(count).catch(() => {}); // of the page as an app
    const icon = count ? new URL("./icon-unread.svg", import.meta.url).href : ICON;
    const link = document.querySelector("link[rel=icon]");
    if (link && link.href !== icon) link.href = icon;
  }
}
