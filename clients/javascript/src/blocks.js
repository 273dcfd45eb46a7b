/**
 * Whom one has blocked, as the server has it: read when it says that the list is another one than is known here.
 * @module
 */
import { asParleyError } from "./errors.js";
import { Backoff } from "./waiting.js";

/** @typedef {{userId: string, createdAt: string}} Block a user whom one has blocked, and since when */

export class BlockList {
  #rest;
  #timing;
  #life;
  #owner;
  /** @type {ReadonlySet<string>} */
  #ids = new Set();
  #known = 0; // the version of what was read
  #heard = 0;
  #isReading = false;

  /**
   * @param {import("./rest.js").Rest} rest
   * @param {import("./options.js").Timing} timing
   * @param {AbortSignal} life
   * @param {{onChange: () => void, onError: (error: import("./errors.js").ParleyError) => void}} owner
   */
  constructor(rest, timing, life, owner) {
    this.#rest = rest;
    this.#timing = timing;
    this.#life = life;
    this.#owner = owner;
  }

  get ids() {
    return this.#ids;
  }

  /**
   * The server has said which version its list has. One that is lower is of a history that went back: it counts as well.
   * @param {number} [version] none of servers of before
   */
  hear(version) {
    if (version === undefined) return;
    this.#heard = version;
    if (!this.#isReading) void this.#read();
  }

  /**
   * One's own act is answered: it shows at once, and is heard of by its event.
   * @param {string} userId
   * @param {boolean} isBlocked
   */
  set(userId, isBlocked) {
    this.#take([...this.#ids].filter((id) => id !== userId).concat(isBlocked ? [userId] : []));
  }

  /**
   * @param {AbortSignal} [signal]
   * @returns {Promise<Block[]>}
   */
  list(signal) {
    return this.#rest.all("/api/users/me/blocks", { signal });
  }

  async #read() {
    const pauses = new Backoff(this.#timing);
    this.#isReading = true;
    while (this.#known !== this.#heard && !this.#life.aborted) {
      const version = this.#heard; // what is read from here on is that, or later
      try {
        const found = await this.list(this.#life);
        this.#known = version;
        this.#take(found.map(({ userId }) => userId));
      } catch (error) {
        const known = asParleyError(error);
        if (!known.isPassing) {
          this.#known = version;
          if (!this.#life.aborted) this.#owner.onError(known);
        } else await pauses.pass(this.#life, known.retryAfterMs);
      }
    }
    this.#isReading = false;
  }

  /** @param {string[]} ids */
  #take(ids) {
    const before = this.#ids;
    this.#ids = new Set(ids);
    if (before.size !== this.#ids.size || ids.some((id) => !before.has(id))) this.#owner.onChange();
  }
}
