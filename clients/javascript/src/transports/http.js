/**
 * What Server-Sent Events and long polling share: requests with an access token, the client's half as one POST after
 * another, each with all that has gathered, and one end.
 * @module
 */
import { ParleyError, asParleyError, errorOfAnswer } from "../errors.js";
import { linked } from "../waiting.js";

/**
 * @typedef {<Result>(init: RequestInit, use: (response: Response) => Promise<Result> | Result, limit: number | null) => Promise<Result>} Ask
 * Makes one request. It ends with the transport, and when it is not answered in `limit` ms.
 */

/**
 * @param {import("./transport.js").Way} way
 * @param {(ask: Ask) => Promise<(isOver: () => boolean) => Promise<void>>} begin Returns what then reads until the end.
 * @param {number} [silence]
 * @returns {Promise<import("./transport.js").Transport>}
 */
export async function openOverHttp({ address, token, fetch, signal, within, onEnd }, begin, silence) {
  const life = new AbortController();
  let isOver = false;
  let isPosting = false;
  let gathered = "";
  const stop = () => {
    isOver = true;
    life.abort();
  };
  /** @param {unknown} error */
  const end = (error) => {
    if (isOver) return;
    stop();
    onEnd(asParleyError(error));
  };
  /** @type {Ask} */
  const ask = async (init, use, limit) => {
    const own = limit === null ? null : linked(limit, life.signal);
    try {
      const headers = { ...init.headers, Authorization: `Bearer ${await token()}` };
      const response = await fetch(address, { cache: "no-store", ...init, headers, signal: own?.signal ?? life.signal });
      if (!response.ok) throw await errorOfAnswer(response);
      return await use(response);
    } catch (error) {
      throw own?.isLate ? new ParleyError("timeout", "The server did not answer in time.") : error;
    } finally {
      own?.release();
    }
  };
  const post = async () => {
    isPosting = true;
    try {
      while (gathered && !isOver) {
        const body = gathered;
        gathered = "";
        const headers = { "Content-Type": "text/plain;charset=UTF-8" };
        // An answer that does not come would keep all that is sent later: the connection may be half open.
        await ask({ method: "POST", headers, body }, (response) => response.text(), within);
      }
    } catch (error) {
      end(error);
    } finally {
      isPosting = false;
    }
  };

  signal.addEventListener("abort", stop);
  let read;
  try {
    read = await begin(ask);
  } catch (error) {
    throw asParleyError(error);
  } finally {
    signal.removeEventListener("abort", stop);
  }
  read(() => isOver).then(() => end(new ParleyError("network", "The server has ended the connection.")), end);
  return {
    ...(silence === undefined ? {} : { silence }),
    send(text) {
      gathered += text;
      if (!isPosting) void post();
    },
    close() {
      if (isOver) return;
      stop();
      if (silence !== undefined) void leave();
    },
  };

  /** Of a connection that is no request which ends. */
  async function leave() {
    try {
      await fetch(address, { method: "DELETE", headers: { Authorization: `Bearer ${await token()}` }, keepalive: true });
    } catch {
      // the server notices by itself that nothing polls
    }
  }
}
