/**
 * A store that lasts as long as its object: for tests, and where nothing may be left behind.
 * @module
 */

/** @implements {Required<Pick<import("./store.js").Store, "load" | "write" | "clear">>} */
export class MemoryStore {
  /** @type {Map<string, string>} as text, so that nothing is shared with who wrote it */
  #entries = new Map();

  async load() {
    return new Map([...this.#entries].map(([key, text]) => [key, JSON.parse(text)]));
  }

  /** @param {Map<string, unknown>} changes */
  async write(changes) {
    const texts = [...changes].map(([key, value]) => /** @type {[string, string]} */ ([key, JSON.stringify(value)]));
    for (const [key, text] of texts) {
      if (text === "null") this.#entries.delete(key);
      else this.#entries.set(key, text);
    }
  }

  async clear() {
    this.#entries.clear();
  }
}
