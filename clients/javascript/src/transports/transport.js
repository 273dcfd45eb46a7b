/**
 * What a transport is: it carries whole hub messages as text, in order, until it ends, once.
 * @module
 */

/**
 * @typedef {object} Way
 * @property {string} address with the connection token
 * @property {() => Promise<string>} token
 * @property {typeof fetch} fetch
 * @property {typeof WebSocket} [WebSocket]
 * @property {number} within ms in which a request is answered
 * @property {AbortSignal} signal ends the attempt to open it, and nothing afterwards
 * @property {(text: string) => void} onText called with "" for a sign of life
 * @property {(error: import("../errors.js").ParleyError) => void} onEnd not called after `close`
 *
 * @typedef {object} Transport
 * @property {(text: string) => void} send What cannot be sent ends the transport.
 * @property {() => void} close
 * @property {number} [silence] ms after which it is given up, where it is not the usual time; then it needs no pings
 */

export {};
