/**
 * Messages of one's own on their way: kept until they are answered, sent in order, one at a time in each conversation,
 * each under one `clientMessageId` for ever. Remembers those that were sent lately, to send them again should the server
 * lose them.
 * @module
 */
import { ParleyError, asParleyError, closed } from "./errors.js";
import { keyOf } from "./persistence.js";
import { Backoff, bounded } from "./waiting.js";

const DAY = 24 * 3_600_000; // ms
const SAFE = 6 * DAY; // after the first attempt: the server keeps a clientMessageId for seven days, and clocks differ
const PATIENCE = 2000; // ms with a store that stands still: it holds no message up
const IN_FRAME = 4096; // bytes; what is larger goes over REST, for a hub message over the limit ends the connection

/**
 * @typedef {object} Draft a message that is not yet sent
 * @property {string} conversationId
 * @property {string} clientMessageId
 * @property {string} content
 * @property {string} type
 * @property {string | null} fileId
 * @property {string | null} replyToId
 * @property {string[]} [mentions]
 * @property {boolean} [mentionAll]
 * @property {string | null} [threadId]
 * @property {boolean} [alsoInConversation]
 * @property {number} order of sending
 * @property {string} createdAt
 * @property {number | null} [attemptedAt] ms since 1970: when it was first sent to a server; null of what never was
 * @property {string} owner the tab that sends it
 * @property {{code: string, message: string} | null} error for which it has failed
 *
 * @typedef {Draft & {id: string, seq: number, at: number}} Sent
 *
 * @typedef {import("./timeline.js").WireMessage} WireMessage
 *
 * @typedef {object} Entry
 * @property {Draft} draft
 * @property {WireMessage | null} answer
 * @property {((result: WireMessage | ParleyError) => void)[]} waiting
 *
 * @typedef {object} Host
 * @property {string} tab
 * @property {() => boolean} isLive
 * @property {(method: string, args: any[]) => Promise<any>} call
 * @property {(conversationId: string) => number} round another one when its history may be another
 * @property {(draft: Draft) => WireMessage | null | undefined} find the message in the history; undefined while that is read anew
 * @property {import("./rest.js").Rest} rest
 * @property {import("./persistence.js").Persistence} persistence
 * @property {import("./options.js").Timing} timing
 * @property {AbortSignal} life
 * @property {(entry: Entry) => void} onSent
 * @property {(entry: Entry, error: ParleyError) => void} onFailed
 * @property {(conversationId: string) => void} onChange
 */

export class Outbox {
  #host;
  /** @type {Map<string, Entry[]>} by conversation, in the order of sending */
  #lanes = new Map();
  #busy = new Set();
  /** @type {Map<string, Sent>} by clientMessageId */
  #sent = new Map();
  #order = 0;

  /** @param {Host} host */
  constructor(host) {
    this.#host = host;
  }

