/**
 * A message as applications see it: a snapshot that does not change. What has changed is another object with the same
 * `key`.
 * @module
 */
import { ParleyError } from "./errors.js";

/**
 * @typedef {"pending" | "failed" | "sent" | "delivered" | "read"} Status
 * @typedef {import("./timeline.js").WireMessage} WireMessage
 * @typedef {import("./timeline.js").FileInfo} FileInfo
 * @typedef {import("./timeline.js").Reaction} Reaction
 * @typedef {import("./timeline.js").ThreadSummary} ThreadSummary
 *
 * @typedef {object} Edit
 * @property {string} content
 * @property {string[]} [mentions] in place of those that are there
 * @property {boolean} [mentionAll]
 *
 * @typedef {object} Actions what a message can be asked to do
 * @property {(message: Message) => void} retry
 * @property {(message: Message) => boolean} discard
 * @property {(message: Message) => Promise<Message>} whenSent
 * @property {(message: Message, change: Edit, signal?: AbortSignal) => Promise<void>} edit
 * @property {(message: Message, signal?: AbortSignal) => Promise<void>} delete
 * @property {(message: Message, emoji: string, signal?: AbortSignal) => Promise<void>} react
 * @property {(message: Message, emoji: string, signal?: AbortSignal) => Promise<void>} unreact
 * @property {(message: Message, isPinned: boolean, signal?: AbortSignal) => Promise<void>} pin
 */

export class Message {
  #actions;

  /**
   * @param {Omit<WireMessage, "status">} wire `seq` is 0 of what is not yet sent
   * @param {Status} status
   * @param {string} me
   * @param {Actions} actions
   * @param {ParleyError | null} [error]
   */
  constructor(wire, status, me, actions, error = null) {
    this.#actions = actions;
    this.isOwn = wire.senderId === me;
    /** The same for ever, also before and after it was sent. */
    this.key = (this.isOwn && wire.clientMessageId) || wire.id;
    /** Empty of what is not yet sent. */
    this.id = wire.id;
    this.conversationId = wire.conversationId;
    /** 0 of what is not yet sent. */
    this.seq = wire.seq;
    this.changedSeq = wire.changedSeq;
    this.senderId = wire.senderId;
    this.type = wire.type;
    this.content = wire.content;
    this.file = wire.file ?? null;
    this.replyToId = wire.replyToId ?? null;
    this.clientMessageId = wire.clientMessageId ?? null;
    this.createdAt = wire.createdAt;
    this.editedAt = wire.editedAt ?? null;
    this.deletedAt = wire.deletedAt ?? null;
    /** @type {readonly Reaction[]} in the order in which the kinds came */
    this.reactions = wire.reactions ?? [];
    /** Since when it is pinned, and by whom; null of what is not. */
    this.pinnedAt = wire.pinnedAt ?? null;
    this.pinnedBy = wire.pinnedBy ?? null;
    this.status = status;
    /** User ids. */
    this.mentions = wire.mentions ?? [];
    this.mentionAll = wire.mentionAll ?? false;
    /** Whether it mentions one, by name or as one of all; one's own messages do not. */
    this.isMention = isMention(wire, me);
    /** Of a reply in a thread: the id of its root. */
    this.threadId = wire.threadId ?? null;
    this.alsoInConversation = wire.alsoInConversation ?? false;
    /** @type {ThreadSummary | null} of a root: what there is of its replies */
    this.thread = wire.thread ?? null;
    /** Why it has failed. */
    this.error = error;
  }

  /**
   * What a message of the type System says: `event`, and fields that depend on it.
   * @returns {Record<string, string> | null}
   */
  get system() {
    if (this.type !== "System") return null;
    try {
      return JSON.parse(this.content);
    } catch {
      return null;
    }
  }

  /** Send it once more, as the last one, when it has failed. */
  retry() {
    this.#actions.retry(this);
  }

  /** Do not send it. False when it is under way already, or sent. */
  discard() {
    return this.#actions.discard(this);
  }

  /** The message as it was sent. Raises ParleyError if it fails. */
  whenSent() {
    return this.#actions.whenSent(this);
  }

  /**
   * Whom it mentions stays as it is where nothing is said of that.
   * @param {string} content
   * @param {{mentions?: string[], mentionAll?: boolean, signal?: AbortSignal}} [options]
   */
  edit(content, { signal, ...mentions } = {}) {
    return this.#actions.edit(this, { content, ...mentions }, signal);
  }

  /**
   * Put an emoji, or the name of one between colons, under the message. The same again changes nothing.
   * @param {string} emoji
   * @param {{signal?: AbortSignal}} [options]
   */
  react(emoji, { signal } = {}) {
    return this.#actions.react(this, emoji, signal);
  }

  /**
   * Take one's own reaction back.
   * @param {string} emoji
   * @param {{signal?: AbortSignal}} [options]
   */
  unreact(emoji, { signal } = {}) {
    return this.#actions.unreact(this, emoji, signal);
  }

  /**
   * Keep it at hand for all members of the conversation.
   * @param {{signal?: AbortSignal}} [options]
   */
  pin({ signal } = {}) {
    return this.#actions.pin(this, true, signal);
  }

  /** @param {{signal?: AbortSignal}} [options] */
  unpin({ signal } = {}) {
    return this.#actions.pin(this, false, signal);
  }

  /** @param {{signal?: AbortSignal}} [options] */
  delete({ signal } = {}) {
    return this.#actions.delete(this, signal);
  }
}

/**
 * @param {Pick<WireMessage, "senderId" | "mentions" | "mentionAll">} wire
 * @param {string} me
 */
export function isMention({ senderId, mentions, mentionAll }, me) {
  return senderId !== me && ((mentionAll ?? false) || (mentions ?? []).includes(me));
}
