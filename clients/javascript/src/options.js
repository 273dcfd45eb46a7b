/**
 * What `Parley.connect` takes, and the values that are taken for what is left out.
 * @module
 */
import { ParleyError } from "./errors.js";

/**
 * @typedef {object} Timing times in ms
 * @property {number} minPause the first pause between two attempts, at most
 * @property {number} maxPause the longest
 * @property {number} call within which a call is answered
 * @property {number} open within which a connection is made
 * @property {number} ping between two pings
 * @property {number} silence after which a connection is given up
 * @property {number} gather for which changes are gathered before they are written to the store
 * @property {number} delivered between two reports of what was delivered
 * @property {number} typing between two reports that the user types
 * @property {number} recent for which sent messages are kept, to be sent again when the server loses them
 */

/**
 * @typedef {"websocket" | "sse" | "polling"} TransportName
 *
 * @typedef {object} Options
 * @property {string | URL} url of the server, without `/hubs/chat`
 * @property {() => string | Promise<string>} token gives an access token that is good now. Called at the start, before
 *   the last one ends, and when it was refused.
 * @property {import("./stores/store.js").Store} [store] memory when left out
 * @property {AbortSignal} [signal] closes the chat
 * @property {(detail: import("./chat.js").ChatEvents["state"]) => void} [onState] hears of each event `state`, also
 *   while `connect` waits
 * @property {typeof fetch} [fetch]
 * @property {typeof WebSocket} [WebSocket] the global one when left out; where there is none, the other transports are used
 * @property {TransportName[]} [transports] in the order in which they are tried
 * @property {number} [keep] the newest messages of each conversation that the store keeps (100)
 * @property {boolean} [markDelivered] whether what arrives is marked as delivered by itself (true)
 * @property {Partial<Timing>} [timing]
 */

/** @type {Timing} */
const TIMING = {
  minPause: 500,
  maxPause: 30_000,
  call: 30_000,
  open: 15_000,
  ping: 15_000,
  silence: 30_000,
  gather: 250,
  delivered: 1_000,
  typing: 3_000,
  recent: 15 * 60_000,
};

/** @param {Options} options */
export function complete(options) {
  const url = String(options.url).replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(url)) throw new ParleyError("invalid_request", `'${url}' is no URL of a server, such as https://chat.example`);
  const socket = "WebSocket" in options ? options.WebSocket : globalThis.WebSocket;
  /** @type {TransportName[]} */
  const transports = options.transports ?? ["websocket", "sse", "polling"];
  return {
    ...options,
    url,
    fetch: options.fetch ?? /** @type {typeof fetch} */ ((...args) => globalThis.fetch(...args)),
    WebSocket: socket,
    transports: transports.filter((name) => name !== "websocket" || socket),
    keep: options.keep ?? 100,
    markDelivered: options.markDelivered ?? true,
    timing: { ...TIMING, ...options.timing },
  };
}

/** @typedef {ReturnType<typeof complete>} Settings */
