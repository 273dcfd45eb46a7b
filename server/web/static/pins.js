/**
 * What is pinned in a conversation: a list behind a button, which leads to each message, and follows what is pinned,
 * unpinned, edited and deleted while it is open.
 * @module
 */
import { arrange, h, iconButton, replace, throttled } from "./dom.js";
import { summaryOf } from "./message-view.js";
import { momentOf, shortTime } from "./text.js";

/** Whether one may pin and unpin there. */
export const mayPin = ({ type, role }) => type === "Direct" || role === "Owner" || role === "Admin";

export class Pins {
  #conversation;
  #people;
  #actions;
  #signal;
  #found = new Map();
  #nodes = new Map(); // what is shown of each, by the id of the message
  #late = new Map(); // what has changed while the list is on its way
  #asked = 0;
  #state = "closed"; // or "loading", "failed", "open"

  /** @param {{conversation, people, actions, signal: AbortSignal}} options */
  constructor({ conversation, people, actions, signal }) {
    this.#conversation = conversation;
    this.#people = people;
    this.#actions = actions;
    this.#signal = signal;
    this.button = h("button", { type: "button", data: { focus: "pins" }, on: { click: () => this.#toggle() } });
    this.status = h("p", { class: "muted", role: "status" });
    this.list = h("ul", { class: "pins", role: "list" });
    this.element = h("section", { "aria-label": "Pinned messages" }, h("div", { class: "pins-head" }, h("h3", { text: "Pinned" }), this.button), this.status, this.list);
    const paint = throttled(() => signal.aborted || this.#paint());
    conversation.on("change", ({ message }) => this.#onChange(message) && paint(), { signal });
    conversation.on("conversation", paint, { signal }); // one may pin, or may no more
    conversation.on("reset", () => this.#state !== "closed" && this.#load(), { signal });
    people.addEventListener("change", paint, { signal });
    this.#paint();
  }

  #toggle() {
    if (this.#state === "closed") return this.#load();
    this.#asked++;
    this.#state = "closed";
    this.#paint();
  }

  async #load() {
    const mine = ++this.#asked;
    this.#late.clear();
    this.#state = "loading";
    this.#paint();
    try {
      const found = await this.#conversation.pins({ signal: this.#signal });
      if (mine !== this.#asked) return;
      this.#found = new Map(found.map((message) => [message.id, message]));
      for (const message of this.#late.values()) this.#take(message);
      this.#state = "open";
    } catch (error) {
      if (mine !== this.#asked || this.#signal.aborted) return;
      this.#state = "failed";
    }
    this.#paint();
  }

  #onChange(message) {
    if (this.#state === "loading") this.#late.set(message.id, message);
    return this.#state === "open" && this.#take(message);
  }

  /** @returns {boolean} whether the list is another one */
  #take(message) {
    if (this.#found.get(message.id)?.changedSeq > message.changedSeq) return false;
    if (!message.pinnedAt || message.deletedAt) return this.#found.delete(message.id);
    this.#found.set(message.id, message);
    return true;
  }

  #paint() {
    const state = this.#state;
    const isOpen = state !== "closed";
    this.button.setAttribute("aria-expanded", String(isOpen));
    this.button.textContent = isOpen ? "Hide" : "Show";
    const found = state === "open" ? [...this.#found.values()] : [];
    const hadFocus = this.list.contains(document.activeElement);
    replace(this.status, state === "loading" ? "Looking …" : state === "open" && !found.length ? "Nothing is pinned." : state === "failed" &&
      ["What is pinned could not be read. ", h("button", { type: "button", class: "link", text: "Try again", on: { click: () => this.#load() } })]);
    found.sort((one, other) => (one.pinnedAt < other.pinnedAt ? 1 : one.pinnedAt > other.pinnedAt ? -1 : other.seq - one.seq));
    const nodes = found.map((message) => this.#node(message));
    const kept = new Set(nodes);
    for (const node of this.#nodes.values()) if (!kept.has(node)) node.element.remove(); // and the others stay where they are
    this.#nodes = new Map(nodes.map((node) => [node.message.id, node]));
    arrange(this.list, nodes.map(({ element }) => element));
    if (hadFocus && !this.list.contains(document.activeElement)) this.button.focus();
  }

  /** The same element while it is the same: somebody may be about to press it. */
  #node(message) {
    const name = message.isOwn ? "You" : this.#people.nameOf(message.senderId);
    const may = mayPin(this.#conversation);
    const known = this.#nodes.get(message.id);
    if (known?.message === message && known.name === name && known.may === may) return known;
    const element = h("li", {},
      h("button", { type: "button", class: "found-message", data: { focus: `pin-${message.id}` }, on: { click: () => this.#actions.jump(message.conversationId, message.id) } },
        h("span", { class: "option-text" },
          h("span", {}, h("bdi", { text: name }), h("small", { title: momentOf(message.createdAt), text: ` · ${shortTime(message.createdAt)}` })),
          h("span", { class: "excerpt", dir: "auto", text: summaryOf(message, this.#people) }))),
      may && iconButton("close", "Unpin", () => message.unpin().catch((error) => this.#actions.say(error.message)), { data: { focus: `unpin-${message.id}` } }));
    return { message, name, may, element };
  }
}
