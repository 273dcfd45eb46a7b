/**
 * Whether one may write in the conversation that is open, and when: no one writes to somebody whom they have blocked, or
 * while they are muted; only admins send messages in an announcement group; in slow mode other members wait between two. Owns
 * what is known of one's waits and mutes, and the line that says so. The server decides: a wait begins when it has taken a
 * message, or when it says how long to wait.
 * @module
 */
import { h, replace } from "./dom.js";
import { explained } from "./explained.js";
import { durationOf, isolated } from "./text.js";

const TICK = 1000; // ms

export class Posting {
  #chat;
  #people;
  #conversation = null;
  #since = new Map(); // when each wait that is known began, by conversation
  #mutes = new Map(); // until when one is muted, by conversation
  #timer = null;
  #stop = null;
  #wasForbidden = false;
  #said = "";
  #limited = new Set(); // conversations in which the server has said that the rules are for one
  #onChange;
  #unblock;

  /**
   * @param {{chat, people, onChange: () => void, unblock: (userId: string) => void}} options `onChange`: whether one may
   *   write is another answer now; `unblock`: one asks for it
   */
  constructor({ chat, people, onChange, unblock }) {
    this.#chat = chat;
    this.#people = people;
    this.#onChange = onChange;
    this.#unblock = unblock;
    this.element = h("div", { class: "composer-wait", hidden: true });
  }

  open(conversation) {
    this.close();
    this.#conversation = conversation;
    if (!conversation) return;
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    for (const type of ["conversation", "reset"]) conversation.on(type, () => this.#onChanged(type), { signal });
    conversation.on("message", ({ message }) => message.isOwn && message.type !== "System" && this.#onOwn(message), { signal });
    this.#chat.on("message", ({ message }) => message.conversationId === conversation.id && this.#take(message.system) && this.paint(), { signal });
    this.#chat.on("blocks", () => this.paint(), { signal });
    this.#people.addEventListener("change", () => this.#blocked && this.paint(), { signal });
    if (!this.#look()) this.#lookOnce(conversation, signal);
    this.paint();
  }

  /** The messages of the last visit may come a moment later. */
  #lookOnce(conversation, signal) {
    let isDone = false;
    conversation.on("update", () => {
      if (isDone || !this.#look()) return;
      isDone = true;
      this.paint();
    }, { signal });
  }

  close() {
    this.#stop?.abort();
    clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Nothing can be sent here, whatever one waits for. */
  get isForbidden() {
    return Boolean(this.#blocked || this.#mutedUntil) || this.#isReader;
  }

  /** Only admins send messages here, and one is none. */
  get #isReader() {
    return this.#isMember && this.#conversation.posting === "Admins";
  }

  /** Why nothing can be sent now; empty when it can. */
  get reason() {
    if (this.#blocked) return `You have blocked ${isolated(this.#people.nameOf(this.#blocked))}.`;
    if (this.#mutedUntil) return explained({ code: "muted", until: this.#mutedUntil });
    if (this.#isReader) return "Only admins and owners send messages in this group.";
    const left = this.#left;
    return left ? `Slow mode: you can send again in ${durationOf(left)}.` : "";
  }

  /** The other one of a direct conversation, if one has blocked them. */
  get #blocked() {
    const other = this.#conversation && this.#people.otherOf(this.#conversation);
    return other && this.#chat.isBlocked(other) ? other : null;
  }

  get #mutedUntil() {
    const until = this.#mutes.get(this.#conversation?.id);
    return until && new Date(until) > new Date() ? until : null;
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
      if (error.code === "muted") this.#mutes.set(conversation.id, error.until);
      else if (error.code === "slow_mode" || error.code === "posting_forbidden") this.#limited.add(conversation.id);
      else return;
      if (conversation.id === this.#conversation?.id) this.paint();
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
    const since = this.#since.get(this.#conversation?.id) ?? -Infinity;
    return Math.max(0, Math.min(this.#seconds, Math.ceil((since - Date.now()) / 1000 + this.#seconds)));
  }

  /** One waits for so long; a change of slow mode changes it. */
  #begin({ id, slowModeSeconds }, ms) {
    if (ms <= 0) return;
    this.#since.set(id, Date.now() + ms - slowModeSeconds * 1000);
    if (id === this.#conversation?.id) this.paint();
  }

  /** One has written on another device, perhaps while this one was away. */
  #onOwn({ createdAt }) {
    const whole = this.#seconds * 1000;
    this.#begin(this.#conversation, Math.min(whole, whole - (Date.now() - new Date(createdAt))));
  }

  #onChanged(type) {
    if (type === "reset") this.#mutes.delete(this.#conversation.id); // what was said of it may be lost
    this.#look();
    this.paint();
  }

  /** Whether it says that one is muted, or is so no more. */
  #take(said) {
    if (said?.userId !== this.#people.me.id || (said.event !== "memberMuted" && said.event !== "memberUnmuted")) return false;
    this.#mutes.set(this.#conversation.id, said.event === "memberMuted" ? said.until : null);
    return true;
  }

  /** What the messages that are there say, after a reload: one's last one, and the last one about a mute. */
  #look() {
    const { allMessages } = this.#conversation;
    // What one has sent before slow mode began does not count.
    const begins = ({ type, system }) => type === "System" && system?.event === "detailsChanged" && system.changed?.includes("slowModeSeconds");
    const last = this.#since.has(this.#conversation.id) ? null : allMessages.findLast((each) => begins(each) || (each.isOwn && each.type !== "System" && each.seq > 0));
    if (last && !begins(last)) this.#onOwn(last);
    if (!this.#mutes.has(this.#conversation.id)) allMessages.findLast(({ type, system }) => type === "System" && this.#take(system));
    return allMessages.length > 0;
  }

  paint() {
    if (this.#wasForbidden !== this.isForbidden) {
      this.#wasForbidden = this.isForbidden;
      this.#onChange();
    }
    const { reason } = this;
    const blocked = this.#blocked;
    const said = `${blocked ?? ""} ${reason}`;
    if (this.#said !== said) {
      this.#said = said;
      replace(this.element, reason, blocked && [" ", h("button", { type: "button", class: "link", text: "Unblock", data: { focus: "unblock" }, on: { click: () => this.#unblock(blocked) } })]);
    }
    this.element.hidden = !reason;
    const isWaiting = Boolean(this.#left || this.#mutedUntil);
    if (isWaiting) this.#timer ??= setInterval(() => this.paint(), TICK);
    else {
      clearInterval(this.#timer);
      this.#timer = null;
    }
  }
}
