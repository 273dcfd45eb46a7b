/**
 * The way to the server, for ever: one connection after another, with pauses between attempts, none while the machine
 * is offline; the access token of the one that is open is renewed. Decides when the server does not want this client.
 * @module
 */
import { Connection } from "./connection.js";
import { ParleyError, asParleyError, closed } from "./errors.js";
import { Backoff, linked, sleep } from "./waiting.js";

const REPEAT = 5_000; // ms until a renewal that failed is tried again

/**
 * @typedef {"connecting" | "catching_up" | "live" | "offline" | "closed"} State
 *
 * @typedef {object} Owner what the link works for
 * @property {(state: State, reason: ParleyError | null) => void} onState
 * @property {(target: string, args: any[]) => void} onEvent of the connection that is open
 * @property {(connection: Connection) => Promise<void>} catchUp when a connection was made
 * @property {(error: ParleyError) => void} onError that was not expected
 */

export class Link {
  #settings;
  #rest;
  #tokens;
  #owner;
  #life = new AbortController();
  #pauses;
  /** @type {Connection | null} */
  #connection = null;
  #transport = 0;
  /** @type {AbortController | null} */
  #pause = null;
  #isLive = false;
  /** @type {Promise<void> | null} */
  #run = null;

  /**
   * @param {import("./options.js").Settings} settings
   * @param {import("./rest.js").Rest} rest
   * @param {import("./tokens.js").Tokens} tokens
   * @param {Owner} owner
   */
  constructor(settings, rest, tokens, owner) {
    this.#settings = settings;
    this.#rest = rest;
    this.#tokens = tokens;
    this.#owner = owner;
    this.#pauses = new Backoff(settings.timing);
  }

  get isLive() {
    return this.#isLive;
  }

  start() {
    const { signal } = this.#life;
    globalThis.addEventListener?.("online", () => this.tryNow(), { signal });
    globalThis.addEventListener?.("offline", () => this.#lose("The machine is offline."), { signal });
    this.#run ??= this.#forEver();
  }

  /** Try again now, whatever the pause. */
  tryNow() {
    this.#pause?.abort();
  }

  /**
   * Call a hub method on the connection that is live. Raises `network` when there is none.
   * @param {string} method
   * @param {any[]} args
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async call(method, args, signal) {
    if (this.#life.signal.aborted) throw closed();
    if (!this.#connection || !this.#isLive) throw new ParleyError("network", "There is no connection.");
    return this.#connection.invoke(method, args, signal);
  }

  /** @param {ParleyError} [reason] */
  close(reason = closed()) {
    if (this.#life.signal.aborted) return;
    this.#isLive = false;
    this.#life.abort(reason);
    this.#pause?.abort();
    this.#connection?.close();
    this.#owner.onState("closed", reason);
  }

  /** @param {string} why */
  #lose(why) {
    this.#connection?.lose(new ParleyError("network", why));
    this.#pause?.abort();
  }

  async #forEver() {
    while (!this.#life.signal.aborted) {
      const { error, isFinal, isDrain } = await this.#once();
      if (this.#life.signal.aborted) return;
      if (isFinal) return this.close(error);
      this.#owner.onState("offline", error);
      await this.#rests(isDrain ? Math.random() * this.#settings.timing.minPause : this.#pauses.next(error.retryAfterMs));
    }
  }

  /**
   * Wait until the next attempt is due, and the machine is online.
   * @param {number} ms
   */
  async #rests(ms) {
    do {
      this.#pause = new AbortController();
      const limit = linked(null, this.#pause.signal, this.#life.signal);
      try {
        await sleep(isOffline() ? Infinity : ms, limit.signal);
      } catch {
        // it is over
      } finally {
        limit.release();
        this.#pause = null;
      }
    } while (isOffline() && !this.#life.signal.aborted);
  }

  /**
   * One connection, from its opening to its end.
   * @returns {Promise<import("./connection.js").End>}
   */
  async #once() {
    const { transports } = this.#settings;
    if (isOffline()) return { error: new ParleyError("network", "The machine is offline.") };
    this.#owner.onState("connecting", null);
    /** @type {(end: import("./connection.js").End) => void} */
    let onEnd = () => {};
    /** @type {Promise<import("./connection.js").End>} */
    const ended = new Promise((resolve) => (onEnd = resolve));
    const connection = new Connection(
      this.#settings,
      (target, args) => {
        if (this.#connection === connection) this.#owner.onEvent(target, args);
      },
      (end) => {
        if (this.#connection === connection) this.#isLive = false; // before anybody hears of it
        onEnd(end);
      },
    );
    const name = transports[this.#transport % transports.length];
    if (!name) return { error: new ParleyError("network", "No transport works here."), isFinal: true };
    this.#connection = connection;
    try {
      await connection.open(this.#rest, name, this.#life.signal);
      this.#transport = 0;
    } catch (error) {
      if (connection.hasNegotiated) this.#transport++;
      this.#connection = null;
      const known = asParleyError(error);
      return { error: known, isFinal: isRefusal(known) };
    }
    const renewal = new AbortController();
    try {
      this.#owner.onState("catching_up", null);
      void this.#renew(connection, renewal.signal);
      await Promise.race([this.#owner.catchUp(connection), ended]);
      if (!connection.isOver) {
        this.#isLive = true;
        this.#pauses.reset();
        this.#owner.onState("live", null);
      }
    } catch (error) {
      const known = asParleyError(error);
      if (!known.isPassing && known.code !== "closed") this.#owner.onError(known);
      connection.lose(known);
    }
    const end = await ended;
    renewal.abort();
    this.#isLive = false;
    this.#connection = null;
    return end;
  }

  /**
   * @param {Connection} connection
   * @param {AbortSignal} signal
   */
  async #renew(connection, signal) {
    try {
      let last = await this.#tokens.get();
      for (;;) {
        const left = this.#tokens.renewAt - Date.now();
        if (left > 0 && last === this.#tokens.newest) {
          await sleep(left, signal);
          continue;
        }
        let token = last;
        try {
          token = await this.#tokens.get(last);
          if (token !== last) await connection.invoke("RefreshToken", [token], signal);
          else await sleep(REPEAT / 5, signal);
          last = token;
        } catch (error) {
          const known = asParleyError(error);
          if (signal.aborted) return;
          if (!known.isPassing) {
            this.#owner.onError(known);
            last = token; // the connection ends with the one that it has
          }
          await sleep(REPEAT, signal);
        }
      }
    } catch (error) {
      if (!signal.aborted) this.#owner.onError(asParleyError(error));
    }
  }
}

/** @param {ParleyError} error */
function isRefusal({ code }) {
  return code === "unauthenticated" || code === "banned" || code === "forbidden" || code === "closed";
}

function isOffline() {
  return globalThis.navigator?.onLine === false;
}

