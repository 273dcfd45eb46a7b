/**
 * The SignalR hub protocol in JSON: how messages look on the wire. Touches no network.
 * @module
 */

const END = "\x1e";

/** Types of hub messages. */
export const INVOCATION = 1;
export const COMPLETION = 3;
export const PING = 6;
export const CLOSE = 7;

/**
 * @typedef {{type?: number, invocationId?: string, target?: string, arguments?: any[], result?: any, error?: string,
 *   allowReconnect?: boolean}} HubMessage
 */

export const HANDSHAKE = encode({ protocol: "json", version: 1 });

/** @param {object} message */
export function encode(message) {
  return JSON.stringify(message) + END;
}

/**
 * Whole messages, as transports deliver them. Raises an Error when the text is none.
 * @param {string} text
 * @returns {HubMessage[]}
 */
export function decode(text) {
  const parts = text.split(END);
  if (parts.pop() !== "") throw new Error("A hub message has no end.");
  return parts.map((part) => JSON.parse(part));
}
