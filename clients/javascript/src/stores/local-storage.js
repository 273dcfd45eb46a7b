/**
 * A store in the browser's `localStorage`: small (5 MB for all of an origin) and simple.
 * @module
 */

export class LocalStorageStore {
  #prefix;
  #storage;

  /**
   * @param {string} [name] another one for each account that may sign in here
   * @param {Storage} [storage]
   */
  constructor(name = "parley", storage = globalThis.localStorage) {
    this.#prefix = `${name}/`;
    this.#storage = storage;
    this.scope = `local/${name}`;
  }

  async load() {
    /** @type {Map<string, unknown>} */
    const found = new Map();
    for (const key of this.#keys()) found.set(key.slice(this.#prefix.length), JSON.parse(this.#storage.getItem(key) ?? "null"));
    return found;
  }

  /** @param {Map<string, unknown>} changes */
  async write(changes) {
    /** @type {[string, string | null][]} */
    const before = [];
    try {
      for (const [key, value] of changes) {
        const name = this.#prefix + key;
        before.push([name, this.#storage.getItem(name)]);
        if (value === null) this.#storage.removeItem(name);
        else this.#storage.setItem(name, JSON.stringify(value));
      }
    } catch (error) {
      // Full. What was there fitted before.
      for (const [name, text] of before.reverse()) {
        if (text === null) this.#storage.removeItem(name);
        else this.#storage.setItem(name, text);
      }
      throw error;
    }
  }

  async clear() {
    for (const key of this.#keys()) this.#storage.removeItem(key);
  }

  #keys() {
    return Array.from({ length: this.#storage.length }, (_, index) => this.#storage.key(index) ?? "").filter((key) =>
      key.startsWith(this.#prefix),
    );
  }
}
