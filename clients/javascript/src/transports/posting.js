/**
 * The client's half of Server-Sent Events and long polling: one POST after another, each with all that has gathered.
 * @module
 */
import { asParleyError, errorOfAnswer } from "../errors.js";

/** @param {() => Promise<string>} token */
export async function authorized(token) {
  return { Authorization: `Bearer ${await token()}` };
}

export class Posting {
  #gathered = "";
  #isPosting = false;
  #way;
  #end;
  #signal;

  /**
   * @param {import("./transport.js").Way} way
   * @param {AbortSignal} signal
   * @param {(error: import("../errors.js").ParleyError) => void} end
   */
  constructor(way, signal, end) {
    this.#way = way;
    this.#signal = signal;
    this.#end = end;
  }

  /** @param {string} text */
  send(text) {
    this.#gathered += text;
    if (!this.#isPosting) void this.#post();
  }

  async #post() {
    const { address, token, fetch } = this.#way;
    this.#isPosting = true;
    try {
      while (this.#gathered && !this.#signal.aborted) {
        const body = this.#gathered;
        this.#gathered = "";
        const headers = { "Content-Type": "text/plain;charset=UTF-8", ...(await authorized(token)) };
        const response = await fetch(address, { method: "POST", headers, body, signal: this.#signal });
        if (!response.ok) throw await errorOfAnswer(response);
        await response.text();
      }
    } catch (error) {
      this.#end(asParleyError(error));
    } finally {
      this.#isPosting = false;
    }
  }
}
