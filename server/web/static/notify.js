/**
 * Saying that something has come while one looks elsewhere: the title, the icon, and notifications of the browser where they
 * were asked for.
 * @module
 */
import { throttled } from "./dom.js";
import { summaryOf } from "./message-view.js";

const KEY = "parley.notify";

export class Notifier {
  #chat;
  #people;
  #open;
  #shown = new Map();
  title = "";

  constructor({ chat, people, open }) {
    this.#chat = chat;
    this.#people = people;
    this.#open = open;
    this.paint = throttled(() => this.#paint());
    chat.on("message", (detail) => this.#onMessage(detail));
    chat.on("update", this.paint);
    chat.on("list", this.paint);
    addEventListener("focus", () => this.#clear());
  }

  get isPossible() {
    return "Notification" in globalThis && isSecureContext;
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
    localStorage.setItem(KEY, isOn ? "on" : "off");
    return true;
  }

  #onMessage({ conversation, message }) {
    if (message.isOwn || message.type === "System" || !this.isOn || document.hasFocus()) return;
    if (message.seq <= conversation.readSeq || this.#chat.state === "catching_up") return;
    const name = this.#people.nameOf(message.senderId);
    const title = conversation.type === "Group" ? `${name} in ${this.#people.titleOf(conversation)}` : name;
    const shown = new Notification(title, { body: summaryOf(message, this.#people), tag: conversation.id, renotify: true, icon: new URL("./icon.svg", import.meta.url).href });
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
    const count = this.#chat.unreadCount;
    document.title = `${count ? `(${count}) ` : ""}${this.title ? `${this.title} – ` : ""}Parley`;
    const icon = new URL(count ? "./icon-unread.svg" : "./icon.svg", import.meta.url).href;
    const link = document.querySelector("link[rel=icon]");
    if (link && link.href !== icon) link.href = icon;
  }
}
