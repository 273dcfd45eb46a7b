/**
 * Hub messages in the answers to one GET after another.
 * @module
 */
import { openOverHttp } from "./http.js";

const POLL = 120_000; // ms; the server answers within 90 s

/**
 * @param {import("./transport.js").Way} way
 * @returns {Promise<import("./transport.js").Transport>}
 */
export function openLongPolling(way) {
  return openOverHttp(
    way,
    async (ask) => {
      /** Returns null when the server has ended the connection. */
      const poll = () => ask({}, (response) => (response.status === 204 ? null : response.text()), POLL);
      await poll(); // it begins the connection, and is answered at once
      return async (isOver) => {
        for (let text; (text = await poll()) !== null && !isOver(); ) way.onText(text);
      };
    },
    POLL,
  );
}
