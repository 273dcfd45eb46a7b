/**
 * One connection to the hub: negotiate, open a transport, shake hands, then calls and events until it ends.
 * Knows nothing of chats; another connection after this one is `link.js`'s.
 * @module
 */
import { ParleyError, abortedBy, asParleyError, errorOfHub } from "./errors.js";
import { CLOSE, COMPLETION, HANDSHAKE, INVOCATION, PING, decode, encode } from "./protocol.js";
import { openLongPolling } from "./transports/polling.js";
import { openServerSentEvents } from "./transports/sse.js";
import { openWebSocket } from "./transports/websocket.js";
import { linked } from "./waiting.js";

const HUB = "/hubs/chat";
const TRANSPORTS = { websocket: openWebSocket, sse: openServerSentEvents, polling: openLongPolling };

/**
 * @typedef {object} End
 * @property {ParleyError} error why
 * @property {boolean} [isFinal] whether the server does not want this client back
 * @property {boolean} [isDrain]
 *
 * @typedef {{resolve: (result: any) => void, reject: (error: ParleyError) => void}} Call
 */

export class Connection {
  #settings;
  /** @type {import("./transports/transport.js").Transport | null} */
  #transport = null;
  /** @type {Map<string, Call>} */
  #calls = new Map();
  #lastId = 0;
  #pingedAt = 0;
  #heardAt = Date.now();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  /** @type {((error: ParleyError | null) => void) | null} */
  #handshaken = null;
  /** @type {End | null} */
  #end = null;
  /** @type {(target: string, args: any[]) => void} */
  #onEvent;
  /** @type {(end: End) => void} */
  #onEnd;

  /**
   * @param {import("./options.js").Settings} settings
   * @param {(target: string, args: any[]) => void} onEvent
   * @param {(end: End) => void} onEnd called once, unless it was never open
   */
  constructor(settings, onEvent, onEnd) {
    this.#settings = settings;
    this.#onEvent = onEvent;
    this.#onEnd = onEnd;
  }

  /** Whether the server was reached: what fails then is the transport, or the server has just gone. */
  hasNegotiated = false;

  get isOver() {
    return this.#end !== null;
  }

  /**
   * @param {import("./rest.js").Rest} rest
   * @param {import("./options.js").TransportName} name
   * @param {AbortSignal} signal
   * @returns {Promise<void>} Raises ParleyError, with a status where it is the answer to negotiate.
   */
  async open(rest, name, signal) {
    const { timing, fetch, WebSocket } = this.#settings;
    const limit = linked(timing.open, signal);
    try {
      const query = { negotiateVersion: 1 };
      const { text } = await rest.send("POST", `${HUB}/negotiate`, { query, signal: limit.signal });
      const { connectionToken, error } = JSON.parse(text);
      if (error) throw new ParleyError("unavailable", String(error));
      const way = {
        address: rest.address(HUB, { id: connectionToken, sync: "manual" }),
        token: () => rest.token(),
        fetch,
        ...(WebSocket ? { WebSocket } : {}),
        within: timing.call,
        signal: limit.signal,
        onText: (/** @type {string} */ text) => this.#receive(text),
        onEnd: (/** @type {ParleyError} */ reason) => this.#over({ error: reason }),
      };
      this.hasNegotiated = true;
      this.#transport = await TRANSPORTS[name](way);
      await this.#shakeHands(limit.signal);
      if (this.#end) throw /** @type {End} */ (this.#end).error; // it ended just now
      this.#heardAt = Date.now();
      this.#timer = setInterval(() => this.#tick(), Math.min(timing.ping, timing.silence / 4));
    } catch (error) {
      const known = signal.aborted ? abortedBy(signal) : asParleyError(error);
      this.#end ??= { error: known };
      this.#transport?.close();
      if (known.code === "aborted" && !signal.aborted) throw new ParleyError("timeout", "The connection was not made in time.");
      throw known;
    } finally {
      limit.release();
    }
  }

  /** @param {AbortSignal} signal */
  #shakeHands(signal) {
    return new Promise((resolve, reject) => {
      if (this.#end) return reject(this.#end.error);
      const stop = () => this.#handshaken?.(abortedBy(signal));
      this.#handshaken = (error) => {
        this.#handshaken = null;
        signal.removeEventListener("abort", stop);
        if (error) reject(error);
        else resolve(undefined);
      };
      signal.addEventListener("abort", stop);
      this.#transport?.send(HANDSHAKE);
    });
  }

