/**
 * A store in one file, for Node, Deno and Bun. Written anew as a whole, beside it, and then renamed: what is there is
 * always whole. The file is one process's.
 * @module
 */

/**
 * @typedef {object} Files what is used of `node:fs/promises`
 * @property {(path: string, encoding: "utf8") => Promise<string>} readFile
 * @property {(path: string, flags: string, mode: number) => Promise<{writeFile(text: string): Promise<void>,
 *   sync(): Promise<void>, close(): Promise<void>}>} open
 * @property {(from: string, to: string) => Promise<void>} rename
 * @property {(path: string, options: {force: boolean}) => Promise<void>} rm
 */

export class FileStore {
  #path;
  /** @type {Map<string, unknown> | null} */
  #entries = null;
  #writing = Promise.resolve();

  /** @param {string} path */
  constructor(path) {
    this.#path = path;
  }

  async load() {
    let text;
    try {
      text = await (await files()).readFile(this.#path, "utf8");
    } catch (error) {
      if (/** @type {{code?: string}} */ (error).code !== "ENOENT") throw error;
      text = "{}";
    }
    this.#entries = new Map(Object.entries(JSON.parse(text)));
    return new Map(this.#entries);
  }

  /** @param {Map<string, unknown>} changes */
  async write(changes) {
    const entries = new Map(this.#entries);
    for (const [key, value] of changes) {
      if (value === null) entries.delete(key);
      else entries.set(key, value);
    }
    const text = JSON.stringify(Object.fromEntries(entries));
    this.#entries = entries;
    return this.#next(async () => {
      const { open, rename } = await files();
      const beside = `${this.#path}.new`;
      const file = await open(beside, "w", 0o600);
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(beside, this.#path);
    });
  }

  clear() {
    this.#entries = new Map();
    return this.#next(async () => (await files()).rm(this.#path, { force: true }));
  }

  /**
   * One at a time.
   * @param {() => Promise<void>} work
   */
  #next(work) {
    const done = this.#writing.then(work);
    this.#writing = done.catch(() => {});
    return done;
  }
}

/** @returns {Promise<Files>} loaded late, so that a browser can import this module */
function files() {
  const name = "node:fs/promises";
  return import(name);
}
