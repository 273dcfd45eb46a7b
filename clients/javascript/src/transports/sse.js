/**
 * Hub messages as Server-Sent Events. The stream is read with `fetch`, which can send an access token.
 * @module
 */
import { ParleyError, asParleyError, errorOfAnswer } from "../errors.js";
import { Posting, authorized } from "./posting.js";

/**
 * @param {import("./transport.js").Way} way
 * @returns {Promise<import("./transport.js").Transport>}
 */
export async function openServerSentEvents(way) {
  const { address, token, fetch, signal, onText, onEnd } = way;
  const life = new AbortController();
  const abort = () => life.abort();
  let isOver = false;
  const end = (/** @type {ParleyError} */ error) => {
    if (isOver) return;
    isOver = true;
    life.abort();
    onEnd(error);
  };
  signal.addEventListener("abort", abort);
  /** @type {ReadableStreamDefaultReader<Uint8Array>} */
  let reader;
  try {
    const headers = { Accept: "text/event-stream", ...(await authorized(token)) };
    const response = await fetch(address, { headers, signal: life.signal, cache: "no-store" });
    if (!response.ok) throw await errorOfAnswer(response);
    if (!response.body) throw new ParleyError("network", "Answers cannot be read as they come.");
    reader = response.body.getReader();
  } catch (error) {
    throw asParleyError(error);
  } finally {
    signal.removeEventListener("abort", abort);
  }
  void read();
  const posting = new Posting(way, life.signal, end);
  return {
    send: (text) => posting.send(text),
    close() {
      isOver = true;
      life.abort();
    },
  };

  async function read() {
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) if (line.startsWith("data:") && !isOver) onText(line.slice(5).trim());
      }
      end(new ParleyError("network", "The connection was lost."));
    } catch (error) {
      end(asParleyError(error));
    }
  }
}