  /**
   * Raises ParleyError: what the server says, or `network` when the connection ends, `timeout`, `aborted`.
   * @param {string} method
   * @param {any[]} args
   * @param {AbortSignal} [signal] ends the waiting, not what the server does
   * @param {number} [limit] ms
   * @returns {Promise<any>}
   */
  invoke(method, args, signal, limit = this.#settings.timing.call) {
    return new Promise((resolve, reject) => {
      if (this.#end) return reject(new ParleyError("network", "The connection was lost."));
      if (signal?.aborted) return reject(abortedBy(signal));
      const id = String(++this.#lastId);
      const settle = (/** @type {() => void} */ how) => {
        if (!this.#calls.delete(id)) return;
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        how();
      };
      const abort = () => settle(() => reject(abortedBy(signal)));
      const timer = setTimeout(
        () => settle(() => reject(new ParleyError("timeout", `The server did not answer ${method} in time.`))),
        limit,
      );
      signal?.addEventListener("abort", abort);
      this.#calls.set(id, {
        resolve: (result) => settle(() => resolve(result)),
        reject: (error) => settle(() => reject(error)),
      });
      this.#transport?.send(encode({ type: INVOCATION, invocationId: id, target: method, arguments: args }));
    });
  }

  /** Ends it in good order. */
  close() {
    if (this.#end) return;
    this.#transport?.send(encode({ type: CLOSE }));
    this.#over({ error: new ParleyError("closed", "The connection was closed.") });
  }

  /** @param {ParleyError} error Ends it as if it were lost. */
  lose(error) {
    this.#over({ error });
  }

  /** @param {string} text */
  #receive(text) {
    if (this.#end) return;
    this.#heardAt = Date.now();
    try {
      for (const message of text ? decode(text) : []) {
        if (this.#end) return;
        if (this.#handshaken) this.#handshaken(message.error ? errorOfHub(message.error) : null);
        else if (message.type === INVOCATION && message.target) this.#onEvent(message.target, message.arguments ?? []);
        else if (message.type === COMPLETION) this.#complete(message);
        else if (message.type === CLOSE) this.#closedBy(message);
      }
    } catch (error) {
      this.#over({ error: asParleyError(error) }); // to pass over what is not understood could hide a message
    }
  }

  /** @param {import("./protocol.js").HubMessage} message */
  #complete({ invocationId, error, result }) {
    const call = this.#calls.get(invocationId ?? "");
    if (typeof error === "string") call?.reject(errorOfHub(error));
    else call?.resolve(result ?? null);
  }

  /** @param {import("./protocol.js").HubMessage} message */
  #closedBy({ error, allowReconnect }) {
    const known = error ? errorOfHub(error) : new ParleyError("network", "The server has ended the connection.");
    this.#over({ error: known, isFinal: Boolean(error) && !allowReconnect, isDrain: known.code === "draining" });
  }

  #tick() {
    const { ping, silence } = this.#settings.timing;
    const own = this.#transport?.silence;
    if (Math.abs(Date.now() - this.#heardAt) > (own ?? silence)) this.lose(new ParleyError("network", "The server is silent."));
    else if (own === undefined) this.#ping(ping);
  }

  /** @param {number} period */
  #ping(period) {
    if (Math.abs(Date.now() - this.#pingedAt) < period * 0.9) return;
    this.#pingedAt = Date.now();
    this.#transport?.send(encode({ type: PING }));
  }

  /** @param {End} end */
  #over(end) {
    if (this.#end) return;
    this.#end = end;
    clearInterval(this.#timer);
    this.#transport?.close();
    this.#handshaken?.(end.error);
    const lost = new ParleyError("network", "The connection was lost.", { cause: end.error });
    for (const call of [...this.#calls.values()]) call.reject(lost);
    if (this.#timer !== undefined) this.#onEnd(end);
  }
}
