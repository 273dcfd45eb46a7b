/**
 * REST: requests with an access token, with problems as errors, repeated where that is safe.
 * @module
 */
import { ParleyError, abortedBy, asParleyError, errorOfAnswer } from "./errors.js";
import { Backoff, bounded, linked, sleep } from "./waiting.js";

/**
 * @typedef {object} RequestOptions
 * @property {Record<string, string | number | null | undefined>} [query]
 * @property {unknown} [body] sent as JSON
 * @property {BodyInit} [content] sent as it is
 * @property {Record<string, string>} [headers]
 * @property {string} [key] makes a POST safe to repeat
 * @property {AbortSignal} [signal]
 * @property {number} [attempts] while errors pass
 * @property {number | null} [timeoutMs] of one attempt
 * @property {boolean} [isBlob] what is answered is no text
 */

export class Rest {
  #tokens;
  #fetch;
  #timing;

  /**
   * @param {string} url of the server
   * @param {import("./tokens.js").Tokens} tokens
   * @param {typeof globalThis.fetch} fetch
   * @param {import("./options.js").Timing} timing
   */
  constructor(url, tokens, fetch, timing) {
    this.url = url;
    this.#tokens = tokens;
    this.#fetch = fetch;
    this.#timing = timing;
  }

  /**
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  get(path, options) {
    return this.request("GET", path, options);
  }

  /**
   * All pages of a list.
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  async all(path, { query, ...options } = {}) {
    const found = [];
    for (let cursor = null; ; ) {
      const page = await this.get(path, { query: { limit: 200, ...query, cursor }, ...options });
      found.push(...page.items);
      if ((cursor = page.next) === null) return found;
    }
  }

  /**
   * Returns the JSON of the answer, or null when it has none.
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   */
  async request(method, path, options = {}) {
    const pauses = new Backoff(this.#timing);
    const attempts = method === "POST" && !options.key ? 1 : (options.attempts ?? 4);
    for (let attempt = 1; ; attempt++) {
      try {
        const { text } = await this.send(method, path, options);
        return text ? JSON.parse(text) : null;
      } catch (error) {
        const known = asParleyError(error);
        if (options.signal?.aborted) throw abortedBy(options.signal);
        if (!known.isPassing || attempt >= attempts) throw known;
        await sleep(pauses.next(known.retryAfterMs), options.signal);
      }
    }
  }

  /**
   * What is no JSON.
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<Blob>}
   */
  async blob(path, options) {
    const { blob } = await this.send("GET", path, { ...options, isBlob: true, timeoutMs: null });
    return /** @type {Blob} */ (blob);
  }

  /**
   * One attempt, and a second one when the access token is not taken any more.
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<{status: number, text: string, blob?: Blob}>} of an answer that is good
   */
  async send(method, path, options = {}) {
    const token = await this.token(undefined, options.signal);
    try {
      return await this.#attempt(method, path, options, token);
    } catch (error) {
      if (!(error instanceof ParleyError) || error.status !== 401) throw error;
    }
    return this.#attempt(method, path, options, await this.token(token, options.signal));
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} options
   * @param {string} token
   */
  async #attempt(method, path, options, token) {
    const { body, content, key, signal, timeoutMs = this.#timing.call } = options;
    const limit = linked(timeoutMs, signal);
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json", Authorization: `Bearer ${token}`, ...options.headers };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (key) headers["Idempotency-Key"] = key;
    try {
      const sent = body === undefined ? content : JSON.stringify(body);
      const response = await this.#fetch(this.address(path, options.query), {
        method,
        headers,
        body: sent ?? null,
        signal: limit.signal,
        cache: "no-store",
      });
      if (!response.ok) throw await errorOfAnswer(response);
      const { status } = response;
      return options.isBlob ? { status, text: "", blob: await response.blob() } : { status, text: await response.text() };
    } catch (error) {
      if (signal?.aborted) throw abortedBy(signal);
      if (limit.isLate) throw new ParleyError("timeout", "The server did not answer in time.");
      throw asParleyError(error);
    } finally {
      limit.release();
    }
  }

  /**
   * Put a file where a signed link says, without an access token.
   * @param {string} method
   * @param {string} url
   * @param {Record<string, string>} headers
   * @param {Blob} body
   * @param {AbortSignal} [signal]
   */
  async put(method, url, headers, body, signal) {
    try {
      const response = await this.#fetch(url, { method, headers, body, signal: signal ?? null });
      if (!response.ok) throw await errorOfAnswer(response);
    } catch (error) {
      throw signal?.aborted ? abortedBy(signal) : asParleyError(error);
    }
  }

  /**
   * @param {string} path
   * @param {RequestOptions["query"]} [query]
   */
  address(path, query = {}) {
    const found = new URL(this.url + path);
    for (const [name, value] of Object.entries(query)) if (value != null) found.searchParams.set(name, String(value));
    return found.href;
  }

  /**
   * @param {string} [refused] a token that the server does not take
   * @param {AbortSignal} [signal]
   */
  token(refused, signal) {
    return bounded(this.#tokens.get(refused), this.#timing.call, signal);
  }
}
