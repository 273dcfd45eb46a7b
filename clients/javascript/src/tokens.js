/**
 * Access tokens: asks the application for them, keeps the newest, and knows from its claims whose it is and when
 * another is due. Does not verify them; the server does.
 * @module
 */
import { ParleyError } from "./errors.js";

const MARGIN = 60_000; // ms before its end at which a token is renewed, at most
const SHORTEST = 1_000; // ms for which a token is used, whatever the clock of this machine says

export class Tokens {
  #provide;
  /** @type {string | null} */
  #token = null;
  #renewAt = Infinity;
  #endsAt = Infinity;
  /** @type {Promise<string> | null} */
  #asking = null;
  /** @type {string | null} */
  userId = null;

  /** @param {() => string | Promise<string>} provide */
  constructor(provide) {
    this.#provide = provide;
  }

  /** The one that was given last. */
  get newest() {
    return this.#token;
  }

  /** When another token is due: ms since 1970. */
  get renewAt() {
    return this.#renewAt;
  }

  /**
   * Raises what the application's function raises, and `unauthenticated` when it gives none.
   * @param {string} [refused] a token that the server does not take, or for which another one is due
   * @returns {Promise<string>}
   */
  async get(refused) {
    if (this.#token !== null && this.#token !== refused && Date.now() < this.#endsAt) return this.#token;
    this.#asking ??= this.#ask().finally(() => (this.#asking = null));
    return this.#asking;
  }

  async #ask() {
    const token = await this.#provide();
    if (typeof token !== "string" || !token) throw new ParleyError("unauthenticated", "There is no access token.");
    const { sub, exp, iat } = claimsOf(token);
    if (typeof sub === "string") this.userId ??= sub.toLowerCase();
    if (this.userId !== null && typeof sub === "string" && sub.toLowerCase() !== this.userId)
      throw new ParleyError("forbidden", "The access token is another user's: close this chat, and begin another.");
    const now = Date.now();
    const left = exp ? exp * 1000 - now : Infinity;
    const lifetime = exp && iat ? (exp - iat) * 1000 : Math.max(left, MARGIN * 5);
    // By a clock that is wrong it has ended, or is to begin: it is new.
    const good = left > 0 && left < lifetime ? left : lifetime;
    this.#endsAt = now + Math.max(SHORTEST, good);
    this.#renewAt = Math.max(now + SHORTEST, this.#endsAt - Math.min(MARGIN, lifetime / 5));
    this.#token = token;
    return token;
  }
}

/**
 * @param {string} token
 * @returns {{sub?: unknown, exp?: number, iat?: number}} empty when it is no JWT
 */
function claimsOf(token) {
  try {
    const text = atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    return claims && typeof claims === "object" ? claims : {};
  } catch {
    return {};
  }
}
