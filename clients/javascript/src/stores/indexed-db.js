/**
 * A store in the browser's IndexedDB: as large as the disk allows, written in transactions.
 * @module
 */

const ENTRIES = "entries";

export class IndexedDBStore {
  #name;
  #factory;
  /** @type {Promise<IDBDatabase> | null} */
  #database = null;

  /**
   * @param {string} [name] another one for each account that may sign in here
   * @param {IDBFactory} [factory]
   */
  constructor(name = "parley", factory = globalThis.indexedDB) {
    this.#name = name;
    this.#factory = factory;
    this.scope = `indexed/${name}`;
  }

  async load() {
    return this.#transaction("readonly", (entries) => {
      const keys = entries.getAllKeys();
      const values = entries.getAll();
      return () => new Map(keys.result.map((key, index) => [String(key), /** @type {unknown} */ (values.result[index])]));
    });
  }

  /** @param {Map<string, unknown>} changes */
  async write(changes) {
    await this.#transaction("readwrite", (entries) => {
      for (const [key, value] of changes) {
        if (value === null) entries.delete(key);
        else entries.put(value, key);
      }
      return () => undefined;
    });
  }

  async clear() {
    try {
      await this.#transaction("readwrite", (entries) => (entries.clear(), () => undefined));
    } catch {
      await this.#discard(); // it is of another version, or is none of ours
    }
  }

  /**
   * @template Result
   * @param {IDBTransactionMode} mode
   * @param {(entries: IDBObjectStore) => () => Result} use
   * @returns {Promise<Result>}
   */
  async #transaction(mode, use) {
    const database = await (this.#database ??= this.#open());
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(ENTRIES, mode);
      try {
        const result = use(transaction.objectStore(ENTRIES));
        transaction.oncomplete = () => resolve(result());
        transaction.onabort = () => reject(transaction.error ?? new Error("The transaction was aborted."));
        transaction.commit?.(); // at once: a page that is closed now has written
      } catch (error) {
        transaction.abort(); // else what came before it would be written
        reject(error);
      }
    });
  }

  /** @returns {Promise<void>} */
  async #discard() {
    (await this.#database?.catch(() => null))?.close();
    this.#database = null;
    return new Promise((resolve, reject) => {
      const deleting = this.#factory.deleteDatabase(this.#name);
      deleting.onsuccess = () => resolve();
      deleting.onerror = () => reject(deleting.error);
    });
  }

  /** @returns {Promise<IDBDatabase>} */
  #open() {
    return new Promise((resolve, reject) => {
      const forget = () => (this.#database = null);
      const opening = this.#factory.open(this.#name, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore(ENTRIES);
      opening.onerror = () => (forget(), reject(opening.error));
      opening.onblocked = () => (forget(), reject(new Error("Another tab keeps the database from being opened.")));
      opening.onsuccess = () => {
        const database = opening.result;
        database.onversionchange = () => (forget(), database.close());
        database.onclose = forget;
        resolve(database);
      };
    });
  }
}
