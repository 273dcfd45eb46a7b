/**
 * Whether one may write in the group that is open, and when: only admins send messages in an announcement group; in slow
 * mode other members wait between two. Owns what is known of one's waits, and the line that says so. The server decides:
 * a wait begins when it has taken a message, or when it says how long to wait.
 * @module
 */
import { h, setText } from "./dom.js";
import { durationOf } from "./text.js";

const TICK = 1000; // ms

export class Posting {
  #conversation = null;
  #ends = new Map(); // of each wait that is known, by conversation
  #timer = null;
  #stop = null;
  #wasForbidden = false;
  #limited = new Set(); // conversations in which the server has said that the rules are for one
  #onChange;

  /** @param {() => void} onChange whether one may write is another answer now */
  constructor(onChange) {
    this.#onChange = onChange;
    this.element = h("p", { class: "composer-wait", hidden: true });
  }

  open(conversation) {
    this.close();
    this.#conversation = conversation;
    if (!conversation) return;
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    for (const type of ["conversation", "reset"]) conversation.on(type, () => this.paint(), { signal });
    conversation.on("message", ({ message }) => message.isOwn && message.type !== "System" && this.#onOwn(message), { signal });
    this.paint();
  }

  close() {
    this.#stop?.abort();
    clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Only admins send messages here, and one is none. */
  get isForbidden() {
    return this.#isMember && this.#conversation.posting === "Admins";
  }

  /** Why nothing can be sent now; empty when it can. */
  get reason() {
    if (this.isForbidden) return "Only admins and owners send messages in this group.";
    const left = this.#left;
    return left ? `Slow mode: you can send again in ${durationOf(left)}.` : "";
  }

  /**
   * One's message is on its way: what becomes of it says how long to wait. What is refused is taken back, and given to
   * `onRefused` with what it said, if that takes it.
   * @param {(text: string) => boolean} onRefused
   */
  async follow(conversation, message, onRefused) {
    try {
      await message.whenSent();
      if (this.#isMemberOf(conversation)) this.#begin(conversation, conversation.slowModeSeconds * 1000);
    } catch (error) {
      if (error.code !== "slow_mode" && error.code !== "posting_forbidden") return;
      this.#limited.add(conversation.id);
      if (conversation === this.#conversation) this.paint();
      if (error.code === "slow_mode") this.#begin(conversation, error.retryAfterMs ?? conversation.slowModeSeconds * 1000);
      if (onRefused(message.content)) message.discard();
    }
  }

  /** The role of one in a large group may not be known: then what was refused says it. */
  #isMemberOf({ id, type, role }) {
    return type === "Group" && (role === "Member" || (role === null && this.#limited.has(id)));
  }

  get #isMember() {
    return this.#conversation !== null && this.#isMemberOf(this.#conversation);
  }

  get #seconds() {
    return this.#isMember ? this.#conversation.slowModeSeconds : 0;
  }

  /** Seconds that one still waits. */
  get #left() {
    const end = this.#ends.get(this.#conversation?.id) ?? 0;
    return Math.max(0, Math.min(this.#seconds, Math.ceil((end - Date.now()) / 1000)));
  }

  #begin({ id }, ms) {
    if (ms <= 0) return;
    this.#ends.set(id, Date.now() + ms);
    if (id === this.#conversation?.id) this.paint();
  }

  /** One has written on another device, perhaps while this one was away. */
  #onOwn({ createdAt }) {
    const whole = this.#seconds * 1000;
    this.#begin(this.#conversation, Math.min(whole, whole - (Date.now() - new Date(createdAt))));
  }

  paint() {
    if (this.#wasForbidden !== this.isForbidden) {
      this.#wasForbidden = this.isForbidden;
      this.#onChange();
    }
    const { reason } = this;
    setText(this.element, reason);
    this.element.hidden = !reason;
    const isWaiting = Boolean(this.#left);
    if (isWaiting) this.#timer ??= setInterval(() => this.paint(), TICK);
    else {
      clearInterval(this.#timer);
      this.#timer = null;
    }
  }
}
