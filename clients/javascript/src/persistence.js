/**
 * What is kept in the store, and when it is written: conversations a moment after they have changed, messages that are
 * to be sent at once. A store that is not usable is cleared and the application hears of it once; it never fails a chat.
 * @module
 */
import { ParleyError, asParleyError } from "./errors.js";
import { bounded } from "./waiting.js";

const FORMAT = 1;
const META = "meta";
const PATIENCE = 10_000; // ms with a store that stands still, at the beginning and at the end

/**
 * @typedef {import("./outbox.js").Draft} Draft
 * @typedef {import("./outbox.js").Sent} Sent
 * @typedef {import("./conversation.js").Kept} Kept
 *
 * @typedef {object} Loaded
 * @property {Map<string, Kept>} conversations
 * @property {Draft[]} drafts
 * @property {Sent[]} sent
 */

export class Persistence {
  #store;
  #gather;
  #warn;
  /** @type {Map<string, () => unknown>} */
  #dirty = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #writing = Promise.resolve();
  #hasWarned = false;
  #isOpen = false;
  /** @type {string | null} */
  #userId = null;

  /**
   * @param {import("./stores/store.js").Store} store
   * @param {number} gather ms
   * @param {(error: ParleyError) => void} warn
   */
  constructor(store, gather, warn) {
    this.#store = store;
    this.#gather = gather;
    this.#warn = warn;
  }

  /**
   * @param {string} userId whose it must be
   * @param {string} url
   * @returns {Promise<Loaded>}
   */
  async load(userId, url) {
    this.#userId = userId;
    try {
      const found = await bounded(this.#open(userId, url), PATIENCE);
      this.#isOpen = true;
      this.soon(META, () => ({ format: FORMAT, userId, url }));
      return found;
    } catch {
      this.#warnOnce("The store stands still, and is left as it is.");
      return nothing();
    }
  }

  /**
   * Does not raise.
   * @param {string} userId
   * @param {string} url
   */
  async #open(userId, url) {
    const warn = (/** @type {unknown} */ error) =>
      this.#warnOnce(`The store could not be read, and begins anew: ${asParleyError(error).message}`);
    try {
      const entries = await this.#store.load();
      const meta = /** @type {any} */ (entries.get(META));
      if (entries.size && meta?.format !== FORMAT) throw new Error("It is of another version.");
      if (!entries.size || (meta.userId === userId && meta.url === url)) return read(entries, userId);
    } catch (error) {
      warn(error);
    }
    try {
      await this.#store.clear();
    } catch (error) {
      warn(error);
    }
    return nothing();
  }

  /**
   * The drafts as they are by now, for one that takes over those of another tab.
   * @returns {Promise<Draft[]>}
   */
  async drafts() {
    try {
      await this.#writing;
      const entries = await this.#store.load();
      const meta = /** @type {any} */ (entries.get(META));
      return meta?.userId === this.#userId ? read(entries, this.#userId).drafts : [];
    } catch {
      return [];
    }
  }

  /**
   * Write an entry before long.
   * @param {string} key
   * @param {() => unknown} value as it will be then; null deletes it
   */
  soon(key, value) {
    if (!this.#isOpen) return;
    this.#dirty.set(key, value);
    this.#timer ??= setTimeout(() => void this.flush(), this.#gather);
  }

  /**
   * Write an entry, and all that has gathered, at once.
   * @param {string} key
   * @param {() => unknown} value
   */
  now(key, value) {
    if (!this.#isOpen) return;
    this.#dirty.set(key, value);
    void this.flush();
  }

  /** Never raises. */
  async flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
  }

  async close() {
    await bounded(this.flush(), PATIENCE).catch(() => {});
    this.#isOpen = false;
  }

  async #write() {
    if (!this.#dirty.size) return;
    const userId = this.#userId;
    const dirty = [...this.#dirty];
    this.#dirty.clear();
    try {
      await this.#store.write(new Map(dirty.map(([key, make]) => [key, withUser(make(), userId)])));
    } catch (error) {
      // With the next write: messages are written once. Conversations are with each change, and may be what is too large.
      this.#dirty = new Map([...dirty.filter(([key]) => key[0] !== "c"), ...this.#dirty]);
      this.#warnOnce(`The store could not be written: ${asParleyError(error).message}`);
    }
  }

  /** @param {string} sentence */
  #warnOnce(sentence) {
    if (this.#hasWarned) return;
    this.#hasWarned = true;
    this.#warn(new ParleyError("storage", sentence));
  }
}

export const keyOf = {
  conversation: (/** @type {string} */ id) => `c/${id}`,
  draft: (/** @type {string} */ id) => `q/${id}`,
  sent: (/** @type {string} */ id) => `r/${id}`,
};

/**
 * Whose it is: another tab may be another user's, with a store of the same name.
 * @param {any} value
 * @param {string | null} userId
 */
const withUser = (value, userId) => value && { ...value, userId };

/** @returns {Loaded} */
const nothing = () => ({ conversations: new Map(), drafts: [], sent: [] });

/**
 * @param {Map<string, any>} entries
 * @param {string | null} userId
 * @returns {Loaded} Raises an Error when something has not the form that it should have.
 */
function read(entries, userId) {
  const found = nothing();
  for (const [key, { userId: owner = userId, ...value }] of entries) {
    if (owner !== userId) continue;
    const kind = key.slice(0, 2);
    if (kind === "c/") {
      if (value.timeline && !(Array.isArray(value.timeline.messages) && value.timeline.cursor.seq >= 0))
        throw new Error("A conversation is not whole.");
      found.conversations.set(key.slice(2), value);
    } else if (kind === "q/" || kind === "r/") {
      if (typeof value.clientMessageId !== "string" || typeof value.conversationId !== "string")
        throw new Error("A message is not whole.");
      if (kind === "q/") found.drafts.push(value);
      else found.sent.push(value);
    }
  }
  return found;
}
