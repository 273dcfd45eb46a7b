/**
 * Hub messages as Server-Sent Events. The stream is read with `fetch`, which can send an access token.
 * @module
 */
import { ParleyError } from "../errors.js";
import { openOverHttp } from "./http.js";

/**
 * @param {import("./transport.js").Way} way
 * @returns {Promise<import("./transport.js").Transport>}
 */
export function openServerSentEvents(way) {
  return openOverHttp(way, async (ask) => {
    const reader = await ask({ headers: { Accept: "text/event-stream" } }, ({ body }) => body?.getReader(), null);
    if (!reader) throw new ParleyError("network", "Answers cannot be read as they come.");
    return async (isOver) => {
      const decoder = new TextDecoder();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) if (line.startsWith("data:") && !isOver()) way.onText(line.slice(5).trim());
      }
    };
  });
}