  /** How many messages are neither sent nor failed. */
  get size() {
    return [...this.#lanes.values()].flat().filter(isWaiting).length;
  }

  /**
   * What the store had.
   * @param {Draft[]} drafts
   * @param {Sent[]} sent
   */
  restore(drafts, sent) {
    for (const one of sent) this.#sent.set(one.clientMessageId, one);
    this.#forgetOld();
    this.adopt(drafts);
  }

  /** @param {Draft[]} drafts */
  adopt(drafts) {
    for (const draft of drafts.sort((one, other) => one.order - other.order)) {
      const lane = this.#lane(draft.conversationId);
      if (lane.some((entry) => entry.draft.clientMessageId === draft.clientMessageId)) continue;
      this.#order = Math.max(this.#order, draft.order);
      const attemptedAt = draft.attemptedAt === undefined ? Date.parse(draft.createdAt) || Date.now() : draft.attemptedAt;
      lane.push({ draft: { ...draft, attemptedAt, owner: this.#host.tab }, answer: null, waiting: [] });
      this.#keep(lane.at(-1)?.draft);
      this.#host.onChange(draft.conversationId);
      void this.#pump(draft.conversationId);
    }
  }

  /**
   * @param {Omit<Draft, "order" | "createdAt" | "attemptedAt" | "owner" | "error">} message
   * @returns {Entry}
   */
  add(message) {
    if (this.#host.life.aborted) throw closed();
    const known = this.of(message.conversationId).find(({ draft }) => draft.clientMessageId === message.clientMessageId);
    if (known) return known; // an application sends again what a store has kept
    const order = ++this.#order;
    const createdAt = new Date().toISOString();
    /** @type {Entry} */
    const entry = { draft: { ...message, order, createdAt, attemptedAt: null, owner: this.#host.tab, error: null }, answer: null, waiting: [] };
    this.#lane(message.conversationId).push(entry);
    this.#keep(entry.draft);
    void this.#pump(message.conversationId);
    return entry;
  }

  /**
   * Those of a conversation, in order.
   * @param {string} conversationId
   * @returns {readonly Entry[]}
   */
  of(conversationId) {
    return this.#lanes.get(conversationId) ?? [];
  }

  /** @param {Entry} entry of which it is not known that it was sent */
  retry(entry) {
    const lane = this.#lane(entry.draft.conversationId);
    const index = lane.indexOf(entry);
    if (index < 0 || entry.draft.error === null) return;
    lane.splice(index, 1);
    lane.push(entry);
    entry.draft = { ...entry.draft, error: null, attemptedAt: null, order: ++this.#order };
    this.#keep(entry.draft);
    this.#host.onChange(entry.draft.conversationId);
    void this.#pump(entry.draft.conversationId);
  }

  /**
   * Give up one that has failed, or that was not yet begun.
   * @param {Entry} entry
   */
  discard(entry) {
    const lane = this.#lane(entry.draft.conversationId);
    const isUnderWay = this.#busy.has(entry.draft.conversationId) && lane.find(isWaiting) === entry;
    if (!lane.includes(entry) || entry.answer || isUnderWay) return false;
    this.#remove(entry);
    this.#settle(entry, new ParleyError("aborted", "The message was discarded."));
    return true;
  }

  /**
   * @param {Entry} entry
   * @returns {Promise<WireMessage>}
   */
  whenSent(entry) {
    if (entry.answer) return Promise.resolve(entry.answer);
    if (entry.draft.error) return Promise.reject(errorOf(entry.draft));
    if (this.#host.life.aborted) return Promise.reject(closed());
    return new Promise((resolve, reject) =>
      entry.waiting.push((result) => (result instanceof ParleyError ? reject(result) : resolve(result))),
    );
  }

  /** Go on: there is a connection. */
  resume() {
    for (const conversationId of this.#lanes.keys()) void this.#pump(conversationId);
  }

  /**
   * One's own message has come as an event or in a page: it is in the history.
   * @param {WireMessage} message
   */
  confirm(message) {
    const { clientMessageId } = message;
    if (!clientMessageId) return;
    const sent = this.#sent.get(clientMessageId);
    if (message.deletedAt) this.#forget(clientMessageId);
    else if (sent && sent.content !== message.content) this.#remember({ ...sent, content: message.content });
    const entry = this.of(message.conversationId).find((one) => one.draft.clientMessageId === clientMessageId);
    if (!entry) return;
    this.#answered(entry, message);
    this.#remove(entry);
  }

  /**
   * The history was read anew, or caught up with: what was said to be sent, and is not in it, was lost. It is sent again,
   * before all others, in the order of before.
   * @param {string} conversationId
   * @param {(id: string, clientMessageId: string) => boolean} has
   * @param {{all: boolean}} options also those that were seen in the history before
   */
  sendLostAgain(conversationId, has, { all }) {
    this.#forgetOld();
    const lane = this.#lane(conversationId);
    /** @type {Map<string, Draft & {seq: number}>} */
    const found = new Map();
    for (const entry of lane.filter(({ answer }) => answer)) {
      const answer = /** @type {WireMessage} */ (entry.answer);
      this.#remove(entry);
      if (!has(answer.id, entry.draft.clientMessageId)) found.set(entry.draft.clientMessageId, { ...entry.draft, seq: answer.seq });
    }
    for (const one of all ? this.#sent.values() : [])
      if (one.conversationId === conversationId && !has(one.id, one.clientMessageId)) found.set(one.clientMessageId, one);
    for (const { draft } of lane) found.delete(draft.clientMessageId);
    const lost = [...found.values()].sort((one, other) => one.seq - other.seq);
    if (!lost.length) return void this.#pump(conversationId); // one may have waited for the history
    const first = lane.reduce((least, { draft }) => Math.min(least, draft.order), this.#order + 1);
    /** @type {Entry[]} */
    const entries = lost.map((one, index) => ({
      draft: { ...draftOf(one), owner: this.#host.tab, order: first - lost.length + index },
      answer: null,
      waiting: [],
    }));
    lane.unshift(...entries);
    for (const { draft } of entries) this.#keep(draft);
    this.#host.onChange(conversationId);
    void this.#pump(conversationId);
  }

  /**
   * The lowest seq of a message that was sent lately; Infinity when there is none.
   * @param {string} conversationId
   */
  lowestSent(conversationId) {
    this.#forgetOld();
    return Math.min(...[...this.#sent.values()].map((one) => (one.conversationId === conversationId ? one.seq : Infinity)));
  }

  /**
   * The conversation is not there any more.
   * @param {string} conversationId
   */
  drop(conversationId) {
    for (const entry of [...this.of(conversationId)]) {
      this.#remove(entry);
      this.#settle(entry, new ParleyError("not_found", "The conversation is gone."));
    }
    for (const one of [...this.#sent.values()]) if (one.conversationId === conversationId) this.#forget(one.clientMessageId);
  }

  /** The chat is closed; what is not sent stays in the store. */
  close() {
    for (const lane of this.#lanes.values()) for (const entry of lane) this.#settle(entry, closed());
  }

  /** @param {string} conversationId */
  async #pump(conversationId) {
    const { isLive, life, timing } = this.#host;
    if (this.#busy.has(conversationId)) return;
    this.#busy.add(conversationId);
    const pauses = new Backoff(timing);
    try {
      for (;;) {
        const entry = this.of(conversationId).find(isWaiting);
        if (!entry || !isLive() || life.aborted) return;
        if (isUncertain(entry.draft)) {
          const found = this.#host.find(entry.draft);
          if (found === undefined) return;
          if (found) this.confirm(found);
          else this.#fail(entry, new ParleyError("outcome_unknown", "It was sent long ago, and may have arrived or not."));
          continue;
        }
        if (entry.draft.attemptedAt === null) {
          entry.draft = { ...entry.draft, attemptedAt: Date.now() };
          this.#keep(entry.draft);
          await bounded(this.#host.persistence.flush(), PATIENCE).catch(() => {}); // else one that is killed now would not know of it
          if (!isLive() || this.of(conversationId).find(isWaiting) !== entry) continue;
        }
        try {
          const round = this.#host.round(conversationId);
          const answer = await this.#submit(entry.draft);
          pauses.reset();
          // Else it may have been lost since: the same again is answered with what there is.
          if (round === this.#host.round(conversationId)) this.#answered(entry, answer);
        } catch (error) {
          const known = asParleyError(error);
          if (!isWaiting(entry) || life.aborted) continue; // it has come as an event
          if (!known.isPassing && known.code !== "closed" && known.code !== "unauthenticated") {
            this.#fail(entry, known);
          } else if (isLive()) await pauses.pass(life, known.retryAfterMs);
        }
      }
    } finally {
      this.#busy.delete(conversationId);
    }
  }

  /**
   * @param {Entry} entry
   * @param {ParleyError} error
   */
  #fail(entry, error) {
    entry.draft = { ...entry.draft, error: { code: error.code, message: error.message } };
    this.#keep(entry.draft);
    this.#settle(entry, error);
    this.#host.onFailed(entry, error);
  }

  /**
   * @param {Draft} draft
   * @returns {Promise<WireMessage>}
   */
  async #submit({ order, createdAt, attemptedAt, owner, error, ...message }) {
    if (new TextEncoder().encode(JSON.stringify(message)).length < IN_FRAME) return this.#host.call("SendMessage", [message]);
    return this.#host.rest.request("POST", "/api/messages", { body: message, attempts: 1 });
  }

  /**
   * @param {Entry} entry
   * @param {WireMessage} answer
   */
  #answered(entry, answer) {
    if (entry.answer) return;
    const wasThere = this.of(entry.draft.conversationId).includes(entry);
    entry.answer = answer;
    entry.draft = { ...entry.draft, error: null };
    const { clientMessageId } = entry.draft;
    if (!answer.deletedAt && wasThere) this.#remember({ ...entry.draft, id: answer.id, seq: answer.seq, at: Date.now() });
    this.#host.persistence.soon(keyOf.draft(clientMessageId), () => null);
    this.#settle(entry, answer);
    if (wasThere) this.#host.onSent(entry);
  }

  /**
   * @param {Entry} entry
   * @param {WireMessage | ParleyError} result
   */
  #settle(entry, result) {
    for (const each of entry.waiting.splice(0)) each(result);
  }

  /** @param {Entry} entry */
  #remove(entry) {
    const { conversationId, clientMessageId } = entry.draft;
    const lane = this.#lane(conversationId);
    const index = lane.indexOf(entry);
    if (index < 0) return;
    lane.splice(index, 1);
    this.#host.persistence.soon(keyOf.draft(clientMessageId), () => null);
    this.#host.onChange(conversationId);
  }

  /** @param {Draft | undefined} draft */
  #keep(draft) {
    if (draft) this.#host.persistence.now(keyOf.draft(draft.clientMessageId), () => draft);
  }

  #forgetOld() {
    const oldest = Date.now() - this.#host.timing.recent;
    for (const [id, { at }] of this.#sent) if (!(at >= oldest)) this.#forget(id);
  }

  /** @param {Sent} sent */
  #remember(sent) {
    const { clientMessageId: id } = sent;
    this.#sent.set(id, sent);
    this.#host.persistence.soon(keyOf.sent(id), () => this.#sent.get(id) ?? null);
  }

  /** @param {string} clientMessageId */
  #forget(clientMessageId) {
    if (this.#sent.delete(clientMessageId)) this.#host.persistence.soon(keyOf.sent(clientMessageId), () => null);
  }

  /** @param {string} conversationId */
  #lane(conversationId) {
    let lane = this.#lanes.get(conversationId);
    if (!lane) this.#lanes.set(conversationId, (lane = []));
    return lane;
  }
}

/**
 * @param {Draft & {id?: string, seq: number, at?: number}} sent
 * @returns {Draft} without what is known of it by now
 */
function draftOf({ id, seq, at, ...draft }) {
  return { ...draft, attemptedAt: draft.attemptedAt ?? Date.now(), error: null };
}

/** @param {Draft} draft */
export function errorOf({ error }) {
  return new ParleyError(error?.code ?? "internal", error?.message ?? "");
}

/**
 * Whether the server may have forgotten that it has the message. A time that is more than a day ahead says that the clock
 * was set back since, by an unknown time.
 * @param {Draft} draft
 */
function isUncertain({ attemptedAt }) {
  const age = typeof attemptedAt === "number" ? Date.now() - attemptedAt : 0;
  return age > SAFE || age < -DAY;
}

/** @param {Entry} entry */
function isWaiting({ answer, draft }) {
  return answer === null && draft.error === null;
}
