/**
 * Hub messages in the answers to one GET after another.
 * @module
 */
import { ParleyError, asParleyError, errorOfAnswer } from "../errors.js";
import { linked } from "../waiting.js";
import { Posting, authorized } from "./posting.js";

const POLL = 120_000; // ms; the server answers within 90 s

/**
 * @param {import("./transport.js").Way} way
 * @returns {Promise<import("./transport.js").Transport>}
 */
export async function openLongPolling(way) {
  const { address, token, fetch, signal, onText, onEnd } = way;
  const life = new AbortController();
  let isOver = false;
  const end = (/** @type {ParleyError} */ error) => {
    if (isOver) return;
    isOver = true;
    life.abort();
    onEnd(error);
  };
  const poll = async (/** @type {AbortSignal | undefined} */ opening) => {
    const limit = linked(POLL, life.signal, opening);
    try {
      const headers = await authorized(token);
      const response = await fetch(address, { headers, signal: limit.signal, cache: "no-store" });
      if (!response.ok) throw await errorOfAnswer(response);
      if (response.status === 204) throw new ParleyError("network", "The server has ended the connection.");
      return await response.text();
    } catch (error) {
      throw asParleyError(error);
    } finally {
      limit.release();
    }
  };
  await poll(signal); // it begins the connection, and is answered at once
  void read();
  const posting = new Posting(way, life.signal, end);
  return {
    silence: POLL,
    send: (text) => posting.send(text),
    close() {
      if (isOver) return;
      isOver = true;
      life.abort();
      void leave();
    },
  };

  async function read() {
    try {
      while (!isOver) {
        const text = await poll(undefined);
        if (!isOver) onText(text);
      }
    } catch (error) {
      end(asParleyError(error));
    }
  }

  async function leave() {
    try {
      await fetch(address, { method: "DELETE", headers: await authorized(token), keepalive: true });
    } catch {
      // the server notices by itself that nothing polls
    }
  }
}
