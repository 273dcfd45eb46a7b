/**
 * Coming back: one round of `Sync` calls on a new connection (docs/hub.md, "Coming back"), and what their answers mean
 * for each conversation. Events of conversations that are not known wait here until the answer says from where on.
 * @module
 */
import { asParleyError } from "./errors.js";
import { sleep } from "./waiting.js";

const NAMED = 60; // cursors in one call: a hub message has at most 32 KiB
const PATIENCE = 600_000; // ms for one answer: all that was missed comes before it

/**
 * @typedef {import("./conversation.js").Conversation} Conversation
 * @typedef {import("./timeline.js").WireMessage} WireMessage
 * @typedef {import("./timeline.js").Cursor} Cursor
 * @typedef {{conversationId: string, lastSeq: number, messageId: string | null, unreadCount: number, mentionCount?: number,
 *   outcome: "replayed" | "attached" | "resync" | "gone" | "ignored", settingsVersion?: number}} Outcome
 *
 * @typedef {{conversations: Outcome[], next: string | null, blocksVersion?: number}} Answer
 *
 * @typedef {object} Owner
 * @property {() => Iterable<Conversation>} known
 * @property {(id: string) => Conversation | undefined} find
 * @property {(id: string) => Conversation} make
 * @property {(conversation: Conversation, reason: string) => void} forget
 * @property {(version?: number) => void} onBlocks the version of the list of blocks
 */

export class CatchUp {
  #owner;
  /** @type {Map<string, {from: Cursor | null, events: {wire: WireMessage, isNew: boolean}[]}>} */
  #waiting = new Map();
  /** @type {Set<string>} */
  #resynced = new Set();
  /** @type {Set<string>} */
  #removed = new Set();

  /** @param {Owner} owner */
  constructor(owner) {
    this.#owner = owner;
  }

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {AbortSignal} life
   */
  async run(connection, life) {
    /** @type {Map<string, import("./timeline.js").Cursor>} */
    const cursors = new Map();
    for (const conversation of this.#owner.known()) {
      const cursor = conversation.rewind();
      if (cursor) cursors.set(conversation.id, cursor);
    }
    const unattached = [...this.#owner.known()].filter(({ isAttached }) => !isAttached);
    const names = [...cursors.keys()];
    // Of a client that comes back, what began meanwhile is news, too. One that is new has seen nothing, and reads pages.
    const others = names.length ? "replay" : "attach";
    const named = (/** @type {string[]} */ ids) => Object.fromEntries(ids.map((id) => [id, cursors.get(id)]));
    while (names.length > NAMED) {
      const some = new Set(names.splice(0, NAMED));
      const { conversations } = await sync(connection, named([...some]), { others: "ignore" }, life);
      this.#settle(conversations.filter(({ conversationId }) => some.has(conversationId)));
    }
    let rest = named(names);
    let after = null;
    do {
      /** @type {Answer} */
      const answer = await sync(connection, rest, { others, after }, life);
      this.#settle(answer.conversations);
      rest = {};
      after = answer.next;
      this.#owner.onBlocks(answer.blocksVersion);
    } while (after !== null);
    for (const id of [...this.#waiting.keys()]) this.#deliver(this.#owner.make(id)); // the user was added just now
    // The answers have named all that are the user's.
    for (const conversation of unattached) if (!conversation.isAttached) this.#owner.forget(conversation, "gone");
  }

  /**
   * Whether an event has to wait for the answer.
   * @param {WireMessage} wire
   * @param {boolean} isNew
   */
  keeps(wire, isNew) {
    if (this.#owner.find(wire.conversationId)?.isAttached) return false;
    const waiting = this.#waiting.get(wire.conversationId);
    if (waiting) waiting.events.push({ wire, isNew });
    else this.#waiting.set(wire.conversationId, { from: null, events: [{ wire, isNew }] });
    return true;
  }

  /** @param {string} id of a conversation that one was removed from meanwhile, whatever the answer will say */
  noteRemoved(id) {
    this.#waiting.delete(id);
    this.#removed.add(id);
  }

  /**
   * Whether an event Resync has to wait for the answer: what comes after it goes on from there, whatever came before.
   * @param {string} id of the conversation
   * @param {Cursor} cursor
   */
  keepsResync(id, cursor) {
    this.#resynced.add(id);
    if (this.#owner.find(id)?.isAttached) return false;
    this.#waiting.set(id, { from: cursor, events: [] });
    return true;
  }

  /** @param {Outcome[]} outcomes */
  #settle(outcomes) {
    for (const outcome of outcomes) {
      const known = this.#owner.find(outcome.conversationId);
      if (outcome.outcome === "ignored" || this.#removed.has(outcome.conversationId)) continue;
      if (outcome.outcome === "gone") {
        if (known) this.#owner.forget(known, "gone");
        continue;
      }
      this.#settleOne(known ?? this.#owner.make(outcome.conversationId), outcome);
    }
  }

  /**
   * @param {Conversation} conversation
   * @param {Outcome} outcome
   */
  #settleOne(conversation, { outcome, lastSeq, messageId, unreadCount, mentionCount, settingsVersion }) {
    const cursor = { seq: lastSeq, messageId };
    if (!conversation.isAttached && !this.#waiting.get(conversation.id)?.from) {
      if (outcome === "replayed") conversation.attach({ seq: 0 }, 1);
      else conversation.attach(cursor, lastSeq + 1);
    } else if (outcome === "resync" && !this.#resynced.has(conversation.id)) conversation.onResync(cursor);
    this.#deliver(conversation);
    conversation.onCaughtUp({ unreadCount, mentionCount, lastSeq, settingsVersion });
  }

  /** @param {Conversation} conversation */
  #deliver(conversation) {
    const { from, events } = this.#waiting.get(conversation.id) ?? { from: null, events: [] };
    this.#waiting.delete(conversation.id);
    if (from) conversation.onResync(from);
    for (const { wire, isNew } of events) conversation.onMessage(wire, isNew);
  }
}

/**
 * @param {import("./connection.js").Connection} connection
 * @param {Record<string, unknown>} cursors
 * @param {Record<string, unknown>} options
 * @param {AbortSignal} life
 * @returns {Promise<Answer>}
 */
async function sync(connection, cursors, options, life) {
  for (;;) {
    try {
      return await connection.invoke("Sync", [cursors, options], life, PATIENCE);
    } catch (error) {
      const known = asParleyError(error);
      if (known.code !== "rate_limited") throw known;
      await sleep(known.retryAfterMs ?? 1000, life);
    }
  }
}
