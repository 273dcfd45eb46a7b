/**
 * Hub messages over one WebSocket.
 * @module
 */
import { ParleyError, abortedBy } from "../errors.js";

/**
 * @param {import("./transport.js").Way} way
 * @returns {Promise<import("./transport.js").Transport>}
 */
export function openWebSocket({ address, WebSocket, signal, onText, onEnd }) {
  return new Promise((resolve, reject) => {
    if (!WebSocket) return reject(new ParleyError("network", "There is no WebSocket here."));
    if (signal.aborted) return reject(abortedBy(signal));
    const socket = new WebSocket(address.replace(/^http/, "ws"));
    let isOpen = false;
    let isOver = false;
    const end = (/** @type {string} */ why) => {
      if (isOver) return;
      isOver = true;
      signal.removeEventListener("abort", abort);
      const error = new ParleyError("network", why);
      if (isOpen) onEnd(error);
      else reject(error);
    };
    const abort = () => {
      socket.close();
      end("The connection was not made in time.");
    };
    signal.addEventListener("abort", abort);
    socket.onopen = () => {
      if (isOver) return socket.close();
      isOpen = true;
      signal.removeEventListener("abort", abort);
      resolve({
        send(text) {
          if (socket.readyState === WebSocket.OPEN) socket.send(text);
        },
        close() {
          isOver = true;
          socket.close();
        },
      });
    };
    socket.onmessage = ({ data }) => {
      if (!isOver) onText(String(data));
    };
    socket.onerror = () => end("The WebSocket failed.");
    socket.onclose = () => end("The connection was lost.");
  });
}
